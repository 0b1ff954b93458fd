"""Pascal VOC annotations: what a box becomes, and every way in which a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.tasks.detection.data.annotation import VocAnnotation, VocObject, checked_boxes, read_voc

CLASSES = ("RBC", "WBC", "Platelets")
GOOD = """<annotation><filename>a.jpg</filename><size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>WBC</name><bndbox><xmin>3</xmin><ymin>5</ymin><xmax>20</xmax><ymax>30.5</ymax></bndbox></object>
<object><name>RBC</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>64</xmax><ymax>48</ymax></bndbox></object></annotation>"""


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "a.xml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def annotation(*objects: tuple[str, tuple[float, float, float, float]]) -> VocAnnotation:
    return VocAnnotation(Path("somewhere/a.xml"), (64, 48), tuple(VocObject(*entry) for entry in objects))


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    found = read_voc(write(tmp_path, GOOD))
    assert found.size == (64, 48)
    assert found.objects == (VocObject("WBC", (3, 5, 20, 30.5)), VocObject("RBC", (1, 1, 64, 48)))


def test_pixels_counted_from_one_become_edges_counted_from_zero(tmp_path: Path) -> None:
    boxes, labels, flaws = checked_boxes(read_voc(write(tmp_path, GOOD)), CLASSES)
    assert boxes.tolist() == [[2, 4, 20, 30.5], [0, 0, 64, 48]]
    assert labels.tolist() == [1, 0]
    assert (boxes.dtype, labels.dtype, flaws) == (torch.float32, torch.int64, [])


def test_an_image_without_objects_has_none(tmp_path: Path) -> None:
    text = "<annotation><size><width>6</width><height>4</height></size></annotation>"
    boxes, labels, flaws = checked_boxes(read_voc(write(tmp_path, text)), CLASSES)
    assert (boxes.shape, labels.shape, flaws) == ((0, 4), (0,), [])


def test_boxes_are_cut_or_dropped_by_rule_and_counted() -> None:
    boxes, labels, flaws = checked_boxes(
        annotation(
            ("RBC", (5, 5, 5, 9)),  # a click
            ("RBC", (9, 9, 5, 12)),  # corners swapped
            ("RBC", (65, 5, 80, 9)),  # right of the image
            ("RBC", (-9, 5, 0, 9)),  # left of it
            ("WBC", (0, 5, 80, 9)),  # out at both sides
            ("RBC", (5, 5, 9, 9)),
            ("RBC", (5, 5, 9, 9)),  # again
            ("WBC", (5, 5, 9, 9)),  # of another class: not again
        ),
        CLASSES,
    )
    assert boxes.tolist() == [[0, 4, 64, 9], [4, 4, 9, 9], [4, 4, 9, 9]]
    assert labels.tolist() == [1, 0, 1]
    assert flaws == [
        *[("no area", f"object {i} of a") for i in (1, 2)],
        *[("outside", f"object {i} of a") for i in (3, 4)],
        ("clipped", "object 5 of a"),
        ("repeated", "object 7 of a"),
    ]


@given(st.lists(st.tuples(*[st.integers(-20, 90)] * 4), max_size=8))
def test_what_stays_has_area_inside_the_image_and_nothing_is_lost_uncounted(corners: list[tuple[int, ...]]) -> None:
    objects = annotation(*[("RBC", (float(a), float(b), float(c), float(d))) for a, b, c, d in corners])
    boxes, labels, flaws = checked_boxes(objects, CLASSES)
    assert bool((boxes[:, :2] < boxes[:, 2:]).all()) and bool((boxes >= 0).all())
    assert bool((boxes <= torch.tensor([64.0, 48, 64, 48])).all())
    dropped = [flaw for flaw, _ in flaws if flaw != "clipped"]
    assert len(boxes) == len(labels) == len(corners) - len(dropped)


def test_an_unknown_class_is_named_with_file_and_object() -> None:
    with pytest.raises(
        ValueError, match=r"a\.xml: expected a class of 'RBC', 'WBC', 'Platelets', got 'rbc' for object 2"
    ):
        checked_boxes(annotation(("RBC", (1, 1, 9, 9)), ("rbc", (1, 1, 9, 9))), CLASSES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", "not well-formed XML"),
        ("annotation>", "notes>", "expected a Pascal VOC <annotation>, got <notes>"),
        ("<width>64</width>", "", "size/width is missing"),
        ("<width>64</width>", "<width>0</width>", "whole numbers of pixels from 1 on, got 0 x 48"),
        ("<width>64</width>", "<width>6.5</width>", "whole numbers of pixels"),
        ("<size><width>64</width><height>48</height><depth>3</depth></size>", "", "size/width is missing"),
        ("<name>RBC</name>", "<name> </name>", "object 2: expected a <name>"),
        ("<name>RBC</name>", "", "object 2: expected a <name>"),
        ("<bndbox><xmin>3", "<box><xmin>3", "not well-formed"),
        ("<xmin>3</xmin>", "", r"object 1 \(WBC\): bndbox/xmin is missing"),
        ("<xmin>3</xmin>", "<xmin>three</xmin>", r"object 1 \(WBC\): bndbox/xmin must be a number, got 'three'"),
        ("<xmin>3</xmin>", "<xmin>nan</xmin>", "must be a number, got 'nan'"),
        ("<xmin>3</xmin>", "<xmin/>", "must be a number, got None"),
        ("bndbox>", "polygon>", r"object 1 \(WBC\): expected a <bndbox>"),
    ],
)
def test_malformed_files_are_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    file = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ValueError, match=message) as error:
        read_voc(file)
    assert str(file) in str(error.value)


def test_no_entity_is_ever_expanded(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("WBC")
    bombs = (
        '<!DOCTYPE annotation [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
        f'<!DOCTYPE annotation [<!ENTITY a SYSTEM "file://{secret}">]>',
        '<!DOCTYPE annotation SYSTEM "http://localhost/voc.dtd">',
    )
    for bomb in bombs:
        for encoded in (f"{bomb}{GOOD}".encode(), f"{bomb}{GOOD}".encode("utf-16")):
            with pytest.raises(ValueError, match="document type declaration"):
                read_voc(write(tmp_path, encoded))


def test_an_empty_or_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not well-formed XML"):
        read_voc(write(tmp_path, b""))
    with pytest.raises(FileNotFoundError, match=r"b\.xml: no such annotation"):
        read_voc(tmp_path / "b.xml")


@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "utf-16", "utf-8-sig", "latin-1", "cp1252"])
def test_every_declared_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    name = "细胞" if encoding.startswith(("gb", "utf")) else "Zelle ü"
    box = "".join(f"<{corner}>{i}</{corner}>" for i, corner in enumerate(("xmin", "ymin", "xmax", "ymax"), 1))
    text = (
        f"<?xml version='1.0' encoding='{encoding.removesuffix('-sig')}'?><annotation><size><width>9</width>"
        f"<height>9</height></size><object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
    )
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    assert read_voc(tmp_path / "a.xml").objects[0].name == name


@pytest.mark.parametrize("encoding", ["utf-8", "klingon", "rot13"])
def test_an_encoding_that_does_not_fit_is_named(tmp_path: Path, encoding: str) -> None:
    text = f"<?xml version='1.0' encoding='{encoding}'?><annotation>细胞</annotation>"
    (tmp_path / "a.xml").write_bytes(text.encode("gb2312"))
    with pytest.raises(ValueError, match=rf"a\.xml: expected text in the encoding {encoding}.*save the file as UTF-8"):
        read_voc(tmp_path / "a.xml")
