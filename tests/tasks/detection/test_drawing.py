"""Boxes on an image: pixels that are where the numbers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from monai_amat.tasks.detection import draw_boxes
from monai_amat.tasks.detection.drawing import class_colour


def colour(label: int) -> list[int]:
    return [round(255 * part) for part in to_rgb(class_colour(label))]


def drawn(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def test_a_box_encloses_its_pixels_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 120, 200)) / 255
    draw_boxes(image, torch.tensor([[50.0, 60, 150, 110]]), torch.tensor([1]), None, tmp_path / "a.png")
    picture = drawn(tmp_path / "a.png")
    assert picture.shape == (120, 200, 3)
    marked = (picture == colour(1)).all(axis=-1)
    rows, columns = np.nonzero(marked)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (60, 109, 50, 149)
    assert marked[60, 50:150].all() and marked[60:110, 149].all()
    untouched = np.ones((120, 200), bool)
    untouched[60:110, 50:150] = False
    original = (image.numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(picture[untouched], original[untouched])
    np.testing.assert_array_equal(picture[85:105, 60:140], original[85:105, 60:140])


def test_the_best_lies_on_top_and_text_says_class_and_score(tmp_path: Path) -> None:
    boxes, labels = torch.tensor([[20.0, 20, 90, 90]]).expand(2, 4), torch.tensor([0, 1])
    for scores in ([0.9, 0.3], [0.3, 0.9]):
        draw_boxes(torch.zeros(1, 100, 100), boxes, labels, torch.tensor(scores), tmp_path / "a.png")
        best = int(scores[1] > scores[0])
        assert drawn(tmp_path / "a.png")[50, 20].tolist() == colour(best)
    texts = []
    for names, scores in (("ab", [0.5]), (["longer", "b"], [0.5]), ("ab", [0.6])):
        draw_boxes(
            torch.zeros(1, 100, 100), boxes[:1], labels[:1], torch.tensor(scores), tmp_path / "a.png", class_names=names
        )
        texts.append(drawn(tmp_path / "a.png").tobytes())
    assert len(set(texts)) == 3


def test_nothing_found_is_the_image(tmp_path: Path) -> None:
    draw_boxes(torch.full((3, 8, 9), 2.0), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), tmp_path / "a.png")
    assert (drawn(tmp_path / "a.png") == 255).all()


def test_what_does_not_fit_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    image, boxes, labels = torch.zeros(3, 9, 9), torch.tensor([[1.0, 1, 5, 5]]), torch.tensor([2])
    wrong: list[tuple[Any, str]] = [
        ((image[0], boxes, labels, None), r"an image \(3, H, W\) or \(1, H, W\), got \(9, 9\)"),
        ((image[:2], boxes, labels, None), "an image"),
        ((image, boxes[0], labels, None), r"boxes \(n, 4\)"),
        ((image, boxes, labels[:0], None), r"labels \(n,\), got \(1, 4\) and \(0,\)"),
        ((image, boxes, labels, torch.zeros(2)), r"1 boxes need as many scores, got \(2,\)"),
    ]
    for (pixels, corners, classes, scores), message in wrong:
        with pytest.raises(ValueError, match=message):
            draw_boxes(pixels, corners, classes, scores, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"classes \[2\] need names, got \['a', 'b'\]"):
        draw_boxes(image, boxes, labels, None, tmp_path / "a.png", class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"must end in \.png, got a\.jpg"):
        draw_boxes(image, boxes, labels, None, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
