"""Memory for slices: how much they need, and files that are mapped into memory where that is too much."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from monai_amat.tasks.segmentation.data.case import Case
from monai_amat.tasks.segmentation.transforms.slice_plane import slice_axis

__all__ = ["SliceStore", "available_memory", "needed_memory"]

Pair = tuple[torch.Tensor, torch.Tensor]
"""Image and label of a slice."""

_GB = 1e9
_ALIGNED = 64
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

logger = logging.getLogger(__name__)


def needed_memory(cases: Sequence[Case], *, channels: int, slice_step: int, spacing: Sequence[float] | None) -> int:
    """Compute the bytes that the slices of some cases need, from the headers of their images.

    Args:
        cases: the cases; one whose header cannot be read counts as nothing, and fails when it is loaded.
        channels: number of image channels, float32; a label adds one byte per pixel.
        slice_step: only every `slice_step`-th slice counts.
        spacing: in-plane spacing `(H, W)` in mm that slices are resampled to; None for the stored slices.
    """
    total = 0
    for case in cases:
        try:
            volume: Any = nib.load(case.image)
            affine = np.asarray(volume.affine, dtype=np.float64)
            axis = slice_axis(affine)
        except Exception:  # a broken file fails in many ways, and again when it is loaded
            continue
        shape, own = volume.shape[:3], np.linalg.norm(affine[:3, :3], axis=0)
        plane = [i for i in (2, 1, 0) if i != axis]  # H and W, as SlicePlane has them
        scales = (1.0, 1.0) if spacing is None else [own[i] / mm for i, mm in zip(plane, spacing, strict=True)]
        pixels = int(np.prod([max(1, round(shape[i] * scale)) for i, scale in zip(plane, scales, strict=True)]))
        total += -(-shape[axis] // slice_step) * pixels * (4 * channels + 1)
    return total


def available_memory() -> int | None:
    """Bytes that this process may still use, by the machine and its container; None if that is unknown."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    for limit, used in _CGROUPS:
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no container, or one without limit ("max")
            continue
    return max(0, min(found)) if found else None


def _clone(part: torch.Tensor) -> torch.Tensor:
    """Copy a slice, because copying or sending a view of it would copy or send the whole volume."""
    return part.clone(memory_format=torch.contiguous_format)


class SliceStore:
    """Keeps slices in memory, or in files that are mapped into memory, so that the system reads and drops them at will.

    The values are the same in both. A file is removed from its folder as soon as it is mapped, and its space is freed
    when the process ends, whichever way.

    Args:
        needed: bytes that all slices need.
        limit: bytes above which files are used; None for half of the available memory.
        what: name of the slices, for messages.

    Raises:
        OSError: if files are necessary and the folder for temporary files has too little space.
    """

    def __init__(self, needed: int, *, limit: int | None, what: str) -> None:
        if limit is None:
            available = available_memory()
            limit = needed if available is None else available // 2
        self.mapped = needed > limit
        logger.info("%s: the slices need %.1f GB of memory", what, needed / _GB)
        if not self.mapped:
            return
        folder = Path(tempfile.gettempdir())
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OSError(
                f"{what}: the slices need {needed / _GB:.1f} GB, more than the limit of {limit / _GB:.1f} GB of "
                "memory, and "
                f"{folder} has {free / _GB:.1f} GB left for them; set TMPDIR to a folder with more space, or load "
                "fewer "
                "slices (limit, slice_step, spacing)"
            )
        logger.warning(
            "%s: the slices need %.1f GB, more than the limit of %.1f GB of memory; they are read from files in %s",
            *(what, needed / _GB, limit / _GB, folder),
        )

    def keep(self, images: torch.Tensor, labels: torch.Tensor, indices: Sequence[int]) -> list[Pair]:
        """Keep some slices of one volume.

        Args:
            images: `(C, H, W, slices)` float32.
            labels: `(1, H, W, slices)` uint8.
            indices: the slices to keep.

        Returns:
            for each index an image `(C, H, W)` and a label `(1, H, W)`, which share no memory with other slices.
        """
        pairs = ((_clone(images[..., i]), _clone(labels[..., i])) for i in indices)
        return self._mapped(pairs, len(indices)) if self.mapped else list(pairs)

    @staticmethod
    def _mapped(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], count: int) -> list[Pair]:
        found: list[Pair] = []
        with tempfile.TemporaryFile(prefix="monai_amat_slices_") as stream:
            for image, label in pairs:
                content = image.numpy().tobytes() + label.numpy().tobytes()
                stream.write(content + bytes(-len(content) % _ALIGNED))
            stream.flush()
            record = stream.tell() // max(count, 1)
            for i in range(count):
                # Copy on write: a transform that changes a slice in place must not change the file.
                values = np.memmap(stream, np.uint8, "c", offset=i * record, shape=(record,)).view(np.ndarray)
                middle = 4 * image.numel()
                pixels = torch.from_numpy(values[:middle].view(np.float32).reshape(image.shape))
                classes = torch.from_numpy(values[middle : middle + label.numel()].reshape(label.shape))
                found.append((pixels, classes))
        return found
