"""Copies among radiographs: what is one exposure, however it was stored and read, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from monai_amat.tasks.landmarks import load_cephalograms, write_cephalogram_phantom
from monai_amat.tasks.landmarks.data.copies import find_copies, picture_correlation


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cephalogram_phantom(tmp_path_factory.mktemp("heads") / "phantom", images=6, size=(240, 194))


def read(root: Path) -> tuple[dict[int, Path], dict[int, torch.Tensor]]:
    items = [item for section in ("train", "validation", "test") for item in load_cephalograms(root, section)]
    return (
        {i: Path(item["image"]) for i, item in enumerate(items)},
        {i: item["landmarks"] for i, item in enumerate(items)},
    )


def exported(path: Path, folder: Path, how: str) -> Path:
    """The picture of a file as another program would store it."""
    grey = np.asarray(Image.open(path).convert("L"), dtype=float)
    target = folder / f"copy.{'jpg' if how == 'compressed' else 'png'}"
    if how == "brighter":
        grey = grey * 0.7 + 60
    elif how == "gamma":
        grey = 255 * (grey / 255) ** 0.6
    Image.fromarray(grey.clip(0, 255).astype("uint8")).save(target)
    return target


@pytest.mark.parametrize("how", ["compressed", "brighter", "gamma"])
def test_an_exposure_stored_and_read_anew_is_found(heads: Path, tmp_path: Path, how: str) -> None:
    images, landmarks = read(heads)
    assert find_copies(images, landmarks, spacing=0.1) == []
    images[99] = exported(images[2], tmp_path, how)
    landmarks[99] = landmarks[2] + torch.randn(19, 2, generator=torch.manual_seed(0)) * 8  # 1 mm of a second reading
    assert find_copies(images, landmarks, spacing=0.1) == [[2, 99]]
    # In other units the same landmarks are far apart.
    assert find_copies(images, landmarks, spacing=1.0) == []


def test_neither_the_landmarks_nor_the_picture_alone_make_a_copy(heads: Path, tmp_path: Path) -> None:
    images, landmarks = read(heads)
    copy = exported(images[2], tmp_path, "brighter")
    assert find_copies({**images, 99: copy}, {**landmarks, 99: landmarks[2] + 30}, spacing=0.1) == []
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(240, 194)), 1)
    Image.fromarray((noise * 200 + 128).clip(0, 255).astype("uint8")).save(tmp_path / "noise.png")
    assert find_copies({**images, 99: tmp_path / "noise.png"}, {**landmarks, 99: landmarks[2]}, spacing=0.1) == []


def test_identical_files_are_copies_whatever_is_known_of_them(heads: Path, tmp_path: Path) -> None:
    images, landmarks = read(heads)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(images[2].read_bytes())
    more = {**images, 98: tmp_path / "a", 99: tmp_path / "b"}
    assert find_copies(more, {}, spacing=0.1) == [[2, 98, 99]]
    missing = {**landmarks, 98: torch.full((19, 2), torch.nan), 99: landmarks[2] + 500}
    assert find_copies(more, missing, spacing=0.1) == [[2, 98, 99]]


def test_copies_of_copies_are_one_group(heads: Path, tmp_path: Path) -> None:
    images, landmarks = read(heads)
    images[98] = tmp_path / "same.png"
    images[98].write_bytes(images[4].read_bytes())
    images[99] = exported(images[4], tmp_path, "compressed")
    landmarks |= {98: landmarks[4] + 500, 99: landmarks[4] + 3}
    assert find_copies(images, landmarks, spacing=0.1) == [[4, 98, 99]]


def test_landmarks_missing_from_one_are_not_compared(heads: Path, tmp_path: Path) -> None:
    images, landmarks = read(heads)
    images[99] = exported(images[3], tmp_path, "gamma")
    landmarks[99] = landmarks[3].clone()
    landmarks[99][5:] = torch.nan
    assert find_copies(images, landmarks, spacing=0.1) == [[3, 99]]
    landmarks[99][:] = torch.nan
    assert find_copies(images, landmarks, spacing=0.1) == []


def test_correlation_is_of_detail(heads: Path, tmp_path: Path) -> None:
    images, _ = read(heads)
    assert picture_correlation(images[0], exported(images[0], tmp_path, "gamma")) > 0.95
    assert picture_correlation(images[0], images[1]) < 0.8
    Image.fromarray(np.full((50, 40), 7, dtype="uint8")).save(tmp_path / "flat.png")
    assert picture_correlation(images[0], tmp_path / "flat.png") == 0.0
