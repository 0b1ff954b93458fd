"""Pascal VOC folders: sections, splits, checks of the whole, and the real BCCD."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from monai_amat.data import IndexedDataset
from monai_amat.tasks.detection import load_voc, write_cells_phantom
from monai_amat.tasks.detection.data.voc import paper_split

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
    with pytest.raises(ValueError, match=r"\.xml: object \d+ is of the unknown class"):
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
    with pytest.raises(ValueError, match="2 image"):
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
    assert "5 box(es) dropped for having no area (xmax <= xmin or ymax <= ymin): object 1 of cells_000, " in text
    assert "object 1 of cells_002, ...; 1 box(es) cut off at the edge of the image: object 1 of cells_005." in text
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
        FileNotFoundError, match=r"JPEGImages/cells_004: no image .*Annotations/cells_004\.xml asks for it"
    ):
        load_voc(root, "train")
    with pytest.raises(FileNotFoundError, match=r"JPEGImages/cells_004: no image .*Main/\w+\.txt asks for it"):
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
    with pytest.raises(ValueError, match=r"train\.txt, line 1: expected one name, found 'cells_000 1'"):
        load_voc(root, "validation", split="imagesets")
    shutil.copy(root / "JPEGImages" / "cells_000.jpg", root / "JPEGImages" / "cells_000.PNG")
    with pytest.raises(ValueError, match=r"cells_000\.jpg: an image of this name is there twice, see cells_000\.PNG"):
        load_voc(root)


def test_one_image_under_two_names_is_reported(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(root / "JPEGImages" / "cells_003.jpg", root / "JPEGImages" / "cells_001.jpg")
    with caplog.at_level(logging.WARNING):
        load_voc(root, "test")
    assert len(caplog.records) == 1
    assert "one image under several names: cells_001 (" in caplog.text and ") and cells_003 (" in caplog.text


def test_images_that_do_not_fit_are_named(root: Path) -> None:
    image = root / "JPEGImages" / "cells_002.jpg"
    Image.new("RGB", (48, 64)).save(image)
    with pytest.raises(ValueError, match=r"cells_002\.xml: annotates an image of 64x48 .*cells_002\.jpg is 48x64"):
        load_voc(root, "all")
    image.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"cells_002\.jpg: cannot be opened as an image"):
        load_voc(root, "all")


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_voc(tmp_path / "nowhere")
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ValueError, match="JPEGImages: no image in it"):
        load_voc(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "JPEGImages" / "a.jpg")
    shutil.copy(tmp_path / "JPEGImages" / "a.jpg", tmp_path / "Annotations" / "a.xml")
    with pytest.raises(ValueError, match=r"1 image\(s\) cannot be split in three"):
        load_voc(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"section": "val"}, "section must be 'train', 'validation', 'test' or 'all', found 'val'"),
        ({"split": "own"}, "split must be 'paper' or 'imagesets', found 'own'"),
        ({"limit": 0}, "limit must be at least 1, found 0"),
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
    with pytest.warns(UserWarning, match=r"2 box\(es\) dropped for having no area .*_00338, .*_00343\.$"):
        items = load_voc(data_root / "BCCD", "all")
    assert len(items) == 364
    labels = torch.cat([item["labels"] for item in items])
    # As counted in the files: 4155, 372 and 361, but for the two without area.
    assert labels.bincount().tolist() == [4153, 372, 361]
    assert max(len(item["boxes"]) for item in items) == 30
    boxes = torch.cat([item["boxes"] for item in items])
    assert (boxes.amin(dim=0)[:2].tolist(), boxes.amax(dim=0)[2:].tolist()) == ([0, 0], [640, 480])


@pytest.mark.real_data("BCCD")
@pytest.mark.filterwarnings("ignore:.*dropped for having no area")
def test_the_real_splits(data_root: Path) -> None:
    for split, sizes in (("paper", (294, 33, 37)), ("imagesets", (205, 87, 72))):
        parts = [
            cases(load_voc(data_root / "BCCD", section, split=split))  # type: ignore[arg-type]
            for section in ("train", "validation", "test")
        ]
        assert tuple(len(part) for part in parts) == sizes
        assert len({name for part in parts for name in part}) == 364
