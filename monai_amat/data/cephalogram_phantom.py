"""Synthetic radiographs in the cephalometric challenge's layout, so that the landmark task runs without real data."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_amat.data.landmark_files import LANDMARK_NAMES, NativeFrame
from monai_amat.data.skull import FRAME_MM, draw_skull

__all__ = ["write_cephalogram_phantom"]

# Raised whenever the same settings would draw other pixels, so that a folder of the old kind is not taken for the new.
_VERSION = 1
# What one reader differs from the truth by, along each axis; trained doctors differ by some five times as much.
_READER_MM = 0.3
_FEWEST_SHAPE = (60, 48)


def write_cephalogram_phantom(
    root: str | Path, *, images: int = 24, size: Sequence[int] = (480, 387), seed: int = 0
) -> Path:
    """Write a data set of synthetic cephalograms that :func:`~monai_amat.data.cephalograms.load_cephalograms` reads.

    Of the images a sixth each are for validation (IDs from 151) and for testing (from 201), as the paper splits the
    challenge's, and the rest for training (from 1); there is no Test2Data. Two readers mark each landmark of
    :func:`~monai_amat.data.skull.draw_skull`, each with errors of 0.3 mm along either axis. Coordinates are whole
    native pixels of 2400 x 1935 at 0.1 mm, as in the challenge; ``info.json`` says so, since images are stored smaller.

    The folder appears in one move when it is complete. Writing the same phantom again does nothing.

    Args:
        root: the folder to make.
        images: number of images, 3 to 224.
        size: ``(H, W)`` of the stored images, of the shape of 2400 x 1935, 60 x 48 or more.
        seed: decides every pixel; image by image, so that more images of one section begin with the same ones.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: a setting is out of range.
        FileExistsError: ``root`` holds something other than this very phantom; it is left as it is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_cephalogram_phantom(f"{folder}/phantom", images=3, size=(60, 48))
        ...     sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
        ['RawImage/Test1Data/151.png', 'RawImage/Test1Data/201.png', 'RawImage/TrainingData/001.png']
    """
    root = Path(root)
    size = tuple(int(n) for n in size)
    if not 3 <= images <= 224 or len(size) != 2 or not _fits(size):
        raise ValueError(
            "a phantom needs 3 to 224 images and a size (H, W) of 60 x 48 or more, shaped as 2400 x 1935, found "
            f"images={images}, size={size}."
        )
    marker = {"version": _VERSION, "images": images, "size": list(size), "seed": seed}
    later = max(1, images // 6)
    ids = [*range(1, images - 2 * later + 1), *range(151, 151 + later), *range(201, 201 + later)]
    if _is_complete(root, marker, ids):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, since a rename is atomic within one file system only.
    draft = root.parent / f".{root.name}.{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        for number in ids:
            _write_image(draft, number, size, np.random.default_rng([seed, number]))
        (draft / "info.json").write_text(json.dumps(_info(marker)), encoding="utf-8")
        try:
            draft.rename(root)
        except OSError:  # another process was faster, which is as good if it wrote the same
            if not _is_complete(root, marker, ids):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _fits(size: Sequence[int]) -> bool:
    # Rounding to whole pixels changes the shape of the smallest by less.
    return (
        size[0] >= _FEWEST_SHAPE[0]
        and size[1] >= _FEWEST_SHAPE[1]
        and abs(size[1] / size[0] * FRAME_MM[0] / FRAME_MM[1] - 1) <= 0.02
    )


def _files(number: int) -> tuple[str, str, str]:
    """The image of an ID and the two annotations."""
    folder = "TrainingData" if number <= 150 else "Test1Data"
    return (
        f"RawImage/{folder}/{number:03d}.png",
        f"AnnotationsByMD/400_senior/{number:03d}.txt",
        f"AnnotationsByMD/400_junior/{number:03d}.txt",
    )


def _is_complete(root: Path, marker: dict[str, Any], ids: list[int]) -> bool:
    """Whether ``root`` is this phantom; False where there is nothing, an error where there is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = "choose another folder or remove this one"
    try:
        found = json.loads((root / "info.json").read_text(encoding="utf-8"))["phantom"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(f"{root}: holds something that is not a phantom; {advice}.") from None
    if found != marker:
        raise FileExistsError(f"{root}: holds a phantom of other settings, {found}, not {marker}; {advice}.")
    missing = [file for number in ids for file in _files(number) if not (root / file).is_file()]
    if missing:
        raise FileExistsError(f"{root}: holds this phantom but for {missing[0]}; {advice}.")
    return True


def _info(marker: dict[str, Any]) -> dict[str, Any]:
    """Content of ``info.json``."""
    frame = NativeFrame()
    return {
        "native_size_xy": [frame.size[1], frame.size[0]],
        "pixel_spacing_mm": frame.spacing,
        "landmarks": len(LANDMARK_NAMES),
        "description": "Synthetic radiographs with known landmarks, generated by monai_amat",
        "licence": "Apache-2.0",
        "phantom": marker,
    }


def _write_image(root: Path, number: int, size: Sequence[int], rng: np.random.Generator) -> None:
    """One image and what two readers make of it."""
    image, landmarks = draw_skull(rng, size)
    files = [root / file for file in _files(number)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(files[0])
    for file in files[1:]:
        marked = landmarks + rng.normal(0, _READER_MM, size=landmarks.shape)
        # Half a millimetre in is native pixel 4.5: pixel i covers i - 0.5 to i + 0.5.
        native = np.round(marked / NativeFrame().spacing - 0.5).astype(int)
        file.write_text("".join(f"{x},{y}\n" for y, x in native), encoding="utf-8")
