"""Predicted label maps as files: one NIfTI file per volume, on the grid of the volume."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.utils.enums import CommonKeys

from monai_amat.files import whole_file
from monai_amat.tasks.segmentation.data.pending import InferenceRecord, prediction_file

__all__ = ["LabelMapFilesHandler"]

# Fields of a header for the place of a volume in space; the others describe grey values or the patient.
_PLACE = (
    *("xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)


class LabelMapFilesHandler:
    """Write the label maps of an evaluator: for `<name>.nii` or `<name>.nii.gz` the file `<name>_pred.nii.gz`.

    `SaveImaged` of MONAI drops a last axis of one slice, accepts several channels as a label map, and writes one affine
    where a header has two. This handler copies the place in space (both matrices, their codes, and the unit of length)
    from the header of the volume.

    Attach it to an evaluator that decollates, with a post-processing that returns label maps on the stored grid of the
    file, as `Invertd` of MONAI does. A file is written completely or not at all, as soon as its volume is done.

    Args:
        output_dir: folder of the files; must differ from the folder of the volumes.
        pred_key: labels `(1, x, y, z)` from 0 to 255, a MetaTensor with the file of its volume.
        made_with: what the predictions depend on, as JSON values; with it, `inference.json` records the finished
            volumes, so that `pending_volumes` leaves them out after a broken run.

    Raises:
        KeyError: during the run, if an output has no `pred_key`.
        ValueError: during the run, naming the file, if `output_dir` is its folder, it is not a NIfTI volume, another
            volume with its name was written in the same run, or its labels have another shape or other values.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> folder = Path(tempfile.mkdtemp())
        >>> nib.save(nib.Nifti1Image(np.ones((4, 3, 1)), np.diag([1, 1, 5, 1])), folder / "a.nii")
        >>> found = MetaTensor(torch.ones(1, 4, 3, 1), meta={"filename_or_obj": str(folder / "a.nii")})
        >>> state = SimpleNamespace(output=[{"pred": found}])
        >>> LabelMapFilesHandler(folder / "predictions").write(SimpleNamespace(state=state))
        >>> nib.load(folder / "predictions" / "a_pred.nii.gz").shape
        (4, 3, 1)
    """

    def __init__(self, output_dir: str | Path, *, pred_key: str = CommonKeys.PRED, made_with: Any = None) -> None:
        self.output_dir = Path(output_dir)
        self.record = InferenceRecord(output_dir, made_with)
        self.pred_key = str(pred_key)
        self._written: dict[Path, Path] = {}

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Any) -> None:
        """Begin a run; files of an earlier run may be written again."""
        self._written = {}

    def write(self, engine: Any) -> None:
        """Write the label map of every volume of the batch."""
        for output in engine.state.output:
            if self.pred_key not in output:
                raise KeyError(
                    f"LabelMapFilesHandler needs {self.pred_key!r} in the output, got {sorted(map(str, output))}"
                )
            self._write(output[self.pred_key])

    def finish(self, engine: Any) -> None:
        """Remove the record of finished volumes, which only a broken run needs."""
        self.record.clear()

    def _write(self, pred: Any) -> None:
        if not isinstance(pred, MetaTensor) or "filename_or_obj" not in pred.meta:
            raise ValueError(f"LabelMapFilesHandler needs a MetaTensor with its file, got {type(pred).__name__}")
        file = Path(str(pred.meta["filename_or_obj"]))
        if file.parent.resolve() == self.output_dir.resolve():
            raise ValueError(
                f"{file}: output_dir must differ from the folder of the volumes, got {self.output_dir}; choose another"
            )
        path = prediction_file(file, self.output_dir)
        other = self._written.setdefault(path, file)
        if other != file:
            raise ValueError(f"{file}: its label map would replace {path}, that of {other}; rename one of the volumes")
        volume = nib.load(file)  # reads only the header
        if not isinstance(volume, nib.Nifti1Image):  # Nifti2Image is one too
            raise ValueError(
                f"{file}: expected a NIfTI volume, whose grid the label map has, got {type(volume).__name__}; "
                "convert it"
            )
        image = _label_map(pred, volume, file)
        with whole_file(path) as stream:
            stream.write(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
        self.record.add(file)


def _label_map(pred: MetaTensor, volume: nib.Nifti1Image, file: Path) -> nib.Nifti1Image:
    """The labels as an image on the grid of the volume."""
    shape = tuple(volume.shape[:3])
    if tuple(pred.shape) != (1, *shape):
        raise ValueError(f"{file}: expected a label map {(1, *shape)}, got {tuple(pred.shape)}")
    labels = pred.as_tensor()[0].detach().cpu()
    odd = labels[(labels < 0) | (labels > 255) | (labels != labels.round())]  # NaN cannot occur after arg-max
    if len(odd):
        raise ValueError(f"{file}: labels must be whole numbers from 0 to 255, got {float(odd[0]):g}")
    header: Any = type(volume.header)()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["pixdim"][:4] = volume.header["pixdim"][:4]
    for field in _PLACE:
        header[field] = volume.header[field]
    return type(volume)(labels.to(torch.uint8).numpy(), volume.affine, header)
