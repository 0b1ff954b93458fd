"""The synthetic head: landmarks on their structures, inside the frame, and different from head to head."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from monai_amat.tasks.landmarks.data.files import LANDMARK_NAMES
from monai_amat.tasks.landmarks.phantom.skull import FRAME_MM, draw_skull

SIZE = (240, 194)
PIXELS_PER_MM = SIZE[0] / FRAME_MM[0]


@pytest.fixture(scope="module")
def heads() -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_skull(np.random.default_rng([7, i]), SIZE) for i in range(10)]


def around(heads: list[tuple[np.ndarray, np.ndarray]], name: str, shifts: list[tuple[float, float]]) -> list[float]:
    """Mean grey value at places (y, x) in mm from a landmark, over the heads."""
    found = []
    for image, landmarks in heads:
        places = (landmarks[LANDMARK_NAMES.index(name)] + shifts) * PIXELS_PER_MM - 0.5
        found.append(map_coordinates(gaussian_filter(image.astype(float), 1), places.T, order=1, mode="nearest"))
    return np.mean(found, axis=0).tolist()


def test_form(heads: list[tuple[np.ndarray, np.ndarray]]) -> None:
    image, landmarks = heads[0]
    assert (image.shape, image.dtype, landmarks.shape) == (SIZE, np.dtype(np.uint8), (19, 2))
    again = draw_skull(np.random.default_rng([7, 0]), SIZE)
    np.testing.assert_array_equal(again[0], image)
    np.testing.assert_array_equal(again[1], landmarks)
    assert not np.array_equal(heads[1][0], image)


def test_landmarks_stay_in_the_frame_and_apart() -> None:
    points = np.stack([draw_skull(np.random.default_rng([seed, 3]), (60, 48))[1] for seed in range(60)])
    assert points.min() > 20
    assert (points < np.array(FRAME_MM) - 10).all()
    assert points.std(axis=0).min() > 2.5
    assert points.std(axis=0).max() < 12
    # Beside what pose explains, landmarks vary on their own: a mean head, however well placed, is not the answer.
    centred = points - points.mean(axis=1, keepdims=True)
    assert centred.std(axis=0).min() > 1


def test_size_changes_the_sampling_only() -> None:
    large, points = draw_skull(np.random.default_rng(5), (240, 194))
    small, same = draw_skull(np.random.default_rng(5), (120, 96))
    np.testing.assert_array_equal(points, same)
    # 96 pixels are not quite half of 194, so coordinates and not indices are compared.
    rows, columns = np.indices(small.shape)
    there = np.stack([(rows + 0.5) * 2 - 0.5, (columns + 0.5) * 194 / 96 - 0.5])
    a = gaussian_filter(small.astype(float), 1.5)
    b = map_coordinates(gaussian_filter(large.astype(float), 3), there, order=1, mode="nearest")
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9


def test_porion_is_on_top_of_a_hole(heads: list[tuple[np.ndarray, np.ndarray]]) -> None:
    above, below = around(heads, "porion", [(-1, 0), (3, 0)])
    assert above > below + 40


def test_sella_is_in_the_middle_of_a_cup(heads: list[tuple[np.ndarray, np.ndarray]]) -> None:
    centre, *rim = around(heads, "sella", [(0, 0), (4.7, 0), (3.3, 3.3), (3.3, -3.3)])
    assert centre < min(rim) - 15


@pytest.mark.parametrize(
    ("name", "across"), [("orbitale", (3, 0)), ("articulare", (0, 4)), ("anterior nasal spine", (4, 0))]
)
def test_on_a_bright_line(heads: list[tuple[np.ndarray, np.ndarray]], name: str, across: tuple[float, float]) -> None:
    y, x = across
    on, one, other = around(heads, name, [(0, 0), (-y, -x), (y, x)])
    assert on > max(one, other) + 8


@pytest.mark.parametrize(
    ("name", "outward"),
    [
        ("upper lip", (0, 1)),
        ("lower lip", (0, 1)),
        ("soft tissue pogonion", (0, 1)),
        ("pogonion", (0, 1)),
        ("menton", (1, 0)),
        ("gonion", (0.5, -0.87)),
    ],
)
def test_on_an_outline(heads: list[tuple[np.ndarray, np.ndarray]], name: str, outward: tuple[float, float]) -> None:
    """Along the normal, grey falls most steeply within a millimetre of the landmark."""
    steps = np.arange(-4, 4.01, 0.25)
    profile = np.array(around(heads, name, [(outward[0] * s, outward[1] * s) for s in steps]))
    fall = profile[:-1] - profile[1:]
    assert abs(steps[int(fall.argmax())] + 0.125) <= 1.25
    assert profile[:8].mean() > profile[-8:].mean() + 15


def test_incisors_meet_and_point_at_each_other(heads: list[tuple[np.ndarray, np.ndarray]]) -> None:
    root_up, root_down = around(heads, "upper incisal incision", [(-9, -2.5), (5, 6)])
    assert root_up > root_down + 30
    root_up, root_down = around(heads, "lower incisal incision", [(-9, -12), (9, -1.5)])
    assert root_down > root_up
