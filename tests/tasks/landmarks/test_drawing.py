"""Landmarks on a radiograph: in native pixels, whatever size the image is stored at."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from monai.data import MetaTensor
from scipy.ndimage import center_of_mass, label

from monai_amat.robustness.figure import PALETTE
from monai_amat.tasks.landmarks import draw_landmarks
from monai_amat.tasks.landmarks.drawing import _extent

NAN = float("nan")
POINTS = torch.tensor([[10.0, 10.0], [10.0, 110.0], [210.0, 60.0], [NAN, NAN]])


def dots(path: Path) -> np.ndarray:
    """Centres `(n, 2)` of the drawn points, in dots of the picture, from left to right."""
    pixels = matplotlib.image.imread(path)[..., :3]
    groups, count = label(np.abs(pixels - to_rgb(PALETTE[1])).max(axis=2) < 0.25)
    centres = np.array(center_of_mass(groups > 0, groups, range(1, count + 1)))
    sizes = np.bincount(groups.ravel())[1:]
    return centres[sizes > 10][np.argsort(centres[sizes > 10, 1])]


def test_points_are_placed_as_they_are(tmp_path: Path) -> None:
    draw_landmarks(np.zeros((240, 120)), POINTS, tmp_path / "a.png")
    left, middle, right = dots(tmp_path / "a.png")
    scale = (right - left)[1] / 100
    assert (right - left)[0] == pytest.approx(0, abs=2)
    np.testing.assert_allclose((middle - left) / scale, (200, 50), atol=2)


def test_a_reduced_image_is_drawn_at_its_native_place(tmp_path: Path) -> None:
    affine = torch.tensor([[3.0, 0, 0, 1], [0, 3.0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    full = MetaTensor(torch.zeros(1, 240, 120))
    reduced = MetaTensor(torch.zeros(1, 80, 40), affine=affine)
    assert _extent(full, (240, 120)) == _extent(reduced, (80, 40)) == pytest.approx((-0.5, 239.5, -0.5, 119.5))
    draw_landmarks(full, POINTS, tmp_path / "full.png")
    draw_landmarks(reduced, POINTS, tmp_path / "reduced.png")
    np.testing.assert_allclose(dots(tmp_path / "full.png"), dots(tmp_path / "reduced.png"), atol=0.6)


def test_the_image_is_shown_the_right_way_round(tmp_path: Path) -> None:
    image = np.zeros((3, 240, 120))
    image[0, :120, :60] = 1  # upper left
    draw_landmarks(image, torch.full((1, 2), NAN), tmp_path / "a.png")
    pixels = matplotlib.image.imread(tmp_path / "a.png")[..., 0]
    inner = pixels[20:-20, 20:-20]
    quarters = [part.mean() for half in np.array_split(inner, 2) for part in np.array_split(half, 2, axis=1)]
    assert quarters[0] > 0.8
    assert max(quarters[1:]) < 0.2


def test_names_make_a_key(tmp_path: Path) -> None:
    draw_landmarks(np.zeros((240, 120)), POINTS, tmp_path / "plain.png")
    draw_landmarks(np.zeros((240, 120)), POINTS, tmp_path / "named.png", names=["a", "b", "c", "d"])
    plain, named = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("plain", "named"))
    assert named.shape[1] > plain.shape[1] + 200
    assert len(dots(tmp_path / "named.png")) == 3
    with pytest.raises(ValueError, match="4 points need as many names, got 1"):
        draw_landmarks(np.zeros((240, 120)), POINTS, tmp_path / "x.png", names=["a"])


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected an image \(H, W\) or \(C, H, W\) and points \(L, 2\)"):
        draw_landmarks(np.zeros((1, 1, 4, 4)), POINTS, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"points \(L, 2\), got \(4, 4\) and \(4, 3\)"):
        draw_landmarks(np.zeros((4, 4)), np.zeros((4, 3)), tmp_path / "x.png")
    turned = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="turned or sheared: draw on the image as loaded"):
        draw_landmarks(MetaTensor(torch.zeros(1, 4, 4), affine=turned), POINTS, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
