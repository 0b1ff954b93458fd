"""The cephalometric landmark data of the ISBI 2015 challenge, in the challenge's own layout."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from monai_amat.tasks.landmarks.data.copies import find_copies
from monai_amat.tasks.landmarks.data.files import LANDMARK_NAMES, NativeFrame, read_frame, read_landmarks

__all__ = ["SPLITS", "Reader", "load_cephalograms"]

Reader = Literal["mean", "senior", "junior"]

SPLITS = {
    "paper": {"train": range(1, 151), "validation": range(151, 201), "test": range(201, 301)},
    "official": {"train": range(1, 151), "test1": range(151, 301), "test2": range(301, 401)},
}
"""IDs of each section; of an image under several IDs that in the last section stays (`load_cephalograms`)."""

_FOLDERS = {"TrainingData": range(1, 151), "Test1Data": range(151, 301), "Test2Data": range(301, 401)}
_READERS = {"mean": ("senior", "junior"), "senior": ("senior",), "junior": ("junior",)}
_ENDINGS = (".bmp", ".jpg", ".jpeg", ".png")
# Rounding changes the shape of a reduced image by less; a crop, or a picture on its side, by more.
_SAME_SHAPE = 0.02

logger = logging.getLogger(__name__)


def load_cephalograms(
    dataset_dir: str | Path,
    section: str = "train",
    *,
    split: Literal["paper", "official"] = "paper",
    reader: Reader = "mean",
    limit: int | None = None,
    drop_duplicates: bool = False,
) -> list[dict[str, Any]]:
    """List one section of the data, landmarks read and checked, images by path.

    The layout is the challenge's::

        RawImage/TrainingData/001.bmp … 150     AnnotationsByMD/400_senior/001.txt … 400
        RawImage/Test1Data/151.bmp … 300        AnnotationsByMD/400_junior/001.txt … 400
        RawImage/Test2Data/301.bmp … 400        info.json, only beside images that were reduced

    Images are BMP, JPEG or PNG; folders that a section does not need may be missing. Coordinates are in native pixels,
    whatever size an image is stored at: the originals are 1935 x 2400 at 0.1 mm; of other images `info.json` says
    what they were (see `read_frame`).

    The order is fixed, by ID, so an item's place in the list is a stable sample ID.

    The challenge's data hold images twice, under an ID of the training set and a later one: of the paper's 100 test
    images 19 are also trained on, of its 50 for validation one, most of them compressed or brightened anew and read
    anew. They are looked for in all folders (`find_copies`) and reported on
    this module's logger where the section holds one of them. `drop_duplicates` leaves out all but the one in the
    latest section (of several there, that of the lowest ID): training shrinks, and a test set stays what others report
    on.

    Args:
        dataset_dir: folder with `RawImage` and `AnnotationsByMD`.
        section: with the paper's split `"train"` (IDs 1-150), `"validation"` (151-200) or `"test"` (201-300);
            with the challenge's `"train"` (1-150), `"test1"` (151-300) or `"test2"` (301-400), which has no
            validation section.
        split: `"paper"` or `"official"`.
        reader: whose landmarks: the mean of the two doctors (the paper's ground truth), or those of one.
        limit: only the first so many images of the section.
        drop_duplicates: leave out images that come again in a later section.

    Returns:
        One dictionary an image:

        - `image`: its path;
        - `landmarks`: `(19, 2)` float32, (y, x) in native pixels, in the order of
          `LANDMARK_NAMES`; NaN where a reader has it missing or outside the
          image (the latter with a warning);
        - `case`: the ID, `"038"`;
        - `spacing`: `(2,)` float32, mm per native pixel;
        - `native_size`: `(2,)` int64, (H, W), for
          `LoadCephalogramd`.

    Raises:
        FileNotFoundError: a folder, an image or an annotation is missing.
        ValueError: a setting is out of range, the section is empty, an ID comes twice or in the wrong folder, an image
            cannot be opened or is of a size that nothing explains, a text file is damaged, or an image has no landmark.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.landmarks.phantom.cephalograms import write_cephalogram_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     items = load_cephalograms(write_cephalogram_phantom(f"{folder}/phantom", images=3, size=(60, 48)))
        >>> sorted(items[0]), items[0]["case"], tuple(items[0]["landmarks"].shape)
        (['case', 'image', 'landmarks', 'native_size', 'spacing'], '001', (19, 2))
    """
    root = Path(dataset_dir)
    sections = _sections(split, section)
    if reader not in _READERS:
        raise ValueError(f"reader must be one of {', '.join(map(repr, _READERS))}, found {reader!r}.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, found {limit}.")
    images = _images(root, sections[section])
    ids = [number for number in sorted(images) if number in sections[section]]
    folders = _annotations(root, reader)
    _check_annotated(root, folders, sections[section], images)
    if not ids:
        wanted = sections[section]
        raise ValueError(f"{root}: section {section!r} is empty: no image of IDs {wanted[0]} to {wanted[-1]}.")
    frame = read_frame(root)
    copies = find_copies(images, _all_landmarks(root, images, frame), spacing=frame.spacing)
    left_out = _left_out(copies, sections, section, drop=drop_duplicates)
    ids = [number for number in ids if number not in left_out][:limit]
    if not ids:
        raise ValueError(f"{root}: section {section!r} is empty: every image of it comes again in a later section.")
    _check_sizes(root, [images[number] for number in ids], frame)
    items, outside = [], []
    for number in ids:
        landmarks, names = _truth(folders, number, frame)
        outside += names
        if landmarks.isnan().all():
            raise ValueError(
                f"{folders[0] / f'{number:03d}.txt'}: {images[number].name} has no landmark inside of it: there is "
                "nothing to learn or measure; correct the annotation or remove both."
            )
        items.append(
            {
                "image": str(images[number]),
                "landmarks": landmarks,
                "case": f"{number:03d}",
                "spacing": torch.full((2,), frame.spacing),
                "native_size": torch.tensor(frame.size),
            }
        )
    if outside:
        warnings.warn(
            f"{root}: {len(outside)} landmark(s) lie outside of their images and count as missing: "
            f"{', '.join(outside[:3])}{', ...' if len(outside) > 3 else ''}.",
            stacklevel=2,
        )
    return items


def _sections(split: str, section: str) -> dict[str, range]:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, found {split!r}.")
    if section not in SPLITS[split]:
        hint = "; the challenge names no validation images: use the paper's split" if section == "validation" else ""
        names = ", ".join(map(repr, SPLITS[split]))
        raise ValueError(f"section must be one of {names} with split={split!r}, found {section!r}{hint}.")
    return SPLITS[split]


def _images(root: Path, wanted: range) -> dict[int, Path]:
    """Image by ID, of all folders that are there; those of the wanted IDs must be."""
    layout = "the layout of the ISBI 2015 challenge (RawImage/TrainingData, AnnotationsByMD/400_senior, ...)"
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected {layout}.")
    images: dict[int, Path] = {}
    for name, ids in _FOLDERS.items():
        folder = root / "RawImage" / name
        if not folder.is_dir():
            if wanted[0] in ids:
                raise FileNotFoundError(f"{folder}: no such folder; expected {layout}.")
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in _ENDINGS or path.name.startswith("."):
                continue
            if not (path.stem.isascii() and path.stem.isdigit()) or int(path.stem) not in ids:
                raise ValueError(
                    f"{path}: images in {name} are named by their IDs, {ids[0]:03d} to {ids[-1]:03d}; "
                    "move this one elsewhere."
                )
            if int(path.stem) in images:
                raise ValueError(f"{path}: the image of this ID is there twice, see {images[int(path.stem)].name}.")
            images[int(path.stem)] = path
    return images


def _annotations(root: Path, reader: str) -> list[Path]:
    """Folders of the readers."""
    folders = [root / "AnnotationsByMD" / f"400_{name}" for name in _READERS[reader]]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; it holds the landmarks, 001.txt and on.")
    return folders


def _check_annotated(root: Path, folders: Sequence[Path], wanted: range, images: dict[int, Path]) -> None:
    """An annotation without its image tells of an incomplete copy, which would quietly be a smaller data set."""
    for folder in folders:
        for path in sorted(folder.glob("*.txt")):
            if path.stem.isdigit() and int(path.stem) in wanted and int(path.stem) not in images:
                place = next(name for name, ids in _FOLDERS.items() if int(path.stem) in ids)
                raise FileNotFoundError(
                    f"{root / 'RawImage' / place / path.stem}: no image (.bmp, .jpg, .png) of this ID, but {path} "
                    "annotates it; restore the image or remove the annotation."
                )


def _all_landmarks(root: Path, images: Iterable[int], frame: NativeFrame) -> dict[int, torch.Tensor]:
    """Landmarks of all images, by whatever readers there are; what is wrong with them is told where they are loaded."""
    folders = [folder for folder in sorted((root / "AnnotationsByMD").glob("400_*")) if folder.is_dir()]
    found = {}
    for number in images:
        with contextlib.suppress(OSError, ValueError):
            found[number] = _truth(folders, number, frame)[0]
    return found


def _left_out(copies: Sequence[Sequence[int]], sections: dict[str, range], section: str, *, drop: bool) -> set[int]:
    """IDs of the section to be left out; says on the logger which images are there more than once."""
    left_out: set[int] = set()
    told = []
    for group in copies:
        found = [(name, number) for name, ids in sections.items() for number in group if number in ids]
        here = [number for name, number in found if name == section]
        if len(found) < 2 or not here:
            continue
        last = found[-1][0]
        keep = min(number for name, number in found if name == last)
        gone = sorted(set(here) - {keep})
        left_out.update(gone)
        if gone or not drop:
            told.append(" and ".join(f"{number:03d} ({name})" for name, number in found))
    if told and drop:
        logger.info("one image under several IDs: %s; left out: %s", "; ".join(told), _list(left_out))
    elif told:
        offer = f"drop_duplicates=True leaves out {_list(left_out)}"
        if not left_out:
            offer = "drop_duplicates=True leaves them out of the earlier section"
        logger.warning("one image under several IDs: %s; %s", "; ".join(told), offer)
    return left_out if drop else set()


def _list(ids: Iterable[int]) -> str:
    return ", ".join(f"{number:03d}" for number in sorted(ids))


def _check_sizes(root: Path, paths: Sequence[Path], frame: NativeFrame) -> None:
    height, width = frame.size
    for path in paths:
        try:
            with Image.open(path) as image:  # reads the header alone
                found = image.size
        # SyntaxError is Pillow's word for a broken header.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{path}: cannot be opened as an image ({type(error).__name__}: {error}); fetch the file again."
            ) from error
        if not frame.stated and found != (width, height):
            raise ValueError(
                f"{path}: the challenge's images are {width}x{height} pixels, this one is {found[0]}x{found[1]}, and "
                f"landmarks are in native pixels; if the images were reduced, say from what in {root / 'info.json'}: "
                f'{{"native_size_xy": [{width}, {height}], "pixel_spacing_mm": {frame.spacing}}}.'
            )
        if abs(found[0] / found[1] * height / width - 1) > _SAME_SHAPE:
            raise ValueError(
                f"{path}: {found[0]}x{found[1]} pixels are no reduced image of {width}x{height}, the native size in "
                f"{root / 'info.json'}: the shape differs."
            )


def _truth(folders: Sequence[Path], number: int, frame: NativeFrame) -> tuple[torch.Tensor, list[str]]:
    """Landmarks `(19, 2)` float32, their mean over the readers, and which of them lie outside of the image.

    What one reader has not got, or has outside, is missing: a mean with it would be a third place.
    """
    edge = torch.tensor(frame.size) - 0.5
    readings = torch.stack([read_landmarks(folder / f"{number:03d}.txt") for folder in folders])
    outside = ((readings < -0.5) | (readings > edge)).any(dim=-1)  # NaN is neither
    readings[outside] = torch.nan
    names = [f"{LANDMARK_NAMES[i]} of {number:03d}" for i in outside.any(dim=0).nonzero().flatten().tolist()]
    return readings.mean(dim=0).float(), names
