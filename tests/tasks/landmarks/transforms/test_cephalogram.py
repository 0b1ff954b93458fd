"""Radiographs from files: array order, grey values of every kind of file, and the affine to native pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from PIL import Image

from monai_amat.tasks.landmarks import LoadCephalogramd, load_cephalograms
from monai_amat.tasks.landmarks.transforms.cephalogram import LoadCephalogram, stored_to_native


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "ending"), [("L", "bmp"), ("RGB", "bmp"), ("P", "bmp"), ("L", "png"), ("RGBA", "png"), ("LA", "png")]
)
def test_grey_values_in_array_order(tmp_path: Path, grey: np.ndarray, mode: str, ending: str) -> None:
    Image.fromarray(grey).convert(mode).save(tmp_path / f"a.{ending}")
    image = LoadCephalogram()(tmp_path / f"a.{ending}")
    assert (image.dtype, tuple(image.shape)) == (torch.float32, (1, 8, 6))
    np.testing.assert_array_equal(image[0].numpy(), grey)
    assert image.meta["filename_or_obj"] == str(tmp_path / f"a.{ending}")


def test_jpeg_and_one_bit(tmp_path: Path, grey: np.ndarray) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(LoadCephalogram()(tmp_path / "a.jpg")[0].numpy() - smooth).max() <= 3
    Image.fromarray(grey > 99).save(tmp_path / "b.png")
    np.testing.assert_array_equal(LoadCephalogram()(tmp_path / "b.png")[0].numpy(), 255.0 * (grey > 99))


def test_sixteen_bits_become_eight(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_allclose(LoadCephalogram()(tmp_path / "a.png")[0].numpy(), grey, rtol=1e-6)
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "b.tif")
    np.testing.assert_allclose(LoadCephalogram()(tmp_path / "b.tif")[0].numpy(), grey, rtol=1e-6)


@pytest.mark.parametrize("values", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70000, np.int32)])
def test_other_depths_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(
        ValueError, match=r"a\.tif: expected a grey or colour picture of 8 or 16 bits, got Pillow's mod"
    ):
        LoadCephalogram()(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ["bmp", "png", "jpg"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.7])
def test_damaged_files_are_named(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 60), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"a\.{ending}: cannot be read as an image, corrupt or truncated"):
        LoadCephalogram()(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such image file"):
        LoadCephalogramd()({"image": str(tmp_path / "a.png")})


@given(
    stored=st.tuples(st.integers(1, 50), st.integers(1, 50)), native=st.tuples(st.integers(1, 500), st.integers(1, 500))
)
def test_affine_maps_edges_to_edges(stored: tuple[int, int], native: tuple[int, int]) -> None:
    affine = stored_to_native(stored, native).numpy()
    for place in (0, 1):
        corner = np.array([place * n - 0.5 for n in stored] + [0, 1])
        expected = np.array([place * n - 0.5 for n in native] + [0, 1])
        np.testing.assert_allclose(affine @ corner, expected, atol=1e-9)


def test_dictionary_form(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(grey).save(tmp_path / "a.png")
    item = {"image": str(tmp_path / "a.png"), "native_size": torch.tensor([24, 18]), "case": "a"}
    loaded = LoadCephalogramd()(item)
    assert isinstance(loaded["image"], MetaTensor)
    torch.testing.assert_close(loaded["image"].affine, stored_to_native((8, 6), (24, 18)), rtol=0, atol=0)
    assert item["image"] == str(tmp_path / "a.png")
    del item["native_size"]
    assert torch.equal(LoadCephalogramd("image")(item)["image"].affine, torch.eye(4, dtype=torch.float64))
    assert LoadCephalogramd(("image", "second"), allow_missing_keys=True)(item)["image"].shape == (1, 8, 6)
    with pytest.raises(KeyError, match="second"):
        LoadCephalogramd(("image", "second"))(item)


@pytest.mark.real_data("ISBI2015")
def test_real_bone_ends_at_its_landmarks(data_root: Path) -> None:
    """Bone is brighter than what lies in front of nasion and chin, and below menton, where the images say they are."""
    load, falls = LoadCephalogramd(), []
    for item in load_cephalograms(data_root / "ISBI2015", "validation", limit=12):
        image = load(item)["image"]
        assert tuple(image.shape) == (1, 800, 645)
        assert 0 <= image.min() < image.max() <= 255
        places = (item["landmarks"] - image.affine[:2, -1]) / image.affine[:2, :2].diagonal()
        rows, columns = places.round().int().T.tolist()
        for i in (1, 6, 8):
            y, x = rows[i], columns[i]
            falls.append(float(image[0, y - 3 : y + 4, x - 14 : x - 3].mean() - image[0, y, x + 4 : x + 15].mean()))
        y, x = rows[7], columns[7]
        falls.append(float(image[0, y - 14 : y - 3, x].mean() - image[0, y + 4 : y + 15, x].mean()))
    assert np.mean(np.array(falls) > 10) > 0.9
