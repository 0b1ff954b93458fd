"""Object detection with boxes: data, network, loss, metrics, pictures, files."""

from monai_amat.tasks.detection.average_iou import AverageIoU
from monai_amat.tasks.detection.classic_loss import ClassicYOLOv5Loss
from monai_amat.tasks.detection.classic_network import ClassicYOLOv5
from monai_amat.tasks.detection.data.voc import BCCD_CLASSES, load_voc, paper_split
from monai_amat.tasks.detection.drawing import draw_boxes
from monai_amat.tasks.detection.loss import DetectionLoss
from monai_amat.tasks.detection.mean_average_precision import MeanAveragePrecision
from monai_amat.tasks.detection.metric import DetectionIndices
from monai_amat.tasks.detection.metric_handlers import AverageIoUHandler, MeanAveragePrecisionHandler
from monai_amat.tasks.detection.network import YOLOv5, decode_detections
from monai_amat.tasks.detection.parts import DetectionParts
from monai_amat.tasks.detection.phantom import write_cells_phantom
from monai_amat.tasks.detection.pictures import (
    DetectionExample,
    DetectionExamples,
    make_detection_examples,
    plot_detection_examples,
)
from monai_amat.tasks.detection.transforms.box_affine import RandAffineBoxesd
from monai_amat.tasks.detection.transforms.box_flip import RandFlipBoxesd
from monai_amat.tasks.detection.transforms.box_targets import BoxTargetsd
from monai_amat.tasks.detection.transforms.colour_jitter import RandColourJitterd
from monai_amat.tasks.detection.transforms.letterbox import Letterboxd, boxes_to_native
from monai_amat.tasks.detection.transforms.native_boxes import BoxesToNatived
from monai_amat.tasks.detection.transforms.rgb_image import LoadRGBImage, LoadRGBImaged
from monai_amat.tasks.detection.writer import DetectionFilesHandler

__all__ = [
    "BCCD_CLASSES",
    "AverageIoU",
    "AverageIoUHandler",
    "BoxTargetsd",
    "BoxesToNatived",
    "ClassicYOLOv5",
    "ClassicYOLOv5Loss",
    "DetectionExample",
    "DetectionExamples",
    "DetectionFilesHandler",
    "DetectionIndices",
    "DetectionLoss",
    "DetectionParts",
    "Letterboxd",
    "LoadRGBImage",
    "LoadRGBImaged",
    "MeanAveragePrecision",
    "MeanAveragePrecisionHandler",
    "RandAffineBoxesd",
    "RandColourJitterd",
    "RandFlipBoxesd",
    "YOLOv5",
    "boxes_to_native",
    "decode_detections",
    "draw_boxes",
    "load_voc",
    "make_detection_examples",
    "paper_split",
    "plot_detection_examples",
    "write_cells_phantom",
]
