"""Colour images from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monai_amat.tasks.detection import LoadRGBImaged
from monai_amat.tasks.detection.transforms.rgb_image import LoadRGBImage


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_array_order_and_range_are_kept(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    image = LoadRGBImage()(tmp_path / "a.png")
    assert (image.shape, image.dtype, type(image)) == ((3, 5, 7), torch.float32, torch.Tensor)
    np.testing.assert_array_equal(image.numpy(), pixels().transpose(2, 0, 1).astype(np.float32) / 255)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA"])
def test_every_picture_of_eight_bits_becomes_colour(tmp_path: Path, mode: str) -> None:
    ending = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(pixels()).convert(mode).save(tmp_path / f"a.{ending}")
    image = LoadRGBImage()(tmp_path / f"a.{ending}")
    assert image.shape == (3, 5, 7)
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    if mode in ("L", "1", "LA"):
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


def test_a_cameras_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.fromarray(pixels()).save(tmp_path / "a.png", exif=exif)
    assert LoadRGBImage()(tmp_path / "a.png").shape == (3, 7, 5)


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such image file"):
        LoadRGBImage()(tmp_path / "a.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.png: cannot be read as an image, corrupt or truncated"):
            LoadRGBImage()(tmp_path / "a.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: expected a grey or colour picture of 8 bits, got Pillow's mode 'I"):
        LoadRGBImage()(tmp_path / "b.png")


def test_the_dictionary_form_leaves_the_rest_alone(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    item = {"image": str(tmp_path / "a.png"), "case": "a"}
    loaded = LoadRGBImaged(["image", "other"], allow_missing_keys=True)(item)
    assert torch.equal(loaded["image"], LoadRGBImage()(tmp_path / "a.png"))
    assert (loaded["case"], item["image"]) == ("a", str(tmp_path / "a.png"))
    with pytest.raises(KeyError, match="other"):
        LoadRGBImaged("other")(item)
