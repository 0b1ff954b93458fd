"""One Pascal VOC annotation: its XML read safely, and its boxes as continuous coordinates inside the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import torch

__all__ = ["Flaw", "VocAnnotation", "VocObject", "checked_boxes", "read_voc"]

Flaw = Literal["no area", "outside", "repeated", "clipped"]
"""What is wrong with a box; all but `clipped` are dropped. See `checked_boxes`."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """One object of an annotation.

    Attributes:
        name: its class, as written.
        corners: `xmin, ymin, xmax, ymax` as written: numbers of pixels, counted from 1, the last one included.
    """

    name: str
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class VocAnnotation:
    """What an annotation file says.

    Attributes:
        file: the file, for messages.
        size: `(W, H)` of the image that was annotated.
        objects: in the order of the file.
    """

    file: Path
    size: tuple[int, int]
    objects: tuple[VocObject, ...]


def read_voc(path: str | Path) -> VocAnnotation:
    """Read one annotation file.

    Of each object its class and box are taken; pose, `truncated` and `difficult` are left alone. The XML is read
    by the standard library, with document type declarations refused: no entity can be expanded, nothing else fetched.

    Args:
        path: the XML file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming the file, and the object by its number from 1, where something is malformed or missing.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.detection.phantom import write_cells_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_cells_phantom(f"{folder}/cells", images=3, size=(96, 128))
        ...     annotation = read_voc(root / "Annotations" / "cells_000.xml")
        >>> annotation.size, annotation.objects[0].name
        ((128, 96), 'RBC')
    """
    file = Path(path)
    root = _parse(file)
    if root.tag != "annotation":
        raise ValueError(f"{file}: expected a Pascal VOC <annotation>, found <{root.tag}>.")
    sides = [_number(root.find(f"size/{side}"), f"{file}: size/{side}") for side in ("width", "height")]
    if any(side < 1 or side != int(side) for side in sides):
        raise ValueError(f"{file}: size must be whole numbers of pixels from 1 on, found {sides[0]:g} x {sides[1]:g}.")
    objects = tuple(
        _object(node, f"{file}: object {number}") for number, node in enumerate(root.findall("object"), start=1)
    )
    return VocAnnotation(file, (int(sides[0]), int(sides[1])), objects)


def checked_boxes(
    annotation: VocAnnotation, classes: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[Flaw, str]]]:
    """Boxes and classes of an annotation, after these rules.

    - Pascal VOC counts pixels from 1 and includes the last one. Here a box is given by its edges, pixel i from 0 on
      reaching from i to i + 1: 1 is taken off `xmin` and `ymin`. A box over the whole image is `0, 0, W, H`.
    - *no area*: `xmax <= xmin` or `ymax <= ymin` as written, a click and not an object; dropped.
    - *outside*: nothing of the box lies in the image; dropped.
    - *repeated*: class and box are those of an earlier object; dropped.
    - *clipped*: the box reaches out of the image; it is cut at the edge.

    Args:
        annotation: what the file says.
        classes: names of the classes; an object's label is the place of its name in this list.

    Returns:
        boxes `(N, 4)` float32, x1 y1 x2 y2 in pixels of the image; labels `(N,)` int64; and each flaw with the name
        of its object.

    Raises:
        ValueError: for an object of another class.

    Example:
        >>> click = VocObject("RBC", (5.0, 5.0, 5.0, 5.0))
        >>> whole = VocObject("WBC", (1.0, 1.0, 640.0, 490.0))
        >>> annotation = VocAnnotation(Path("a.xml"), (640, 480), (click, whole))
        >>> checked_boxes(annotation, ["RBC", "WBC"])
        (tensor([[  0.,   0., 640., 480.]]), tensor([1]), [('no area', 'object 1 of a'), ('clipped', 'object 2 of a')])
    """
    width, height = annotation.size
    boxes: list[tuple[float, ...]] = []
    labels: list[int] = []
    flaws: list[tuple[Flaw, str]] = []
    seen: set[VocObject] = set()
    for number, entry in enumerate(annotation.objects, start=1):
        if entry.name not in classes:
            raise ValueError(
                f"{annotation.file}: object {number} is of the unknown class {entry.name!r}; the classes are "
                f"{', '.join(map(repr, classes))}: correct the file, or name the class in `classes`."
            )
        name = f"object {number} of {annotation.file.stem}"
        x1, y1, x2, y2 = entry.corners
        if x2 <= x1 or y2 <= y1:
            flaws.append(("no area", name))
            continue
        edges = (x1 - 1, y1 - 1, x2, y2)
        box = tuple(min(max(edge, 0.0), float(end)) for edge, end in zip(edges, (width, height) * 2, strict=True))
        if box[2] <= box[0] or box[3] <= box[1]:
            flaws.append(("outside", name))
            continue
        if entry in seen:
            flaws.append(("repeated", name))
            continue
        seen.add(entry)
        if box != edges:
            flaws.append(("clipped", name))
        boxes.append(box)
        labels.append(list(classes).index(entry.name))
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64), flaws


def _parse(file: Path) -> Element:
    """The root element, from expat itself: ElementTree's own parser cannot be told to refuse a DTD."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such annotation; each image needs its XML file.")
    builder = TreeBuilder()
    parser: Any = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: Any) -> NoReturn:
        raise ValueError(f"{file}: holds a document type declaration, which Pascal VOC has no use for; remove it.")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(file.read_bytes(), True)
    except expat.ExpatError as error:
        raise ValueError(f"{file}: not well-formed XML ({error}); fetch the file again.") from error
    return builder.close()


def _object(node: Element, where: str) -> VocObject:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{where} has no <name>, the class it is of.")
    box = node.find("bndbox")
    if box is None:
        raise ValueError(f"{where} ({name}) has no <bndbox>.")
    x1, y1, x2, y2 = (_number(box.find(corner), f"{where} ({name}): bndbox/{corner}") for corner in _CORNERS)
    return VocObject(name, (x1, y1, x2, y2))


def _number(node: Element | None, where: str) -> float:
    if node is None:
        raise ValueError(f"{where} is missing.")
    try:
        value = float(node.text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where} must be a number, found {node.text!r}.")
    return value
