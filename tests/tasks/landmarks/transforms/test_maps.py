"""Heat maps and offsets against a loop over pixels, at any place, size and radius."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_amat.tasks.landmarks import LandmarkMapsd
from monai_amat.tasks.landmarks.transforms.maps import landmark_maps

NAN = float("nan")


def loop(points: list[list[float]], size: tuple[int, ...], radius: float) -> np.ndarray:
    """The description, pixel by pixel."""
    axes, count = len(size), len(points)
    maps = np.zeros(((1 + axes) * count, *size))
    for number, point in enumerate(points):
        if any(math.isnan(p) or not -0.5 <= p <= extent - 0.5 for p, extent in zip(point, size, strict=True)):
            continue
        for pixel in np.ndindex(*size):
            distance = math.dist(pixel, point)
            if distance < radius:
                maps[(number, *pixel)] = math.exp(-(distance**2) / (2 * radius**2))
                for axis in range(axes):
                    maps[((1 + axis) * count + number, *pixel)] = (point[axis] - pixel[axis]) / radius
    return maps


@pytest.mark.parametrize(
    ("points", "size", "radius"),
    [
        ([[3.0, 4.0], [0.0, 0.0], [6.3, 2.71]], (8, 11), 2.5),
        ([[NAN, NAN], [NAN, 3.0], [-0.51, 3.0], [3.0, 10.51], [-0.5, 10.5]], (8, 11), 3.0),
        ([[2.2]], (7,), 1.0),
        ([[1.0, 2.5, 3.3], [0.0, 0.0, 0.0]], (4, 5, 6), 2.0),
    ],
)
def test_against_the_loop(points: list[list[float]], size: tuple[int, ...], radius: float) -> None:
    found = landmark_maps(torch.tensor(points), size, radius)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), loop(points, size, radius), rtol=1e-5, atol=1e-6)


def test_by_hand() -> None:
    maps = landmark_maps(torch.tensor([[1.0, 1.25]]), (3, 3), radius=1.0)
    gaussian = [[0.0, math.exp(-(0.25**2) / 2), math.exp(-(0.75**2) / 2)]]
    torch.testing.assert_close(maps[0], torch.tensor([[0.0] * 3, *gaussian, [0.0] * 3]))
    torch.testing.assert_close(maps[1], torch.zeros(3, 3))
    torch.testing.assert_close(maps[2], torch.tensor([[0.0] * 3, [0.0, 0.25, -0.75], [0.0] * 3]))


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 40),
    radius=st.floats(1, 12),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_pixel_of_the_disc_says_where_the_landmark_is(
    height: int, width: int, radius: float, where: tuple[float, float]
) -> None:
    point = torch.tensor([where[0] * height - 0.5, where[1] * width - 0.5])
    assume(bool((point <= torch.tensor([height - 0.5, width - 0.5])).all()))  # float32 may round it out
    maps = landmark_maps(point[None], (height, width), radius)
    pixels = (maps[0] > 0).nonzero()
    assert len(pixels) > 0
    said = pixels + radius * maps[1:, maps[0] > 0].T
    # What float32 can hold of an offset up to 1, times R.
    torch.testing.assert_close(said, point.expand_as(said), rtol=1e-6, atol=1e-6 * radius)
    assert maps[0].max() <= 1
    assert maps[0][maps[0] > 0].min() > math.exp(-0.5) - 1e-6
    assert not maps[1:, maps[0] == 0].any()


def test_half_precision_points_and_metadata() -> None:
    point = torch.tensor([[2.5, 3.25]])
    expected = landmark_maps(point, (8, 8), 2.0)
    assert torch.equal(landmark_maps(point.half(), (8, 8), 2.0), expected)
    found = landmark_maps(MetaTensor(point), (8, 8), 2.0)
    assert type(found) is torch.Tensor
    assert torch.equal(found, expected)


@pytest.mark.parametrize("radius", [0.99, 0.0, -1.0, NAN, float("inf")])
def test_a_disc_that_may_be_empty_is_refused(radius: float) -> None:
    with pytest.raises(ValueError, match="radius must be at least 1 pixel"):
        landmark_maps(torch.zeros(1, 2), (8, 8), radius)


@pytest.mark.parametrize("shape", [(2,), (3, 3), (1, 3, 2)])
def test_points_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"landmarks must be \(L, 2\)"):
        landmark_maps(torch.zeros(shape), (8, 8), 2.0)


def test_the_transform_follows_the_images_size() -> None:
    points = torch.tensor([[20.5, 30.0], [NAN, NAN], [99.0, 7.75]])
    for size in ((100, 80), (200, 160)):
        item = {"image": MetaTensor(torch.zeros(3, *size)), "landmarks": points, "case": "001"}
        made = LandmarkMapsd()(item)
        assert torch.equal(made["maps"], landmark_maps(points, size, 0.05 * size[0]))
        assert made["maps"].shape == (9, *size)
        assert list(made) == ["image", "landmarks", "case", "maps"]
        assert "maps" not in item
    wide = LandmarkMapsd("points", "scan", "heat", relative_radius=0.1)(
        {"scan": torch.zeros(1, 50, 60), "points": points}
    )
    assert torch.equal(wide["heat"], landmark_maps(points, (50, 60), 5.0))


def test_numpy_points_and_items_without_any() -> None:
    item: dict[str, Any] = {"image": torch.zeros(1, 40, 40)}
    points = np.array([[3.0, 4.0]])
    assert torch.equal(
        LandmarkMapsd()({**item, "landmarks": points})["maps"], landmark_maps(torch.tensor(points), (40, 40), 2.0)
    )
    assert LandmarkMapsd(allow_missing_keys=True)(item) == item
    with pytest.raises(KeyError, match="landmarks"):
        LandmarkMapsd()(item)
    with pytest.raises(KeyError, match=r"needs 'image'.*\['landmarks'\]"):
        LandmarkMapsd()({"landmarks": points})


def test_small_images_and_other_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"'landmarks' with 'image' of size \(19, 40\): radius must be .* got 0\.95"):
        LandmarkMapsd()({"image": torch.zeros(1, 19, 40), "landmarks": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match=r"'landmarks' with 'image' of size \(40, 40\): landmarks must be"):
        LandmarkMapsd()({"image": torch.zeros(1, 40, 40), "landmarks": torch.zeros(1, 3)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": ["a", "b"]}, "one key"),
        ({"relative_radius": 0.0}, "relative_radius"),
        ({"relative_radius": NAN}, "relative_radius"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LandmarkMapsd(**settings)
