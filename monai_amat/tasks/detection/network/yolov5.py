"""YOLOv5 of the package ultralytics as a network for the engines and bundles of MONAI."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_amat.checks import check_within
from monai_amat.tasks.detection.network.parts import DetectionParts, check_raw
from monai_amat.tasks.detection.network.pt_weights import load_ultralytics_weights
from monai_amat.tasks.detection.network.quiet_import import from_ultralytics, quietly

__all__ = ["YOLOv5", "decode_detections"]

_MODEL_FILE = "cfg/models/v5/yolov5.yaml"
_LARGEST_STRIDE = 32


class YOLOv5(nn.Module):
    """YOLOv5 as ultralytics builds it today: the layers of YOLOv5 with a head without anchors.

    In training mode it returns what its loss needs, in evaluation mode one tensor of decoded boxes, so that a bundle
    can be verified and exported (by tracing, not by scripting). If evaluation needs the loss, as in a robustness curve,
    use `RawOutputsInferer` as the inferer; it calls `raw`.

    The YOLOv5 of the paper has anchors and an objectness; `ClassicYOLOv5` wraps networks of that kind.

    Args:
        classes: number of classes.
        size: `"n"`, `"s"` (the paper's), `"m"`, `"l"` or `"x"`.
        weights: a `.pt` file that ultralytics wrote, read without running code. For weights that MONAI or this
            package wrote see `monai_amat.engines.load_weights`. If None, weights are drawn from torch's global
            generator.
        trust: run the code in the file. Use it only for a file that is refused otherwise and whose maker you trust.
        transfer: accept a file with other classes, for example the weights for COCO; the class layers stay as drawn.

    Raises:
        FileNotFoundError: if the file does not exist.
        ImportError: if ultralytics is not installed, or has another interface.
        ValueError: if a setting is out of range, or the file is refused or does not fit.

    Example:
        >>> network, image = YOLOv5(classes=3, size="n"), torch.zeros(2, 3, 64, 96)
        >>> {name: tuple(value.shape) for name, value in network.train()(image).items() if name != "feats"}
        {'boxes': (2, 64, 126), 'scores': (2, 3, 126)}
        >>> network.eval()(image).shape
        torch.Size([2, 7, 126])
    """

    def __init__(
        self,
        classes: int,
        size: str = "s",
        weights: str | Path | None = None,
        trust: bool = False,
        transfer: bool = False,
    ) -> None:
        super().__init__()
        check_within("classes", classes, 1)
        config: dict[str, Any] = from_ultralytics("YAML").load(Path(from_ultralytics("ROOT")) / _MODEL_FILE)
        if size not in config["scales"]:
            raise ValueError(f"size must be one of {', '.join(config['scales'])}, got {size!r}")
        config.update(nc=int(classes), scale=size)
        with quietly():
            self.model = from_ultralytics("DetectionModel")(config, ch=3, nc=int(classes), verbose=False)
        self.model.args = copy.copy(from_ultralytics("DEFAULT_CFG"))
        # The head would keep its grid of cells, which may be created in inference mode, and autograd refuses that.
        self.model.model[-1].dynamic = True
        #: The parts that `DetectionLoss` is built from.
        self.parts = DetectionParts(self.model)
        if weights is not None:
            load_ultralytics_weights(self.model, weights, trust=trust, transfer=transfer)

    def forward(self, image: Tensor) -> Any:
        """Predict boxes and classes.

        Args:
            image: `(B, 3, H, W)`, RGB in 0..1; H and W divisible by 32.

        Returns:
            in training mode the output of `raw`; in evaluation mode `(B, 4 + classes, N)` for the N cells of all
            levels: centre x and y, width and height in pixels, and a score in 0..1 per class. See `decode_detections`.
        """
        output = self.model(self._checked(image))
        return self._raw(output) if self.training else output[0]

    def raw(self, image: Tensor) -> dict[str, Any]:
        """Return what the loss needs, in both modes.

        Returns:
            `boxes` `(B, 64, N)`, the distributions of the four sides; `scores` `(B, classes, N)`, logits;
            `feats`, the maps of the levels; only their sizes are used.
        """
        return self._raw(self.model(self._checked(image)))

    def load_foreign_weights(self, path: Path) -> dict[str, Any]:
        """Load a `.pt` file that ultralytics wrote; `load_weights` calls this.

        Returns:
            what the file says about the training: `image_size` and `classes`, each if it is known.
        """
        return load_ultralytics_weights(self.model, path)

    @staticmethod
    def _raw(output: Any) -> dict[str, Any]:
        raw = output[1] if isinstance(output, tuple) else output
        check_raw(raw)
        return raw

    @staticmethod
    def _checked(image: Tensor) -> Tensor:
        if not torch.jit.is_tracing() and any(pixels % _LARGEST_STRIDE for pixels in image.shape[-2:]):
            raise ValueError(
                f"image must have a height and width divisible by {_LARGEST_STRIDE}, got {tuple(image.shape)}; use "
                "Letterboxd"
            )
        return image.as_subclass(Tensor)


def decode_detections(pred: Any, conf: float = 0.25, iou: float = 0.45, max_det: int = 300) -> list[Tensor]:
    """Decode the output in evaluation mode to objects, by the non-maximum suppression of ultralytics per class.

    Args:
        pred: `(B, 4 + classes, N)` of `YOLOv5`, or the output of `DetectionLoss.prediction`.
        conf: smallest score of an object, in 0..1; for mAP use 0.001.
        iou: boxes of one class whose IoU with a better box is larger are dropped.
        max_det: largest number of objects per image; the best are kept.

    Returns:
        for each image `(n, 6)`: x1, y1, x2, y2 in pixels, score and class, best score first.

    Raises:
        ValueError: if a setting is out of range, or the prediction has another form.

    Example:
        >>> pred = torch.zeros(1, 4 + 2, 5)
        >>> pred[0, :, 0] = torch.tensor([20.0, 10, 8, 4, 0.1, 0.9])
        >>> decode_detections(pred)[0]
        tensor([[16.0000,  8.0000, 24.0000, 12.0000,  0.9000,  1.0000]])
    """
    if not isinstance(pred, Tensor) or pred.ndim != 3 or pred.shape[1] < 5:
        found = tuple(pred.shape) if isinstance(pred, Tensor) else type(pred).__name__
        raise ValueError(f"pred must be a tensor (B, 4 + classes, N) of decoded boxes, got {found}")
    check_within("conf", conf, 0, 1)
    check_within("iou", iou, 0, 1)
    check_within("max_det", max_det, 1)
    with torch.no_grad():
        boxes = pred.detach().as_subclass(Tensor).float().clone()  # some versions write into their input
        if boxes.shape[-1] == 6:  # ultralytics takes 6 for rows of finished objects; add an empty cell
            boxes = functional.pad(boxes, (0, 1))
        return from_ultralytics("non_max_suppression")(
            boxes,
            conf_thres=conf,
            iou_thres=iou,
            max_det=max_det,
            # After its time limit, the remaining images would have no objects.
            max_time_img=float("inf"),
        )
