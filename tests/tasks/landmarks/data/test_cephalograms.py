"""Cephalograms: the challenge's layout, both splits, readers, identical images, and every kind of bad input."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monai_amat.data import IndexedDataset
from monai_amat.tasks.landmarks import load_cephalograms, write_cephalogram_phantom
from monai_amat.tasks.landmarks.data.cephalograms import SPLITS
from monai_amat.tasks.landmarks.data.files import LANDMARK_NAMES

LOGGER = "monai_amat.tasks.landmarks.data.cephalograms"
LINES = [f"{400 + 10 * i},{600 + 20 * i}" for i in range(19)]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDs 1 to 8, 151 and 152, 201 and 202; to be read, never changed."""
    return write_cephalogram_phantom(tmp_path_factory.mktemp("ceph") / "phantom", images=12, size=(60, 48))


@pytest.fixture
def root(phantom: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(phantom, tmp_path / "ceph"))


def image(root: Path, number: int) -> Path:
    folder = "TrainingData" if number < 151 else "Test1Data" if number < 301 else "Test2Data"
    return root / "RawImage" / folder / f"{number:03d}.png"


def text(root: Path, number: int, reader: str = "senior") -> Path:
    return root / "AnnotationsByMD" / f"400_{reader}" / f"{number:03d}.txt"


def add(root: Path, number: int) -> None:
    """One more image, annotated by both."""
    image(root, number).parent.mkdir(exist_ok=True)
    grey = np.random.default_rng(number).integers(0, 255, (60, 48), dtype=np.uint8)
    Image.fromarray(grey).save(image(root, number))
    for reader in ("senior", "junior"):
        text(root, number, reader).write_text("\n".join(LINES))


def cases(items: list[dict[str, Any]]) -> list[int]:
    return [int(item["case"]) for item in items]


def test_items(phantom: Path) -> None:
    items = load_cephalograms(str(phantom), "validation")
    assert [item["case"] for item in items] == ["151", "152"]
    first = items[0]
    assert sorted(first) == ["case", "image", "landmarks", "native_size", "spacing"]
    assert first["image"] == str(image(phantom, 151))
    assert (first["landmarks"].dtype, tuple(first["landmarks"].shape)) == (torch.float32, (19, 2))
    assert first["spacing"].tolist() == pytest.approx([0.1, 0.1])
    assert first["native_size"].tolist() == [2400, 1935]
    x, y = (float(part) for part in text(phantom, 151).read_text().splitlines()[7].split(","))
    senior = load_cephalograms(phantom, "validation", reader="senior")[0]["landmarks"]
    assert senior[LANDMARK_NAMES.index("menton")].tolist() == [y, x]


def test_mean_is_between_the_readers(phantom: Path) -> None:
    mean, senior, junior = (
        load_cephalograms(phantom, reader=reader)[3]["landmarks"] for reader in ("mean", "senior", "junior")
    )
    assert not torch.equal(senior, junior)
    torch.testing.assert_close(mean, (senior + junior) / 2, rtol=0, atol=0)


def test_splits(root: Path) -> None:
    for number in (150, 200, 300, 301, 400):
        add(root, number)
    expected: dict[tuple[str, str], list[int]] = {
        ("paper", "train"): [*range(1, 9), 150],
        ("paper", "validation"): [151, 152, 200],
        ("paper", "test"): [201, 202, 300],
        ("official", "train"): [*range(1, 9), 150],
        ("official", "test1"): [151, 152, 200, 201, 202, 300],
        ("official", "test2"): [301, 400],
    }
    assert {(split, section) for split, parts in SPLITS.items() for section in parts} == set(expected)
    for (split, section), ids in expected.items():
        assert cases(load_cephalograms(root, section, split=split)) == ids


