"""Object detection data in the Pascal VOC layout, BCCD above all: the paper's split, the data's own, checked items."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from monai_amat.data.duplicates import identical_files
from monai_amat.tasks.detection.data.annotation import Flaw, VocAnnotation, checked_boxes, read_voc

__all__ = ["BCCD_CLASSES", "VocSection", "VocSplit", "load_voc", "paper_split"]

VocSection = Literal["train", "validation", "test", "all"]
VocSplit = Literal["paper", "imagesets"]

BCCD_CLASSES = ("RBC", "WBC", "Platelets")
"""Red blood cells, white blood cells, platelets: the classes of BCCD, in the order of their labels 0, 1, 2."""

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")
_LISTS = {"train": "train", "validation": "val", "test": "test"}
# The paper's 364 images: 33 for validation, 37 for testing.
_PAPER = {"validation": 33 / 364, "test": 37 / 364}
_RULES: dict[Flaw, str] = {
    "no area": "dropped for having no area (xmax <= xmin or ymax <= ymin)",
    "outside": "dropped for lying outside of the image",
    "repeated": "dropped for repeating class and box of an earlier object",
    "clipped": "cut off at the edge of the image",
}

logger = logging.getLogger(__name__)


def load_voc(
    dataset_dir: str | Path,
    section: VocSection = "train",
    *,
    classes: Sequence[str] = BCCD_CLASSES,
    split: VocSplit = "paper",
    seed: int = 0,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """List one section of a data set, boxes read and checked, images by path.

    The layout is Pascal VOC's::

        JPEGImages/BloodImage_00000.jpg …        Annotations/BloodImage_00000.xml …
        ImageSets/Main/{train,val,test}.txt      one name a line; only for split="imagesets"

    Images are JPEG, PNG or BMP. The order is fixed, by name, so an item's place in the list is a stable sample ID.
    What makes a box of four numbers, and which boxes are cut or dropped, is said in
    `checked_boxes`; one warning counts them. Images that are identical under
    several names are reported on this module's logger, since they may lie in two sections.

    Args:
        dataset_dir: folder with `JPEGImages` and `Annotations`.
        section: `"train"`, `"validation"`, `"test"`, or `"all"` of them.
        classes: names of the classes; a label is a place in this list.
        split: `"paper"`: all images, split as the paper's 294/33/37 (see `paper_split`), or `"imagesets"`:
            the lists of `ImageSets/Main` (BCCD's own: 205/87/72).
        seed: of the paper's split.
        limit: only the first so many images of the section.

    Returns:
        One dictionary an image:

        - `image`: its path;
        - `boxes`: `(N, 4)` float32, x1 y1 x2 y2 in pixels of the image, x to the right, y down;
        - `labels`: `(N,)` int64;
        - `case`: name of the image without its ending.

    Raises:
        FileNotFoundError: a folder, a list, an image or an annotation is missing.
        ValueError: a setting is out of range, the folder or the section is empty, a list names an image twice or two
            lists name it, an image is there twice or cannot be opened, or an annotation is malformed, holds an unknown
            class or is of another size than its image.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.detection.phantom import write_cells_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     items = load_voc(write_cells_phantom(f"{folder}/cells", images=4, size=(96, 128)), "train")
        >>> sorted(items[0]), items[0]["boxes"].shape[1], items[0]["labels"].dtype
        (['boxes', 'case', 'image', 'labels'], 4, torch.int64)
    """
    root = Path(dataset_dir)
    if section not in (*_LISTS, "all"):
        raise ValueError(f"section must be 'train', 'validation', 'test' or 'all', found {section!r}.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, found {limit}.")
    if not classes or isinstance(classes, str) or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be different names, at least one, found {classes!r}.")
    images = _images(root)
    sections = _sections(root, split, seed, images)
    names = sorted(name for part, part_names in sections.items() if section in (part, "all") for name in part_names)
    if not names:
        raise ValueError(f"{root}: section {section!r} of split {split!r} is empty.")
    _report_identical(images, sections)
    items, flaws = [], []
    for name in names[:limit]:
        annotation = read_voc(root / "Annotations" / f"{name}.xml")
        _check_size(images[name], annotation)
        boxes, labels, found = checked_boxes(annotation, classes)
        flaws += found
        items.append({"image": str(images[name]), "boxes": boxes, "labels": labels, "case": name})
    if flaws:
        warnings.warn(f"{root}: {_counted(flaws)}.", stacklevel=2)
    return items


def paper_split(names: Sequence[str], *, seed: int = 0) -> dict[str, tuple[str, ...]]:
    """Split images as many ways as the paper does: 364 into 294 for training, 33 for validation and 37 for testing.

    The paper's own list is not public, so which image falls where is drawn: names are ordered by a hash of seed and
    name, which is the same on any machine and in any version. Other numbers of images are split by the same shares,
    at least one each for validation and testing.

    Args:
        names: names of the images, in any order.
        seed: decides the order.

    Returns:
        the names of `"train"`, `"validation"` and `"test"`, sorted.

    Raises:
        ValueError: names repeat, or there are fewer than three.

    Example:
        >>> {part: len(names) for part, names in paper_split([f"{i:05d}" for i in range(364)]).items()}
        {'train': 294, 'validation': 33, 'test': 37}
    """
    if len(set(names)) != len(names):
        raise ValueError(f"names must be unique, found {len(names)} of which {len(set(names))} differ.")
    if len(names) < 3:
        raise ValueError(f"{len(names)} image(s) cannot be split in three; 3 are the fewest.")
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    sizes = {part: max(1, round(len(names) * share)) for part, share in _PAPER.items()}
    held = sizes["validation"] + sizes["test"]
    return {
        "train": tuple(sorted(order[held:])),
        "validation": tuple(sorted(order[: sizes["validation"]])),
        "test": tuple(sorted(order[sizes["validation"] : held])),
    }


def _images(root: Path) -> dict[str, Path]:
    """Image by name."""
    layout = "the Pascal VOC layout (JPEGImages/, Annotations/, ImageSets/Main/)"
    for folder in (root, root / "JPEGImages", root / "Annotations"):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected {layout}.")
    images: dict[str, Path] = {}
    for path in sorted((root / "JPEGImages").iterdir()):
        if path.suffix.lower() not in _ENDINGS or path.name.startswith("."):
            continue
        if path.stem in images:
            raise ValueError(f"{path}: an image of this name is there twice, see {images[path.stem].name}; remove one.")
        images[path.stem] = path
    if not images:
        raise ValueError(f"{root / 'JPEGImages'}: no image in it ({', '.join(_ENDINGS)}).")
    return images


def _sections(root: Path, split: str, seed: int, images: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """Names by section; each has its image and its annotation."""
    if split == "paper":
        # An annotation without its image tells of an incomplete copy, which would quietly be a smaller data set.
        annotated = {path.stem for path in (root / "Annotations").glob("*.xml") if not path.name.startswith(".")}
        where = {name: str(root / "Annotations" / f"{name}.xml") for name in annotated}
        _check_complete(root, images, sorted(annotated | set(images)), where)
        try:
            return paper_split(list(images), seed=seed)
        except ValueError as error:
            raise ValueError(f"{root}: {error}") from error
    if split != "imagesets":
        raise ValueError(f"split must be 'paper' or 'imagesets', found {split!r}.")
    sections: dict[str, tuple[str, ...]] = {}
    where = {}
    for part, stem in _LISTS.items():
        file = root / "ImageSets" / "Main" / f"{stem}.txt"
        names = _listed(file)
        for name in names:
            if name in where:
                raise ValueError(f"{file}: lists {name!r}, which is listed in {where[name]} already.")
            where[name] = str(file)
        _check_complete(root, images, names, where)
        sections[part] = names
    return sections


def _listed(file: Path) -> tuple[str, ...]:
    """Names in one list."""
    if not file.is_file():
        raise FileNotFoundError(f'{file}: no such list; use split="paper" where a data set has none of its own.')
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file ({error}).") from error
    for number, line in enumerate(lines, start=1):
        if len(line) > 1:
            raise ValueError(f"{file}, line {number}: expected one name, found {' '.join(line)!r}.")
    return tuple(line[0] for line in lines if line)


def _check_complete(root: Path, images: Mapping[str, Path], names: Sequence[str], where: Mapping[str, str]) -> None:
    for name in names:
        if name not in images:
            raise FileNotFoundError(
                f"{root / 'JPEGImages' / name}: no image ({', '.join(_ENDINGS)}) of this name, but {where[name]} asks "
                "for it; restore the image or take the name out."
            )
        annotation = root / "Annotations" / f"{name}.xml"
        if not annotation.is_file():
            raise FileNotFoundError(
                f"{annotation}: no such annotation, but {images[name]} is there; restore it or move the image away."
            )


def _check_size(path: Path, annotation: VocAnnotation) -> None:
    try:
        with Image.open(path) as image:  # reads the header alone
            size = image.size
    # SyntaxError is Pillow's word for a broken header.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: cannot be opened as an image ({type(error).__name__}: {error}); fetch the file again."
        ) from error
    if size != annotation.size:
        raise ValueError(
            f"{annotation.file}: annotates an image of {annotation.size[0]}x{annotation.size[1]} pixels, but {path} is "
            f"{size[0]}x{size[1]}; boxes would be in the wrong place."
        )


def _report_identical(images: Mapping[str, Path], sections: Mapping[str, Sequence[str]]) -> None:
    place = {images[name]: f"{name} ({part})" for part, names in sections.items() for name in names}
    for group in identical_files(place):
        logger.warning("one image under several names: %s", " and ".join(place[path] for path in group))


def _counted(flaws: Sequence[tuple[Flaw, str]]) -> str:
    """Which rules were applied to how many boxes, in words."""
    by_rule: dict[Flaw, list[str]] = defaultdict(list)
    for flaw, name in flaws:
        by_rule[flaw].append(name)
    parts = []
    for flaw, rule in _RULES.items():
        if names := by_rule[flaw]:
            parts.append(f"{len(names)} box(es) {rule}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
    return "; ".join(parts)
