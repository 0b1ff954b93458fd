"""Pascal VOC folders: sections, splits, checks of the whole, and the real BCCD."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from monai_amat.data import IndexedDataset
from monai_amat.tasks.detection import load_voc, write_cells_phantom
from monai_amat.tasks.detection.data.voc import paper_split
from monai_amat.tasks.detection.transforms.rgb_image import LoadRGBImage

SIZE = (48, 64)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells_phantom(tmp_path_factory.mktemp("voc") / "cells", images=12, size=SIZE)


@pytest.fixture
def root(phantom: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(phantom, tmp_path / "cells"))


def cases(items: list[dict[str, Any]]) -> list[str]:
    return [item["case"] for item in items]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_items_are_paths_and_tensors(phantom: Path) -> None:
    items = load_voc(phantom, "all")
    assert cases(items) == [f"cells_{i:03d}" for i in range(12)]
    for item in items:
        assert set(item) == {"image", "boxes", "labels", "case"}
        assert Path(item["image"]) == phantom / "JPEGImages" / f"{item['case']}.jpg"
        assert (item["boxes"].dtype, item["labels"].dtype) == (torch.float32, torch.int64)
        assert item["boxes"].shape == (len(item["labels"]), 4)
        assert int(item["labels"].min()) >= 0 and int(item["labels"].max()) <= 2


@pytest.mark.parametrize("split", ["paper", "imagesets"])
def test_sections_are_disjoint_and_whole(phantom: Path, split: Any) -> None:
    parts = [cases(load_voc(phantom, section, split=split)) for section in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [10, 1, 1]
    assert sorted(name for part in parts for name in part) == cases(load_voc(phantom, "all", split=split))
    assert all(part == sorted(part) for part in parts)


def test_the_lists_decide_with_imagesets(root: Path) -> None:
    lists = root / "ImageSets" / "Main"
    for stem, names in (("train", "cells_003\ncells_001\n\n"), ("val", "cells_005\n"), ("test", "")):
        (lists / f"{stem}.txt").write_text(names)
    (root / "JPEGImages" / "unlisted.jpg").write_bytes(b"no image")
    assert cases(load_voc(root, "train", split="imagesets")) == ["cells_001", "cells_003"]
    assert cases(load_voc(root, "all", split="imagesets")) == ["cells_001", "cells_003", "cells_005"]
    with pytest.raises(ValueError, match="section 'test' of split 'imagesets' is empty"):
        load_voc(root, "test", split="imagesets")


def test_labels_are_places_in_the_list_of_classes(phantom: Path) -> None:
    usual = load_voc(phantom, "all")
    turned = load_voc(phantom, "all", classes=("Platelets", "WBC", "RBC"))
    for one, other in zip(usual, turned, strict=True):
        assert torch.equal(one["labels"], 2 - other["labels"])
        assert torch.equal(one["boxes"], other["boxes"])
    with pytest.raises(ValueError, match=r"\.xml: expected a class of 'RBC', got 'WBC' for object \d+"):
        load_voc(phantom, "all", classes=("RBC",))


def test_the_papers_split_is_drawn_from_names_alone() -> None:
    names = [f"BloodImage_{i:05d}" for i in range(364)]
    parts = paper_split(names)
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [294, 33, 37]
    assert sorted(name for part in parts.values() for name in part) == names
    assert paper_split(names[::-1]) == parts
    assert paper_split(names, seed=1) != parts
    # Fixed for good: results would no longer be comparable.
    assert parts["validation"][:3] == ("BloodImage_00000", "BloodImage_00001", "BloodImage_00016")
    assert parts["test"][:3] == ("BloodImage_00004", "BloodImage_00011", "BloodImage_00021")
    assert [len(part) for part in paper_split(names[:3]).values()] == [1, 1, 1]
    with pytest.raises(ValueError, match="at least 3 images, got 2"):
        paper_split(names[:2])
    with pytest.raises(ValueError, match="unique"):
        paper_split([*names, names[0]])


def test_limit_takes_the_first_and_reads_no_more(root: Path) -> None:
    first = cases(load_voc(root, "all"))[:3]
    (root / "Annotations" / "cells_011.xml").write_text("broken")
    assert cases(load_voc(root, "all", limit=3)) == first
    assert len(load_voc(root, "all", limit=11)) == 11


def test_indices_name_the_same_images_whatever_the_folder(phantom: Path, root: Path) -> None:
    one, other = (IndexedDataset(load_voc(folder, "train")).fingerprint for folder in (phantom, root))
    assert one == other


def test_flaws_of_boxes_are_counted_in_one_warning(root: Path) -> None:
    for i in range(5):
        edit(root / "Annotations" / f"cells_00{i}.xml", "<xmax>", "<xmax>-")
    edit(root / "Annotations" / "cells_005.xml", "<ymax>", "<ymax>9")
    with pytest.warns(UserWarning) as caught:
        load_voc(root, "all")
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "5 box(es) dropped because they have no area (xmax <= xmin or ymax <= ymin): object 1 of cells_000, " in text
    assert "object 1 of cells_002 and 2 more; 1 box(es) cut at the edge of the image: object 1 of cells_005" in text
    assert str(root) in text


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "Annotations" / "cells_004.xml").rename(root / "cells_004.xml")
    with pytest.raises(
        FileNotFoundError, match=r"Annotations/cells_004\.xml: no such annotation, but .*cells_004\.jpg"
    ):
        load_voc(root, "train")
    (root / "JPEGImages" / "cells_004.jpg").unlink()
    assert len(load_voc(root, "all")) == 11
    (root / "cells_004.xml").rename(root / "Annotations" / "cells_004.xml")
    with pytest.raises(
        FileNotFoundError, match=r"JPEGImages/cells_004: no image .*Annotations/cells_004\.xml names it"
    ):
        load_voc(root, "train")
    with pytest.raises(FileNotFoundError, match=r"JPEGImages/cells_004: no image .*Main/\w+\.txt names it"):
        load_voc(root, "train", split="imagesets")
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r'train\.txt: no such list; use split="paper"'):
        load_voc(root, "train", split="imagesets")
    shutil.rmtree(root / "Annotations")
    with pytest.raises(FileNotFoundError, match="Annotations: no such folder; expected the Pascal VOC layout"):
        load_voc(root)


def test_what_is_there_twice_is_named(root: Path) -> None:
    train = root / "ImageSets" / "Main" / "train.txt"
    train.write_text(train.read_text() + "cells_000\n")
    with pytest.raises(ValueError, match=r"\.txt: lists 'cells_000', which is listed in .*train\.txt already"):
        load_voc(root, "validation", split="imagesets")
    train.write_text("cells_000 1\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 1: expected one name, got 'cells_000 1'"):
        load_voc(root, "validation", split="imagesets")
    shutil.copy(root / "JPEGImages" / "cells_000.jpg", root / "JPEGImages" / "cells_000.PNG")
    with pytest.raises(ValueError, match=r"cells_000\.jpg: two images have this name, see cells_000\.PNG"):
        load_voc(root)


def test_one_image_under_two_names_is_reported(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(root / "JPEGImages" / "cells_003.jpg", root / "JPEGImages" / "cells_001.jpg")
    with caplog.at_level(logging.WARNING):
        load_voc(root, "test")
    assert len(caplog.records) == 1
    assert "1 image(s) under several names: cells_001 (" in caplog.text and "), cells_003 (" in caplog.text


def test_images_that_do_not_fit_are_named(root: Path) -> None:
    image = root / "JPEGImages" / "cells_002.jpg"
    Image.new("RGB", (48, 64)).save(image)
    with pytest.raises(ValueError, match=r"expected an annotation of 48x64 .*cells_002\.jpg, got 64x48"):
        load_voc(root, "all")
    image.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"cells_002\.jpg: cannot be opened as an image"):
        load_voc(root, "all")


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_voc(tmp_path / "nowhere")
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ValueError, match="JPEGImages: expected images"):
        load_voc(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "JPEGImages" / "a.jpg")
    shutil.copy(tmp_path / "JPEGImages" / "a.jpg", tmp_path / "Annotations" / "a.xml")
    with pytest.raises(ValueError, match=r"at least 3 images, got 1"):
        load_voc(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"section": "val"}, "section must be 'train', 'validation', 'test' or 'all', got 'val'"),
        ({"split": "own"}, "split must be 'paper' or 'imagesets', got 'own'"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"classes": ()}, "classes must be different names"),
        ({"classes": "RBC"}, "classes must be different names"),
        ({"classes": ("RBC", "RBC")}, "classes must be different names"),
    ],
)
def test_settings_out_of_range(phantom: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_voc(phantom, **setting)


@pytest.mark.real_data("BCCD")
def test_the_real_data(data_root: Path) -> None:
    with pytest.warns(UserWarning, match=r"2 box\(es\) dropped because they have no area .*_00338, .*_00343$"):
        items = load_voc(data_root / "BCCD", "all")
    assert len(items) == 364
    labels = torch.cat([item["labels"] for item in items])
    # As counted in the files: 4155, 372 and 361, but for the two without area.
    assert labels.bincount().tolist() == [4153, 372, 361]
    assert max(len(item["boxes"]) for item in items) == 30
    boxes = torch.cat([item["boxes"] for item in items])
    assert (boxes.amin(dim=0)[:2].tolist(), boxes.amax(dim=0)[2:].tolist()) == ([0, 0], [640, 480])


@pytest.mark.real_data("BCCD")
@pytest.mark.filterwarnings("ignore:.*dropped because they have no area")
def test_the_real_splits(data_root: Path) -> None:
    for split, sizes in (("paper", (294, 33, 37)), ("imagesets", (205, 87, 72))):
        parts = [
            cases(load_voc(data_root / "BCCD", section, split=split))  # type: ignore[arg-type]
            for section in ("train", "validation", "test")
        ]
        assert tuple(len(part) for part in parts) == sizes
        assert len({name for part in parts for name in part}) == 364


def test_objects_of_other_classes_can_be_left_out_and_are_counted(root: Path) -> None:
    whole = sum(len(item["labels"]) for item in load_voc(root, "all"))
    with pytest.raises(ValueError, match=r"got '(WBC|RBC|Platelets)' .* or set other_classes='leave_out'"):
        load_voc(root, "all", classes=["RBC", "Platelets"])
    with pytest.warns(UserWarning, match=r"\d+ box\(es\) left out because their class .*: object \d+ of"):
        items = load_voc(root, "all", classes=["RBC", "Platelets"], other_classes="leave_out")
    assert 0 < sum(len(item["labels"]) for item in items) < whole
    assert {int(label) for item in items for label in item["labels"]} == {0, 1}


def test_a_section_without_an_object_is_a_warning(root: Path) -> None:
    for file in (root / "Annotations").iterdir():
        text = file.read_text()
        file.write_text(text[: text.index("<object>")] + "</annotation>")
    with pytest.warns(UserWarning, match=r"section 'test' has 1 image\(s\) and not a single object"):
        assert len(load_voc(root, "test", limit=1)) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_with_a_byte_order_mark_are_read(root: Path, encoding: str) -> None:
    before = [item["case"] for item in load_voc(root, "train", split="imagesets")]
    for file in (root / "ImageSets" / "Main").iterdir():
        file.write_text(file.read_text(), encoding=encoding)
    assert [item["case"] for item in load_voc(root, "train", split="imagesets")] == before


def test_names_that_are_not_utf_8_are_read_and_can_be_printed(root: Path) -> None:
    other = os.fsdecode(b"\xb0\xa1")
    for folder, ending in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (root / folder / f"cells_003.{ending}").rename(root / folder / f"{other}.{ending}")
    names = b"\n".join(sorted(os.fsencode(path.stem) for path in (root / "JPEGImages").iterdir()))
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(names)
    for name in ("val.txt", "test.txt"):
        (root / "ImageSets" / "Main" / name).write_text("")
    assert len(load_voc(root, "all")) == 12
    (item,) = [item for item in load_voc(root, "train", split="imagesets") if not item["case"].startswith("cells")]
    assert item["case"] == r"\xb0\xa1"
    assert LoadRGBImage()(item["image"]).shape[0] == 3


@pytest.mark.parametrize(("orientation", "turned"), [(6, True), (8, False), (3, True)])
def test_boxes_of_turned_images(root: Path, orientation: int, turned: bool) -> None:
    """Sizes show in which pixels the boxes are, except for half turns and mirror images."""
    path = root / "JPEGImages" / "cells_002.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    shape = (64, 48) if turned and orientation > 4 else (48, 64)
    Image.new("RGB", shape[::-1]).save(path, exif=exif)
    if turned:
        with pytest.warns(UserWarning, match=r"1 of 12 images have an EXIF orientation \(cells_002\.jpg\)"):
            assert len(load_voc(root, "all")) == 12
        assert LoadRGBImage()(path).shape == (3, 48, 64)
    else:
        with (
            pytest.warns(UserWarning, match="EXIF orientation"),
            pytest.raises(ValueError, match=r"cells_002\.xml: expected .* EXIF orientation 8, got 64x48"),
        ):
            load_voc(root, "all")


def test_many_identical_images_are_one_short_message(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = (root / "JPEGImages" / "cells_003.jpg").read_bytes()
    text = (root / "Annotations" / "cells_003.xml").read_text()
    for i in range(300):
        (root / "JPEGImages" / f"copy_{i}.jpg").write_bytes(content)
        (root / "Annotations" / f"copy_{i}.xml").write_text(text)
    with caplog.at_level(logging.WARNING):
        load_voc(root, "test")
    assert len(caplog.records) == 1
    assert "and 298 more" in caplog.text
    assert len(caplog.text) < 400
