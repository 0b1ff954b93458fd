"""The cephalometric landmark data of the ISBI 2015 challenge, in the layout of the challenge."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from monai_amat.checks import check_within
from monai_amat.data import dicom
from monai_amat.data.pictures import ENDINGS, read_headers
from monai_amat.tasks.landmarks.data.copies import find_copies
from monai_amat.tasks.landmarks.data.files import LANDMARK_NAMES, NativeFrame, read_frame, read_landmarks
from monai_amat.tasks.landmarks.data.listed import load_landmark_list
from monai_amat.wording import some

__all__ = ["SPLITS", "Reader", "load_cephalograms"]

Reader = Literal["mean", "senior", "junior"]

SPLITS = {
    "paper": {"train": range(1, 151), "validation": range(151, 201), "test": range(201, 301)},
    "official": {"train": range(1, 151), "test1": range(151, 301), "test2": range(301, 401)},
}
"""IDs of each section; of an image under several IDs the one in the last section is kept (`load_cephalograms`)."""

_FOLDERS = {"TrainingData": range(1, 151), "Test1Data": range(151, 301), "Test2Data": range(301, 401)}
_READERS = {"mean": ("senior", "junior"), "senior": ("senior",), "junior": ("junior",)}
# Rounding changes the aspect ratio of a reduced image by less; a crop or a rotated picture changes it by more.
_SAME_SHAPE = 0.02

logger = logging.getLogger(__name__)


def load_cephalograms(
    dataset_dir: str | Path,
    section: str = "train",
    *,
    split: str = "paper",
    reader: Reader = "mean",
    limit: int | None = None,
    drop_duplicates: bool = False,
) -> list[dict[str, Any]]:
    """List one section of the data, with checked landmarks, and images by path.

    The layout is that of the challenge:

    ```
    RawImage/TrainingData/001.bmp … 150     AnnotationsByMD/400_senior/001.txt … 400
    RawImage/Test1Data/151.bmp … 300        AnnotationsByMD/400_junior/001.txt … 400
    RawImage/Test2Data/301.bmp … 400        info.json, only if the images were reduced
    ```

    Images are BMP, JPEG, PNG or TIFF, or DICOM if pydicom is installed; folders that a section does not need may be
    missing. Coordinates are in native pixels, independent of the stored size: the originals are 1935 x 2400 at 0.1 mm;
    for other images `info.json` gives the native size (see `read_frame`).

    Images are sorted by ID, so the index of an item in the list is a stable sample ID.

    The data of the challenge hold some images twice, under an ID of the training set and a later one: 19 of the 100
    test images and one of the 50 validation images of the paper are also in the training set, most of them compressed
    or brightened again and annotated again. `find_copies` searches all folders for them, and the logger of this module
    reports those in the section. `drop_duplicates` keeps only the image in the latest section (among several there, the
    lowest ID): the training set shrinks, and a test set stays the one that others report results on.

    Args:
        dataset_dir: folder with `RawImage` and `AnnotationsByMD`.
        section: with `split="paper"` `"train"` (IDs 1-150), `"validation"` (151-200) or `"test"` (201-300); with
            `split="official"` `"train"` (1-150), `"test1"` (151-300) or `"test2"` (301-400).
        split: `"paper"`, `"official"` (the split of the challenge), or the path of a JSON list of any radiographs with
            a split of its own, see `load_landmark_list`; a relative path may begin at `dataset_dir`. `reader` and
            `drop_duplicates` do not apply to a list.
        reader: `"mean"` of the two doctors (ground truth of the paper), or the landmarks of one of them.
        limit: keep only the first `limit` images of the section.
        drop_duplicates: leave out images that a later section repeats.

    Returns:
        One dictionary per image:

        - `image`: its path;
        - `landmarks`: `(19, 2)` float32, (y, x) in native pixels, in the order of `LANDMARK_NAMES`; NaN where a
          reader has no landmark, or one outside of the image (with a warning);
        - `case`: the ID, `"038"`;
        - `spacing`: `(2,)` float32, mm per native pixel;
        - `native_size`: `(2,)` int64, (H, W), for `LoadCephalogramd`.

    Raises:
        FileNotFoundError: if a folder, an image or an annotation is missing.
        ValueError: if a setting is out of range, the section is empty, an ID occurs twice or in the wrong folder, an
            image cannot be opened or has an unexpected size, a text file is damaged, or an image has no landmark.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.landmarks.phantom.cephalograms import write_cephalogram_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     items = load_cephalograms(write_cephalogram_phantom(f"{folder}/phantom", images=3, size=(60, 48)))
        >>> sorted(items[0]), items[0]["case"], tuple(items[0]["landmarks"].shape)
        (['case', 'image', 'landmarks', 'native_size', 'spacing'], '001', (19, 2))
    """
    root = Path(dataset_dir)
    if str(split).lower().endswith(".json"):
        listed = next((path for path in (Path(split), root / split) if path.is_file()), root / split)
        return load_landmark_list(listed, section, root=root, limit=limit)
    sections = _sections(split, section)
    if reader not in _READERS:
        raise ValueError(f"reader must be one of {', '.join(map(repr, _READERS))}, got {reader!r}")
    if limit is not None:
        check_within("limit", limit, 1)
    images = _images(root, sections[section])
    ids = [number for number in sorted(images) if number in sections[section]]
    folders = _annotations(root, reader)
    _check_annotated(root, folders, sections[section], images)
    if not ids:
        wanted = sections[section]
        raise ValueError(
            f"{root}: section {section!r} is empty: expected images of IDs {wanted[0]} to {wanted[-1]}, got none"
        )
    frame = read_frame(root)
    copies = find_copies(images, _all_landmarks(root, images, frame), spacing=frame.spacing)
    left_out = _left_out(copies, sections, section, drop=drop_duplicates)
    ids = [number for number in ids if number not in left_out][:limit]
    if not ids:
        raise ValueError(f"{root}: section {section!r} is empty, because a later section repeats each of its images")
    _check_sizes(root, [images[number] for number in ids], frame)
    items, outside = [], []
    for number in ids:
        landmarks, names = _truth(folders, number, frame)
        outside += names
        if landmarks.isnan().all():
            raise ValueError(
                f"{folders[0] / f'{number:03d}.txt'}: expected a landmark inside of {images[number].name}, got "
                "none; correct the annotation or remove both files"
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
            f"{root}: {len(outside)} landmark(s) lie outside of their images and count as missing: {some(outside)}",
            stacklevel=2,
        )
    return items


def _sections(split: str, section: str) -> dict[str, range]:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, or a JSON list, got {split!r}")
    if section not in SPLITS[split]:
        hint = "; only split='paper' has validation images" if section == "validation" else ""
        names = ", ".join(map(repr, SPLITS[split]))
        raise ValueError(f"section must be one of {names} with split={split!r}, got {section!r}{hint}")
    return SPLITS[split]


def _images(root: Path, wanted: range) -> dict[int, Path]:
    """Images by ID, of all folders that exist; the folders of the wanted IDs must exist."""
    layout = "the layout of the ISBI 2015 challenge (RawImage/TrainingData, AnnotationsByMD/400_senior, ...)"
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected {layout}")
    images: dict[int, Path] = {}
    for name, ids in _FOLDERS.items():
        folder = root / "RawImage" / name
        if not folder.is_dir():
            if wanted[0] in ids:
                raise FileNotFoundError(f"{folder}: no such folder; expected {layout}")
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in (*ENDINGS, *dicom.ENDINGS) or path.name.startswith("."):
                continue
            if not (path.stem.isascii() and path.stem.isdigit()) or int(path.stem) not in ids:
                raise ValueError(
                    f"{path}: expected images named by their IDs, {ids[0]:03d} to {ids[-1]:03d}; move this file to "
                    "another folder"
                )
            if int(path.stem) in images:
                raise ValueError(f"{path}: two images have this ID, see {images[int(path.stem)].name}; remove one")
            images[int(path.stem)] = path
    return images


def _annotations(root: Path, reader: str) -> list[Path]:
    """Folders with the annotations of the readers."""
    folders = [root / "AnnotationsByMD" / f"400_{name}" for name in _READERS[reader]]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected landmarks in it (001.txt, …)")
    return folders


def _check_annotated(root: Path, folders: Sequence[Path], wanted: range, images: dict[int, Path]) -> None:
    """Refuse annotations without image, a sign of an incomplete copy, which would silently be a smaller data set."""
    for folder in folders:
        for path in sorted(folder.glob("*.txt")):
            if path.stem.isdigit() and int(path.stem) in wanted and int(path.stem) not in images:
                place = next(name for name, ids in _FOLDERS.items() if int(path.stem) in ids)
                raise FileNotFoundError(
                    f"{root / 'RawImage' / place / path.stem}: no image has this ID, but {path} "
                    "annotates it; restore the image or remove the annotation"
                )


def _all_landmarks(root: Path, images: Iterable[int], frame: NativeFrame) -> dict[int, torch.Tensor]:
    """Landmarks of all images by all readers; errors are left to the section that loads the image."""
    folders = [folder for folder in sorted((root / "AnnotationsByMD").glob("400_*")) if folder.is_dir()]
    found = {}
    for number in images:
        with contextlib.suppress(OSError, ValueError):
            found[number] = _truth(folders, number, frame)[0]
    return found


def _left_out(copies: Sequence[Sequence[int]], sections: dict[str, range], section: str, *, drop: bool) -> set[int]:
    """IDs of the section to leave out; the logger reports the images with several IDs."""
    left_out: set[int] = set()
    repeated = []
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
            repeated.append(some((f"{number:03d} ({name})" for name, number in found), joint=" and "))
    if repeated and drop:
        logger.info("one image under several IDs: %s; left out: %s", some(repeated), _list(left_out))
    elif repeated:
        offer = f"drop_duplicates=True leaves out {_list(left_out)}"
        if not left_out:
            offer = "drop_duplicates=True leaves them out of the earlier section"
        logger.warning("one image under several IDs: %s; %s", some(repeated), offer)
    return left_out if drop else set()


def _list(ids: Iterable[int]) -> str:
    return some(f"{number:03d}" for number in sorted(ids))


def _check_sizes(root: Path, paths: Sequence[Path], frame: NativeFrame) -> None:
    height, width = frame.size
    for header in read_headers(paths, where=str(root)):
        found = header.size[::-1]
        if not frame.stated and found != (width, height):
            raise ValueError(
                f"{header.path}: expected {width}x{height} pixels, the size of the challenge's images, got {found[0]}x"
                f"{found[1]}; if the images were reduced, give their native size in {root / 'info.json'}: "
                f'{{"native_size_xy": [{width}, {height}], "pixel_spacing_mm": {frame.spacing}}}'
            )
        if abs(found[0] / found[1] * height / width - 1) > _SAME_SHAPE:
            raise ValueError(
                f"{header.path}: expected the aspect ratio of {width}x{height}, the native size in "
                f"{root / 'info.json'}, got {found[0]}x{found[1]} pixels; correct info.json or replace the image"
            )


def _truth(folders: Sequence[Path], number: int, frame: NativeFrame) -> tuple[torch.Tensor, list[str]]:
    """Mean landmarks `(19, 2)` float32 over the readers, and names of those outside of the image.

    A landmark that one reader has missing or outside counts as missing: a mean of the others would be another point.
    """
    edge = torch.tensor(frame.size) - 0.5
    readings = torch.stack([read_landmarks(folder / f"{number:03d}.txt") for folder in folders])
    outside = ((readings < -0.5) | (readings > edge)).any(dim=-1)  # NaN is neither
    readings[outside] = torch.nan
    names = [f"{LANDMARK_NAMES[i]} of {number:03d}" for i in outside.any(dim=0).nonzero().flatten().tolist()]
    return readings.mean(dim=0).float(), names
