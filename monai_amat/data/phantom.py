"""A synthetic Decathlon folder that looks like the hippocampus task, so that everything runs without real data."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

__all__ = ["write_phantom"]

# Raised whenever the same settings would draw other voxels, so that a folder of the old kind is not taken for the new.
_VERSION = 1
_CLASSES = {1: {"0": "background", "1": "Structure"}, 2: {"0": "background", "1": "Anterior", "2": "Posterior"}}


def write_phantom(
    root: str | Path,
    *,
    volumes: int = 25,
    shape: Sequence[int] = (36, 50, 36),
    channels: int = 1,
    classes: int = 2,
    seed: int = 0,
) -> Path:
    """Write a data set of synthetic MR volumes in the Decathlon layout.

    A curved, tapering structure with a head (class 1) and a touching body (class 2) lies tilted across the slices, so
    that about a quarter of them are empty, some cut one class, some both. Around it: tissue of three kinds in irregular
    patches, distractors of the structure's own intensity, a dark cleft along one side, a smooth bias field, and noise.
    Pose, size, contrast, gain and grid differ from volume to volume. No threshold separates the classes.

    The folder appears in one move when it is complete. Writing the same phantom again does nothing.

    Args:
        root: the folder to make.
        volumes: number of volumes.
        shape: mean size ``(x, y, z)`` of the 1 mm grid; each volume differs by up to 6 % along each axis.
        channels: 1 or 2 image channels; two are stored as one 4-D file, the second with another contrast.
        classes: 2 for head and body, 1 for both as one class.
        seed: decides every voxel.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: a setting is out of range.
        FileExistsError: ``root`` holds something other than this very phantom; it is left as it is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantom(f"{folder}/phantom", volumes=2, shape=(12, 16, 12))
        ...     sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        ['dataset.json', 'imagesTr/phantom_000.nii.gz', 'imagesTr/phantom_001.nii.gz',
         'labelsTr/phantom_000.nii.gz', 'labelsTr/phantom_001.nii.gz']
    """
    root = Path(root)
    if volumes < 1 or len(shape) != 3 or min(shape) < 12 or channels not in (1, 2) or classes not in (1, 2):
        raise ValueError(
            "a phantom needs volumes >= 1, a shape of three sizes >= 12, 1 or 2 channels and 1 or 2 classes, found "
            f"volumes={volumes}, shape={tuple(shape)}, channels={channels}, classes={classes}."
        )
    marker = {
        "version": _VERSION,
        "volumes": volumes,
        "shape": [int(size) for size in shape],
        "channels": channels,
        "classes": classes,
        "seed": seed,
    }
    names = [f"phantom_{i:03d}.nii.gz" for i in range(volumes)]
    if _is_complete(root, marker, names):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, since a rename is atomic within one file system only.
    draft = root.parent / f".{root.name}.{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        (draft / "imagesTr").mkdir()
        (draft / "labelsTr").mkdir()
        for i, name in enumerate(names):
            image, label, affine = _volume(np.random.default_rng([seed, i]), shape, channels, classes)
            nib.save(nib.Nifti1Image(image, affine), draft / "imagesTr" / name)
            nib.save(nib.Nifti1Image(label, affine), draft / "labelsTr" / name)
        (draft / "dataset.json").write_text(json.dumps(_description(marker, names), indent=1), encoding="utf-8")
        try:
            draft.rename(root)
        except OSError:  # another process was faster, which is as good if it wrote the same
            if not _is_complete(root, marker, names):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _is_complete(root: Path, marker: dict[str, Any], names: list[str]) -> bool:
    """Whether ``root`` is this phantom; False where there is nothing, an error where there is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = "choose another folder or remove this one"
    try:
        found = json.loads((root / "dataset.json").read_text(encoding="utf-8"))["phantom"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(f"{root}: holds something that is not a phantom; {advice}.") from None
    if found != marker:
        raise FileExistsError(f"{root}: holds a phantom of other settings, {found}, not {marker}; {advice}.")
    files = [f"{part}/{name}" for part in ("imagesTr", "labelsTr") for name in names]
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        raise FileExistsError(f"{root}: holds this phantom but for {missing[0]}; {advice}.")
    return True


def _description(marker: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Content of ``dataset.json``."""
    contrasts = {"0": "MRI"} if marker["channels"] == 1 else {"0": "T1", "1": "T2"}
    return {
        "name": "Phantom",
        "description": "Synthetic MR volumes with a hippocampus-like structure, generated by monai_amat",
        "licence": "Apache-2.0",
        "tensorImageSize": "3D" if marker["channels"] == 1 else "4D",
        "modality": contrasts,
        "labels": _CLASSES[marker["classes"]],
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
        "phantom": marker,
    }


def _volume(
    rng: np.random.Generator, mean_shape: Sequence[int], channels: int, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One volume: image int16 ``(x, y, z)`` or ``(x, y, z, 2)``, label uint8 ``(x, y, z)``, affine ``(4, 4)``."""
    shape = tuple(round(size * rng.uniform(0.94, 1.06)) for size in mean_shape)
    # Coordinates in units of the mean grid, so that a small phantom is a coarse one of the same scene.
    scale = np.asarray(mean_shape) / np.array([36.0, 50.0, 36.0])
    grid = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"), axis=-1) / scale
    line, radius = _structure(rng)
    depth = _tube(grid, line, radius)
    # Raters cut the hippocampus at one coronal plane, whatever its course.
    ahead = grid[..., 1] - line[int(rng.uniform(0.44, 0.54) * len(line)), 1]
    label = np.where(depth < 1, np.where(ahead > 0, 1, min(2, classes)), 0).astype(np.uint8)
    image = _scene(rng, grid, depth, ahead, line[-4], scale, channels)
    affine = np.eye(4)
    affine[:3, 3] = np.round(rng.uniform(-60, 60, size=3), 2)
    return image if channels == 2 else image[..., 0], label, affine


def _structure(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centreline ``(n, 3)`` from tail to head and radius ``(n,)``, in mm around the centre of the grid."""
    t = np.linspace(0, 1, 48)
    length, tilt = rng.uniform(25, 30), rng.uniform(15.5, 19.5)
    bend_x, bend_z = rng.uniform(2.0, 4.5), rng.uniform(-2.5, -0.5)
    arc = 4 * t * (1 - t)
    line = np.stack([bend_x * (arc - 0.5), length * (t - 0.5), tilt * (0.5 - t) + bend_z * (arc - 0.5)], axis=-1)
    angle = rng.normal(0, 0.12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    line = line @ turn.T + rng.uniform(-1, 1, size=3) * (2.5, 1.5, 1.5)
    radius = rng.uniform(4.3, 4.9) + rng.uniform(0.8, 1.6) / (1 + np.exp(-(t - 0.62) / 0.07))
    radius *= np.clip((t + 0.04) / 0.16, 0.45, 1) ** 0.5  # a tapering tail
    return line, radius


def _tube(grid: np.ndarray, line: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Distance ``(x, y, z)`` to the centreline in radii, 1 on the surface."""
    depth = np.full(grid.shape[:-1], np.inf)
    for point, r in zip(line, radius, strict=True):
        np.minimum(depth, np.sqrt((((grid - point) * (1.0, 1.0, 1.15)) ** 2).sum(-1)) / r, out=depth)
    return depth


def _scene(
    rng: np.random.Generator,
    grid: np.ndarray,
    depth: np.ndarray,
    ahead: np.ndarray,
    head: np.ndarray,
    scale: np.ndarray,
    channels: int,
) -> np.ndarray:
    """Grey values int16 ``(x, y, z, channels)``.

    ``depth`` is 1 on the structure's surface, ``ahead`` the mm in front of its cut, ``head`` a point in its head.
    """
    shape = depth.shape
    folds = _texture(rng, shape, 2.6 * scale)
    grey = _soft(0.38 - np.abs(folds - 0.35), 0.12)
    fluid = _soft(-1.6 - folds, 0.12)
    # Distractors: lumps of the structure's own kind, one of them against the head as the amygdala is.
    lumps = np.zeros(shape)
    centres = [head + rng.normal([0, 8.0, 4.0], 1.2), *rng.uniform([-14, -22, -14], [14, 22, 14], size=(3, 3))]
    for centre in centres:
        lumps = np.maximum(lumps, _soft(1 - _lump(grid, centre, rng.uniform(2.5, 5.5, size=3)), 0.12))
    structure = _soft(1 - depth, 0.06)
    shell = _soft(0.25 - np.abs(depth - 1.25), 0.06)
    front = _soft(ahead, 0.8)
    # A dark cleft along one side of the body, a bright rim elsewhere: what tells the two apart under any mirroring.
    cleft = _soft(grid[..., 0] - rng.uniform(-1, 3), 1.0) * (1 - front)
    image = np.empty((*shape, channels))
    for channel in range(channels):
        # White, grey, fluid: bright to dark on the first contrast, dark to bright on the second.
        levels = np.array([0.7, -0.7, -2.1]) * (1 if channel == 0 else -1) * rng.uniform(0.85, 1.15)
        scene = levels[0] + 0.7 * (levels[1] - levels[0]) * grey
        scene = scene * (1 - fluid) + levels[2] * fluid
        scene = scene * (1 - lumps) + levels[1] * lumps
        scene = scene * (1 - shell) + (levels[2] * cleft + levels[0] * (1 - cleft)) * shell
        # The body a little towards fluid: head and body differ, but by less than the tissue around them varies.
        own = levels[1] + rng.normal(0, 0.06) + rng.uniform(0.2, 0.32) * (levels[2] - levels[1]) * (1 - front)
        scene = scene * (1 - structure) + own * structure
        scene = gaussian_filter(scene, 0.55 * scale)
        scene += 0.13 * _texture(rng, shape, 1.3 * scale) + 0.1 * rng.standard_normal(shape)
        bias = np.exp(0.07 * _texture(rng, shape, 14 * scale))
        gain = rng.uniform(60, 160)
        image[..., channel] = np.clip(gain * (4.0 + scene) * bias, 0, None)
    return np.round(image).astype(np.int16)


def _texture(rng: np.random.Generator, shape: tuple[int, ...], sigma: np.ndarray) -> np.ndarray:
    """Correlated noise of mean 0 and standard deviation 1; ``sigma`` in voxels along each axis."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma)
    return (noise - noise.mean()) / noise.std()


def _soft(value: np.ndarray, width: float) -> np.ndarray:
    """Step from 0 to 1 at ``value = 0``, as blurred as ``width``."""
    return 1 / (1 + np.exp(-np.clip(value / width, -50, 50)))


def _lump(grid: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Distance from ``centre`` in radii of an ellipsoid, 1 on its surface."""
    return np.sqrt((((grid - centre) / radii) ** 2).sum(-1))
