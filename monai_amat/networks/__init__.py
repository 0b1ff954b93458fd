"""Networks of the paper, and their weights on disk."""

from monai_amat.networks.classic_yolov5 import ClassicYOLOv5
from monai_amat.networks.detection_parts import DetectionParts
from monai_amat.networks.multitask_unet import MultiTaskUNet
from monai_amat.networks.nnunet import nnunet_2d, nnunet_features, nnunet_poolings
from monai_amat.networks.vgg19 import VGG19Encoder, load_vgg19
from monai_amat.networks.weights import load_weights, save_weights
from monai_amat.networks.yolov5 import YOLOv5, decode_detections

__all__ = [
    "ClassicYOLOv5",
    "DetectionParts",
    "MultiTaskUNet",
    "VGG19Encoder",
    "YOLOv5",
    "decode_detections",
    "load_vgg19",
    "load_weights",
    "nnunet_2d",
    "nnunet_features",
    "nnunet_poolings",
    "save_weights",
]