def test_limit_and_settings_out_of_range(phantom: Path) -> None:
    assert cases(load_cephalograms(phantom, limit=3)) == [1, 2, 3]
    assert cases(load_cephalograms(phantom, "test", limit=99)) == [201, 202]
    for settings, message in (
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"section": "test1"}, "'train', 'validation', 'test' with split='paper', got 'test1'"),
        (
            {"section": "validation", "split": "official"},
            "'test2' with split='official', got 'validation'; only split",
        ),
        ({"split": "mine"}, "split must be one of 'paper', 'official', or a JSON list, got 'mine'"),
        ({"reader": "both"}, "reader must be one of 'mean', 'senior', 'junior', got 'both'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_cephalograms(phantom, **settings)


def test_ids_and_fingerprint_do_not_depend_on_the_folder(phantom: Path, root: Path) -> None:
    here, there = (IndexedDataset(load_cephalograms(folder)) for folder in (phantom, root))
    assert [item["sample_id"] for item in here] == list(range(8))
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != IndexedDataset(load_cephalograms(root, limit=7)).fingerprint


def test_other_endings_and_other_files(root: Path) -> None:
    for number, name in ((1, "001.BMP"), (2, "002.jpeg"), (3, "3.jpg")):
        with Image.open(image(root, number)) as picture:
            picture.convert("RGB").save(image(root, number).with_name(name))
        image(root, number).unlink()
    for name in ("Thumbs.db", "._001.png", "notes.txt"):
        image(root, 1).with_name(name).write_bytes(b"?")
    items = load_cephalograms(root)
    assert cases(items) == list(range(1, 9))
    assert [Path(item["image"]).name for item in items[:4]] == ["001.BMP", "002.jpeg", "3.jpg", "004.png"]


@pytest.mark.parametrize(("section", "left"), [("train", [1, 4, 5, 6, 7, 8]), ("validation", [151, 152])])
def test_identical_images_are_reported_and_dropped_from_training(
    root: Path, caplog: pytest.LogCaptureFixture, section: str, left: list[int]
) -> None:
    shutil.copyfile(image(root, 151), image(root, 2))
    shutil.copyfile(image(root, 151), image(root, 3))
    with caplog.at_level(logging.INFO, logger=LOGGER):
        everything = load_cephalograms(root, section)
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            (
                "WARNING",
                "one image under several IDs: 002 (train) and 003 (train) and 151 (validation); drop_duplicates=True "
                + ("leaves out 002, 003" if section == "train" else "leaves them out of the earlier section"),
            )
        ]
        caplog.clear()
        kept = load_cephalograms(root, section, drop_duplicates=True)
    assert cases(kept) == left
    assert set(cases(everything)) - set(left) == ({2, 3} if section == "train" else set())
    assert [record.levelname for record in caplog.records] == (["INFO"] if section == "train" else [])
    assert "left out: 002, 003" in caplog.text or section != "train"


def test_identical_images_elsewhere_or_outside_the_split_are_silent(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(root, 301)
    shutil.copyfile(image(root, 301), image(root, 5))
    shutil.copyfile(image(root, 151), image(root, 202))
    with caplog.at_level(logging.INFO, logger=LOGGER):
        for drop in (False, True):
            assert cases(load_cephalograms(root, "train", drop_duplicates=drop)) == list(range(1, 9))
        assert not caplog.records
        assert cases(load_cephalograms(root, "train", split="official", drop_duplicates=True)) == [1, 2, 3, 4, 6, 7, 8]


def test_within_one_section_the_lowest_id_stays(root: Path) -> None:
    shutil.copyfile(image(root, 202), image(root, 201))
    assert cases(load_cephalograms(root, "test", drop_duplicates=True)) == [201]


def test_dropping_comes_before_the_limit(root: Path) -> None:
    shutil.copyfile(image(root, 151), image(root, 1))
    assert cases(load_cephalograms(root, drop_duplicates=True, limit=2)) == [2, 3]
    for number in range(2, 9):
        shutil.copyfile(image(root, 151), image(root, number))
    with pytest.raises(ValueError, match="section 'train' is empty, because a later section repeats"):
        load_cephalograms(root, drop_duplicates=True)


@pytest.mark.parametrize(
    ("missing", "section", "named"),
    [
        ("", "train", r"ceph: no such folder; expected the layout of the ISBI 2015"),
        ("RawImage", "train", r"RawImage.TrainingData: no such folder"),
        ("RawImage/Test1Data", "test", r"RawImage.Test1Data: no such folder"),
        ("AnnotationsByMD/400_junior", "train", r"400_junior: no such folder; expected landmarks"),
        ("AnnotationsByMD/400_senior/003.txt", "train", r"400_senior.003\.txt: no such file"),
        ("RawImage/TrainingData/003.png", "train", r"TrainingData.003: no image .*400_senior.003\.txt annotates it"),
    ],
)
def test_what_is_missing_is_named(root: Path, missing: str, section: str, named: str) -> None:
    path = root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=named):
        load_cephalograms(root, section)


