"""Object detection data in the Pascal VOC layout, such as BCCD: the split of the paper, or the lists of the data."""

from __future__ import annotations

import codecs
import hashlib
import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from monai_amat.checks import check_within
from monai_amat.data.duplicates import identical_files
from monai_amat.data.pictures import ENDINGS, Header, read_headers
from monai_amat.tasks.detection.data.annotation import Flaw, OtherClasses, VocAnnotation, checked_boxes, read_voc
from monai_amat.wording import printable, some

__all__ = ["BCCD_CLASSES", "VocSection", "VocSplit", "load_voc", "paper_split"]

VocSection = Literal["train", "validation", "test", "all"]
VocSplit = Literal["paper", "imagesets"]

BCCD_CLASSES = ("RBC", "WBC", "Platelets")
"""Red blood cells, white blood cells, platelets: the classes of BCCD, in the order of their labels 0, 1, 2."""

_LISTS = {"train": "train", "validation": "val", "test": "test"}
# The paper's 364 images: 33 for validation, 37 for testing.
_PAPER = {"validation": 33 / 364, "test": 37 / 364}
_RULES: dict[Flaw, str] = {
    "no area": "dropped because they have no area (xmax <= xmin or ymax <= ymin)",
    "outside": "dropped because they lie outside of the image",
    "repeated": "dropped because they repeat class and box of an earlier object",
    "clipped": "cut at the edge of the image",
    "other class": "left out because their class is not in classes",
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
    other_classes: OtherClasses = "refuse",
) -> list[dict[str, Any]]:
    """List one section of a data set, boxes read and checked, images by path.

    The layout is that of Pascal VOC:

    ```
    JPEGImages/BloodImage_00000.jpg …        Annotations/BloodImage_00000.xml …
    ImageSets/Main/{train,val,test}.txt      one name per line; only for split="imagesets"
    ```

    Images are JPEG, PNG, BMP or TIFF. They are sorted by name, so the index of an item in the list is a stable sample
    ID. `checked_boxes` documents the coordinates of boxes and which boxes are cut or dropped; one warning counts them.
    Identical images under several names are reported on the logger of this module, because they may lie in two
    sections.

    Args:
        dataset_dir: folder with `JPEGImages` and `Annotations`.
        section: `"train"`, `"validation"`, `"test"`, or `"all"` for the three together.
        classes: names of the classes; a label is an index in this list.
        split: `"paper"`: all images, split 294/33/37 as in the paper (see `paper_split`), or `"imagesets"`:
            the lists in `ImageSets/Main` (those of BCCD: 205/87/72).
        seed: seed of the split `"paper"`.
        limit: keep only the first `limit` images of the section.
        other_classes: `"refuse"` objects of other classes, or `"leave_out"` these objects, with a count in the warning.

    Returns:
        One dictionary per image:

        - `image`: its path;
        - `boxes`: `(N, 4)` float32, x1 y1 x2 y2 in pixels of the image, x to the right, y down;
        - `labels`: `(N,)` int64;
        - `case`: file name of the image without its ending.

    Raises:
        FileNotFoundError: if a folder, a list, an image or an annotation is missing.
        ValueError: if a setting is out of range, the folder or the section is empty, an image is listed twice, two
            files have one image name, an image cannot be opened, or an annotation is malformed, has an unknown class,
            or has another size than its image.

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
        raise ValueError(f"section must be 'train', 'validation', 'test' or 'all', got {section!r}")
    if limit is not None:
        check_within("limit", limit, 1)
    if not classes or isinstance(classes, str) or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be different names, at least one, got {classes!r}")
    images = _images(root)
    sections = _sections(root, split, seed, images)
    names = sorted(name for part, part_names in sections.items() if section in (part, "all") for name in part_names)
    if not names:
        raise ValueError(f"{root}: section {section!r} of split {split!r} is empty")
    _report_identical(images, sections)
    items, flaws = [], []
    names = names[:limit]
    for name, header in zip(names, read_headers([images[name] for name in names], where=str(root)), strict=True):
        annotation = read_voc(root / "Annotations" / f"{name}.xml")
        _check_size(header, annotation)
        boxes, labels, found = checked_boxes(annotation, classes, other_classes=other_classes)
        flaws += found
        items.append({"image": str(images[name]), "boxes": boxes, "labels": labels, "case": printable(name)})
    if flaws:
        warnings.warn(f"{root}: {_counted(flaws)}", stacklevel=2)
    if not any(len(item["labels"]) for item in items):
        warnings.warn(
            f"{root}: section {section!r} has {len(items)} image(s) and not a single object, so that metrics have no "
            "value; check the annotations and classes",
            stacklevel=2,
        )
    return items


def paper_split(names: Sequence[str], *, seed: int = 0) -> dict[str, tuple[str, ...]]:
    """Split images as the paper does: 364 into 294 for training, 33 for validation and 37 for testing.

    The list of the paper is not public, so the section of each image is drawn: names are ordered by a hash of seed and
    name, which is the same on every machine and in every version. Other numbers of images are split by the same shares,
    with at least one image each for validation and testing.

    Args:
        names: names of the images, in any order.
        seed: seed of the order.

    Returns:
        the names of `"train"`, `"validation"` and `"test"`, sorted.

    Raises:
        ValueError: if names repeat, or there are fewer than three.

    Example:
        >>> {part: len(names) for part, names in paper_split([f"{i:05d}" for i in range(364)]).items()}
        {'train': 294, 'validation': 33, 'test': 37}
    """
    if len(set(names)) != len(names):
        raise ValueError(f"names must be unique, got {len(names)} of which {len(set(names))} differ")
    if len(names) < 3:
        raise ValueError(f"a split in three needs at least 3 images, got {len(names)}")
    order = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(f"{seed}:{name}")).digest())
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
            raise FileNotFoundError(f"{folder}: no such folder; expected {layout}")
    images: dict[str, Path] = {}
    for path in sorted((root / "JPEGImages").iterdir()):
        if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
            continue
        if path.stem in images:
            raise ValueError(f"{path}: two images have this name, see {images[path.stem].name}; remove one")
        images[path.stem] = path
    if not images:
        raise ValueError(f"{root / 'JPEGImages'}: expected images ({', '.join(ENDINGS)}), got none")
    return images


def _sections(root: Path, split: str, seed: int, images: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """Names by section; each name has an image and an annotation."""
    if split == "paper":
        # An annotation without image is a sign of an incomplete copy, which would silently be a smaller data set.
        annotated = {path.stem for path in (root / "Annotations").glob("*.xml") if not path.name.startswith(".")}
        where = {name: str(root / "Annotations" / f"{name}.xml") for name in annotated}
        _check_complete(root, images, sorted(annotated | set(images)), where)
        try:
            return paper_split(list(images), seed=seed)
        except ValueError as error:
            raise ValueError(f"{root}: {error}") from error
    if split != "imagesets":
        raise ValueError(f"split must be 'paper' or 'imagesets', got {split!r}")
    sections: dict[str, tuple[str, ...]] = {}
    where = {}
    for part, stem in _LISTS.items():
        file = root / "ImageSets" / "Main" / f"{stem}.txt"
        names = _listed(file)
        for name in names:
            if name in where:
                raise ValueError(f"{file}: lists {name!r}, which is listed in {where[name]} already")
            where[name] = str(file)
        _check_complete(root, images, names, where)
        sections[part] = names
    return sections


def _listed(file: Path) -> tuple[str, ...]:
    """Names in one list."""
    if not file.is_file():
        raise FileNotFoundError(f'{file}: no such list; use split="paper" if the data set has no lists')
    try:
        content = file.read_bytes()
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        # Bytes that are not UTF-8 stay as they are, like those of file names.
        text = content.decode("utf-16") if marked else content.decode("utf-8-sig", "surrogateescape")
        lines = [line.split() for line in text.splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file ({error})") from error
    for number, line in enumerate(lines, start=1):
        if len(line) > 1:
            raise ValueError(f"{file}, line {number}: expected one name, got {' '.join(line)!r}")
    return tuple(line[0] for line in lines if line)


def _check_complete(root: Path, images: Mapping[str, Path], names: Sequence[str], where: Mapping[str, str]) -> None:
    for name in names:
        if name not in images:
            raise FileNotFoundError(
                f"{root / 'JPEGImages' / name}: no image ({', '.join(ENDINGS)}) of this name, but {where[name]} names "
                "it; restore the image or remove the name"
            )
        annotation = root / "Annotations" / f"{name}.xml"
        if not annotation.is_file():
            raise FileNotFoundError(
                f"{annotation}: no such annotation, but {images[name]} is there; restore the annotation or move the "
                "image away"
            )


def _check_size(header: Header, annotation: VocAnnotation) -> None:
    path, size = header.path, header.size[::-1]
    if size == annotation.size:
        return
    if header.orientation > 4 and size[::-1] == annotation.size:
        raise ValueError(
            f"{annotation.file}: expected boxes in {path} as a viewer shows it, {size[0]}x{size[1]} pixels after its "
            f"EXIF orientation {header.orientation}, got {annotation.size[0]}x{annotation.size[1]}, the stored pixels; "
            "remove the orientation from the image, or turn the boxes"
        )
    raise ValueError(
        f"{annotation.file}: expected an annotation of {size[0]}x{size[1]} pixels, the size of {path}, got "
        f"{annotation.size[0]}x{annotation.size[1]}; its boxes would lie in the wrong place, so restore the "
        "image that was annotated"
    )


def _report_identical(images: Mapping[str, Path], sections: Mapping[str, Sequence[str]]) -> None:
    place = {images[name]: f"{name} ({part})" for part, names in sections.items() for name in names}
    groups = [some(place[path] for path in group) for group in identical_files(place)]
    if groups:
        logger.warning("%d image(s) under several names: %s", len(groups), "; ".join(groups[:3]))


def _counted(flaws: Sequence[tuple[Flaw, str]]) -> str:
    """Text with the rules and the number of boxes that each was applied to."""
    by_rule: dict[Flaw, list[str]] = defaultdict(list)
    for flaw, name in flaws:
        by_rule[flaw].append(name)
    parts = []
    for flaw, rule in _RULES.items():
        if names := by_rule[flaw]:
            parts.append(f"{len(names)} box(es) {rule}: {some(names)}")
    return "; ".join(parts)
