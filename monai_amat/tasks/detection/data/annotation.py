"""One Pascal VOC annotation: reading the XML safely, and boxes as continuous coordinates inside the image."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import torch

from monai_amat.wording import printable

__all__ = ["Flaw", "OtherClasses", "VocAnnotation", "VocObject", "checked_boxes", "read_voc"]

OtherClasses = Literal["refuse", "leave_out"]

Flaw = Literal["no area", "outside", "repeated", "clipped", "other class"]
"""Fault of a box; boxes with any fault but `clipped` are dropped. See `checked_boxes`."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(frozen=True)
class VocObject:
    """One object of an annotation.

    Attributes:
        name: its class, as written in the file.
        corners: `xmin, ymin, xmax, ymax` as written in the file: pixel numbers from 1, the last pixel included.
    """

    name: str
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class VocAnnotation:
    """Content of an annotation file.

    Attributes:
        file: path of the file, for messages.
        size: `(W, H)` of the annotated image.
        objects: in the order of the file.
    """

    file: Path
    size: tuple[int, int]
    objects: tuple[VocObject, ...]


def read_voc(path: str | Path) -> VocAnnotation:
    """Read one annotation file.

    Class and box of each object are read; pose, `truncated` and `difficult` are ignored. The standard library reads the
    XML; document type declarations are refused, so that no entity is expanded and no other file is fetched.

    Args:
        path: the XML file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if something is malformed or missing; the message names the file and the number of the object.

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
        raise ValueError(f"{file}: expected a Pascal VOC <annotation>, got <{root.tag}>")
    sides = [_number(root.find(f"size/{side}"), f"{file}: size/{side}") for side in ("width", "height")]
    if any(side < 1 or side != int(side) for side in sides):
        raise ValueError(f"{file}: size must be whole numbers of pixels from 1 on, got {sides[0]:g} x {sides[1]:g}")
    objects = tuple(
        _object(node, f"{file}: object {number}") for number, node in enumerate(root.findall("object"), start=1)
    )
    return VocAnnotation(file, (int(sides[0]), int(sides[1])), objects)


def checked_boxes(
    annotation: VocAnnotation, classes: Sequence[str], *, other_classes: OtherClasses = "refuse"
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[Flaw, str]]]:
    """Convert boxes and classes of an annotation, by these rules.

    - Pascal VOC counts pixels from 1 and includes the last one. Here a box is given by its edges, and pixel i (from 0)
      reaches from i to i + 1, so 1 is subtracted from `xmin` and `ymin`. A box over the whole image is `0, 0, W, H`.
    - *no area*: `xmax <= xmin` or `ymax <= ymin` in the file, for example a click; the box is dropped.
    - *outside*: no part of the box lies in the image; the box is dropped.
    - *repeated*: an earlier object has the same class and box; the box is dropped.
    - *clipped*: a part of the box lies outside of the image; the box is cut at the edge.

    Args:
        annotation: content of the file.
        classes: names of the classes; the label of an object is the index of its name in this list.
        other_classes: `"refuse"` objects of other classes, or `"leave_out"`: drop them with the flaw *other class*.

    Returns:
        boxes `(N, 4)` float32, x1 y1 x2 y2 in pixels of the image; labels `(N,)` int64; and each flaw with the name
        of its object.

    Raises:
        ValueError: if an object has another class and `other_classes` is `"refuse"`.

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
        name = f"object {number} of {printable(annotation.file.stem)}"
        if entry.name not in classes and other_classes == "leave_out":
            flaws.append(("other class", name))
            continue
        if entry.name not in classes:
            raise ValueError(
                f"{annotation.file}: expected a class of {', '.join(map(repr, classes))}, got {entry.name!r} for "
                f"object {number}; correct the file, add the class to `classes`, or set other_classes='leave_out'"
            )
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
    """Parse with expat, because the parser of ElementTree cannot refuse a DTD; return the root element."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such annotation; each image needs its XML file")
    content = _decoded(file)
    builder = TreeBuilder()
    parser: Any = expat.ParserCreate("utf-8")  # instead of the declared encoding, which expat may not know
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: Any) -> NoReturn:
        raise ValueError(f"{file}: got a document type declaration, which Pascal VOC does not use; remove it")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content.encode("utf-8"), True)
    except expat.ExpatError as error:
        raise ValueError(f"{file}: not well-formed XML ({error}); fetch the file again") from error
    return builder.close()


def _decoded(file: Path) -> str:
    """The text of a file in the encoding that its byte-order mark or its declaration names, UTF-8 by default."""
    content = file.read_bytes()
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    declared = _DECLARED.match(content)
    encoding = marked or (declared[1].decode("ascii") if declared else "utf-8")
    try:
        return content.decode(encoding)
    except (LookupError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file}: expected text in the encoding {encoding}, got other bytes or an unknown encoding ({error}); save "
            "the file as UTF-8"
        ) from error


def _object(node: Element, where: str) -> VocObject:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{where}: expected a <name>, the class of the object, got none")
    box = node.find("bndbox")
    if box is None:
        raise ValueError(f"{where} ({name}): expected a <bndbox>, got none")
    x1, y1, x2, y2 = (_number(box.find(corner), f"{where} ({name}): bndbox/{corner}") for corner in _CORNERS)
    return VocObject(name, (x1, y1, x2, y2))


def _number(node: Element | None, where: str) -> float:
    if node is None:
        raise ValueError(f"{where} is missing")
    try:
        value = float(node.text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where} must be a number, got {node.text!r}")
    return value