def test_what_a_section_does_not_need_may_be_missing(root: Path) -> None:
    shutil.rmtree(root / "RawImage" / "Test1Data")
    shutil.rmtree(root / "AnnotationsByMD" / "400_junior")
    assert len(load_cephalograms(root, reader="senior")) == 8


def test_empty_section(root: Path) -> None:
    for number in (201, 202):
        for path in (image(root, number), text(root, number), text(root, number, "junior")):
            path.unlink()
    with pytest.raises(ValueError, match="section 'test' is empty: expected images of IDs 201 to 300, got none"):
        load_cephalograms(root, "test")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("151.png", r"151\.png: expected images named by their IDs, 001 to 150"),
        ("001 copy.png", r"001 copy\.png: expected images named by their IDs"),
        ("001.jpg", r"001\.png: two images have this ID, see 001\.jpg"),
        ("1.png", r"1\.png: two images have this ID, see 001\.png"),
    ],
)
def test_images_that_do_not_belong(root: Path, name: str, message: str) -> None:
    shutil.copyfile(image(root, 1), image(root, 1).with_name(name))
    with pytest.raises(ValueError, match=message):
        load_cephalograms(root)


def test_image_that_is_none(root: Path) -> None:
    image(root, 4).write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"004\.png: cannot be opened as an image \(UnidentifiedImageError"):
        load_cephalograms(root)


def test_damaged_text_is_named_with_its_line(root: Path) -> None:
    text(root, 2, "junior").write_text("\n".join([*LINES[:4], "12;13", *LINES[5:]]))
    with pytest.raises(ValueError, match=r"400_junior.002\.txt, line 5 \(subspinale\)"):
        load_cephalograms(root)


def test_an_image_without_any_landmark_is_refused(root: Path) -> None:
    """Its loss would be 0 whatever the noise: always accepted, and a part of every threshold."""
    for folder in ("400_senior", "400_junior"):
        file = root / "AnnotationsByMD" / folder / "002.txt"
        file.write_text("\n".join(["-50,-50"] * 19))
    with pytest.raises(ValueError, match=r"002\.txt: expected a landmark inside of 002\.png"):
        load_cephalograms(root)


def test_landmarks_outside_of_the_image_are_masked_with_one_warning(root: Path) -> None:
    # The image reaches from -0.5 to 1934.5 along x and to 2399.5 along y.
    text(root, 1).write_text("\n".join(["-0.5,-0.5", "1934.5,2399.5", "1935,100", "100,2400", "-1,5", *LINES[5:]]))
    text(root, 1, "junior").write_text("\n".join([*LINES[:5], "nan,nan", *LINES[6:]]))
    text(root, 2, "junior").write_text("\n".join(["5000,100", *LINES[1:]]))
    with pytest.warns(UserWarning, match=r"4 landmark\(s\) lie outside .*: orbitale of 001, porion of 001,") as found:
        items = load_cephalograms(root)
    assert len(found) == 1
    assert items[0]["landmarks"].isnan().all(dim=1).nonzero().flatten().tolist() == [2, 3, 4, 5]
    assert items[1]["landmarks"].isnan().all(dim=1).nonzero().flatten().tolist() == [0]
    assert not any(item["landmarks"].isnan().any() for item in items[2:])


