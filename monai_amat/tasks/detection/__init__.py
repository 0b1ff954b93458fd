"""Object detection with boxes: data, network, loss, metrics, pictures, files."""

from monai_amat.tasks.detection.data.images import list_images
from monai_amat.tasks.detection.data.voc import BCCD_CLASSES, load_voc
from monai_amat.tasks.detection.drawing import draw_boxes
from monai_amat.tasks.detection.loss.attack_loss import (
    AppearingLoss,
    DetectionAttackLoss,
    MatchedConfidence,
    VanishingLoss,
    WrongClassLoss,
)
from monai_amat.tasks.detection.loss.classic_loss import ClassicYOLOv5Loss
from monai_amat.tasks.detection.loss.detection_loss import DetectionLoss
from monai_amat.tasks.detection.metric import DetectionMetric
from monai_amat.tasks.detection.network.classic_yolov5 import ClassicYOLOv5
from monai_amat.tasks.detection.network.parts import DetectionParts
from monai_amat.tasks.detection.network.yolov5 import YOLOv5, decode_detections
from monai_amat.tasks.detection.phantom import write_cells_phantom
from monai_amat.tasks.detection.pictures import (
    DetectionExample,
    DetectionExamples,
    make_detection_examples,
    plot_detection_examples,
)
from monai_amat.tasks.detection.suite import detection_suite
from monai_amat.tasks.detection.transforms.box_affine import RandAffineBoxesd
from monai_amat.tasks.detection.transforms.box_flip import RandFlipBoxesd
from monai_amat.tasks.detection.transforms.box_targets import BoxTargetsd
from monai_amat.tasks.detection.transforms.colour_jitter import RandColourJitterd
from monai_amat.tasks.detection.transforms.letterbox import Letterboxd
from monai_amat.tasks.detection.transforms.native_boxes import BoxesToNatived
from monai_amat.tasks.detection.transforms.rgb_image import LoadRGBImaged
from monai_amat.tasks.detection.writer import DetectionFilesHandler

__all__ = [
    "BCCD_CLASSES",
    "AppearingLoss",
    "BoxTargetsd",
    "BoxesToNatived",
    "ClassicYOLOv5",
    "ClassicYOLOv5Loss",
    "DetectionAttackLoss",
    "DetectionExample",
    "DetectionExamples",
    "DetectionFilesHandler",
    "DetectionLoss",
    "DetectionMetric",
    "DetectionParts",
    "Letterboxd",
    "LoadRGBImaged",
    "MatchedConfidence",
    "RandAffineBoxesd",
    "RandColourJitterd",
    "RandFlipBoxesd",
    "VanishingLoss",
    "WrongClassLoss",
    "YOLOv5",
    "decode_detections",
    "detection_suite",
    "draw_boxes",
    "list_images",
    "load_voc",
    "make_detection_examples",
    "plot_detection_examples",
    "write_cells_phantom",
]
