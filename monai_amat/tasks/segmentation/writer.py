"""Label maps that were found in NIfTI volumes, on disk: a NIfTI file each, on the very grid of its volume."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.utils.enums import CommonKeys

from monai_amat.files import whole_file

__all__ = ["LabelMapFilesHandler"]

# What a header says of a volume's place in the world; the rest is of its grey values, or of its patient.
_PLACE = (
    *("xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)


class LabelMapFilesHandler:
    """Write what an evaluator finds: for `<name>.nii` or `<name>.nii.gz` the file `<name>_pred.nii.gz`.

    MONAI's `SaveImaged` mends most of what it is given: it drops a last axis of one slice, takes volumes of several
    channels for label maps of several, and writes one affine where a header has two. Here the place in the world, both
    matrices, their codes and the unit of length, is copied from the header of the volume's own file.

    Attach it to an evaluator that decollates and whose post-processing leaves label maps on the grid that the file
    stores, as MONAI's `Invertd` does. Files are written whole or not at all, each as soon as its volume is done.

    Args:
        output_dir: where files go; not the folder of the volumes.
        pred_key: labels `(1, x, y, z)` from 0 to 255, a MetaTensor that knows its volume's file.

    Raises:
        KeyError: while running, for an output without `pred_key`.
        ValueError: while running, naming the file: `output_dir` is its folder, it is no NIfTI volume, another of its
            name was written in the same run, or its labels are of another shape or no such numbers.

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

    def __init__(self, output_dir: str | Path, *, pred_key: str = CommonKeys.PRED) -> None:
        self.output_dir = Path(output_dir)
        self.pred_key = str(pred_key)
        self._written: dict[Path, Path] = {}

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)

    def start(self, engine: Any) -> None:
        """Begin a run: files of an earlier one may be written again."""
        self._written = {}

    def write(self, engine: Any) -> None:
        """Write the label map of every volume of the batch."""
        for output in engine.state.output:
            if self.pred_key not in output:
                raise KeyError(
                    f"LabelMapFilesHandler needs {self.pred_key!r} in the output of {sorted(map(str, output))}"
                )
            self._write(output[self.pred_key])

    def _write(self, pred: Any) -> None:
        if not isinstance(pred, MetaTensor) or "filename_or_obj" not in pred.meta:
            raise ValueError(
                f"LabelMapFilesHandler needs a MetaTensor that knows its file, found {type(pred).__name__}"
            )
        file = Path(str(pred.meta["filename_or_obj"]))
        if file.parent.resolve() == self.output_dir.resolve():
            raise ValueError(f"{file}: output_dir is {self.output_dir}, the folder of the volumes; choose another")
        name = re.sub(r"\.nii(\.gz)?$", "", file.name, flags=re.IGNORECASE)
        path = self.output_dir / f"{name}_pred.nii.gz"
        other = self._written.setdefault(path, file)
        if other != file:
            raise ValueError(f"{file}: its label map would be {path}, but {other} has been written to it; rename one")
        volume = nib.load(file)  # the header alone
        if not isinstance(volume, nib.Nifti1Image):  # Nifti2Image is one too
            raise ValueError(f"{file}: is no NIfTI volume, on whose grid alone label maps are written")
        image = _label_map(pred, volume, file)
        with whole_file(path) as stream:
            stream.write(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def _label_map(pred: MetaTensor, volume: nib.Nifti1Image, file: Path) -> nib.Nifti1Image:
    """The labels as an image that lies where the volume lies."""
    shape = tuple(volume.shape[:3])
    if tuple(pred.shape) != (1, *shape):
        raise ValueError(f"{file}: expected a label map {(1, *shape)}, found {tuple(pred.shape)}")
    labels = pred.as_tensor()[0].detach().cpu()
    odd = labels[(labels < 0) | (labels > 255) | (labels != labels.round())]  # not for NaN, which arg-max cannot make
    if len(odd):
        raise ValueError(f"{file}: labels must be whole numbers from 0 to 255, found {float(odd[0]):g}")
    header: Any = type(volume.header)()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["pixdim"][:4] = volume.header["pixdim"][:4]
    for field in _PLACE:
        header[field] = volume.header[field]
    return type(volume)(labels.to(torch.uint8).numpy(), volume.affine, header)