def test_sizes_without_info(root: Path) -> None:
    (root / "info.json").unlink()
    with pytest.raises(ValueError, match=r"001\.png: expected 1935x2400 pixels, .* got 48x60"):
        load_cephalograms(root)
    Image.new("L", (1935, 2400)).save(image(root, 1))
    first = load_cephalograms(root, limit=1)[0]
    assert (first["native_size"].tolist(), first["spacing"][0].item()) == ([2400, 1935], pytest.approx(0.1))
    with pytest.raises(
        ValueError, match=r'002\.png: .* give their native size in .*info\.json: \{"native_size_xy": \[1935, 24'
    ):
        load_cephalograms(root, limit=2)


@pytest.mark.parametrize("size", [(60, 48), (48, 57), (48, 48)])
def test_sizes_of_another_shape(root: Path, size: tuple[int, int]) -> None:
    Image.new("L", size).save(image(root, 5))
    with pytest.raises(ValueError, match=rf"005\.png: expected the aspect ratio of 1935x2400.*got {size[0]}x{size[1]}"):
        load_cephalograms(root)


def test_sizes_may_be_mixed_where_info_says_what_they_were(root: Path) -> None:
    Image.new("L", (645, 800)).save(image(root, 5))
    assert cases(load_cephalograms(root)) == list(range(1, 9))


@pytest.mark.real_data("ISBI2015")
def test_real_sections(data_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = data_root / "ISBI2015"
    sizes = {
        (split, section): len(load_cephalograms(root, section, split=split))
        for split, parts in SPLITS.items()
        for section in parts
    }
    assert list(sizes.values()) == [150, 50, 100, 150, 150, 100]
    # Identical files, and one of those that were exported anew.
    assert re.search(r"one image under several IDs: .* \(train\) and .* and \d+ more; drop_duplicates", caplog.text)
    twice = {1, 7, 10, 14, 28, 38, 56, 62, 80, 88, 103, 108, 118, 123, 126, 132, 137, 138, 141, 144}
    assert set(range(1, 151)) - set(cases(load_cephalograms(root, drop_duplicates=True))) == twice
    validation = cases(load_cephalograms(root, "validation", drop_duplicates=True))
    assert set(range(151, 201)) - set(validation) == {159, 188, 196}
    assert len(load_cephalograms(root, "test", drop_duplicates=True)) == 100


@pytest.mark.real_data("ISBI2015")
def test_real_landmarks_are_where_anatomy_has_them(data_root: Path) -> None:
    items = load_cephalograms(data_root / "ISBI2015")
    points = torch.stack([item["landmarks"] for item in items])
    assert not points.isnan().any()
    of = {name: points[:, i] for i, name in enumerate(LANDMARK_NAMES)}
    # Faces look to the right: x grows forward, y downward.
    for upper, lower in (("nasion", "orbitale"), ("sella", "articulare"), ("gnathion", "menton")):
        assert (of[upper][:, 0] < of[lower][:, 0]).float().mean() > 0.95, (upper, lower)
    for behind, before in (
        *(("porion", "orbitale"), ("gonion", "menton"), ("menton", "pogonion"), ("pogonion", "soft tissue pogonion")),
        *(("posterior nasal spine", "anterior nasal spine"), ("subspinale", "subnasale")),
    ):
        assert (of[behind][:, 1] < of[before][:, 1]).float().mean() > 0.95, (behind, before)
    # Most people's upper incisors are in front of the lower ones.
    assert (of["lower incisal incision"][:, 1] < of["upper incisal incision"][:, 1]).float().mean() > 0.6


def test_many_identical_images_are_one_short_message(
    phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "ceph"
    shutil.copytree(phantom, root)
    image = (root / "RawImage" / "TrainingData" / "001.png").read_bytes()
    for number in range(1, 151):
        (root / "RawImage" / "TrainingData" / f"{number:03d}.png").write_bytes(image)
        for reader in ("senior", "junior"):
            folder = root / "AnnotationsByMD" / f"400_{reader}"
            (folder / f"{number:03d}.txt").write_bytes((folder / "001.txt").read_bytes())
    with caplog.at_level(logging.WARNING):
        load_cephalograms(root, "train")
    assert "and 147 more" in caplog.text
    assert len(caplog.text) < 500
