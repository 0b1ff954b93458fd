"""Detection examples: the image that is chosen, what is made of it, and the picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from monai.engines.utils import PrepareBatchDefault
from torch import Tensor, nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.losses.base import PerSampleLoss
from monai_amat.robustness import attack_each
from monai_amat.tasks.detection import DetectionExamples, make_detection_examples, plot_detection_examples

NAMES = ("bright", "dark")


class Corners(nn.Module):
    """Gives one box: its right edge follows how bright the left half of the image is."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x[..., : x.shape[-1] // 2].flatten(1).mean(dim=1, keepdim=True)


class RightEdge(PerSampleLoss):
    """How far the right edge is from the truth's, in widths of the image."""

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {"edge": (pred[:, 0] - target[:, 0, 3] / 20).abs()}


def decode(pred: Tensor) -> list[Tensor]:
    """A box from (2, 4) to the right edge, 12, of class 0; and a weak one of class 1."""
    weak = torch.tensor([[0.0, 0.0, 3.0, 3.0, 0.1, 1.0]])
    return [torch.cat([torch.tensor([[2.0, 4.0, max(20 * float(edge), 2.0), 12.0, 0.9, 0.0]]), weak]) for edge in pred]


def target(*labels: int) -> Tensor:
    rows = torch.zeros(4, 5)
    rows[:, 0] = -1
    for i, label in enumerate(labels):
        rows[i] = torch.tensor([float(label), 2.0, 4.0, 10.0, 12.0])
    return rows


def batch(channels: int = 3) -> dict[str, Any]:
    image = torch.full((2, channels, 16, 20), 0.5)
    image[:, 0] += 0.01
    return {"image": image, "label": torch.stack([target(0), target()]), "sample_seed": torch.arange(2)}


def examples(min_score: float = 0.25, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "loss": RightEdge(),
        "attack": ProjectedGradientDescent(steps=3, rel_step=0.5),
        "epsilon": 3.0,
    }
    attacked = attack_each({"STD": Corners(1.0), "AMAT": Corners(0.9)}, batch(), **arguments | changes)
    return make_detection_examples(attacked, classes=2, decode=decode, min_score=min_score)


def test_examples_hold_the_attacked_image() -> None:
    found = examples()
    assert [example.arm for example in found] == ["STD", "AMAT"]
    for example in found:
        np.testing.assert_array_equal(example.clean, batch()["image"][0])
        assert np.linalg.norm(example.noisy - example.clean) == pytest.approx(3.0, rel=1e-4)
        assert example.truth.tolist() == [[0, 2, 4, 10, 12]]
        assert example.clean_found.shape == example.noisy_found.shape == (1, 6)  # the weak one is left out
        right = example.clean_found[0, 2]
        assert example.clean_iou == pytest.approx(min(right - 2, 8) / max(right - 2, 8), abs=1e-5)
        assert example.noisy_iou < example.clean_iou - 0.05
    assert len(examples(min_score=0.05)[0].clean_found) == 2
    still = examples(epsilon=0.0)[0]
    np.testing.assert_array_equal(still.clean_found, still.noisy_found)


def test_the_workflows_own_inferer_and_batches_are_used() -> None:
    class Halved(PrepareBatchDefault):
        def __call__(self, batchdata: Any, *args: Any, **kwargs: Any) -> Any:
            return super().__call__({"image": batchdata["image"] / 2, "label": batchdata["label"]}, *args, **kwargs)

    calls = []

    def double(inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = 2 * network(inputs)
        calls.append(output.requires_grad)
        return output

    usual, changed = examples(epsilon=0.0)[0], examples(epsilon=0.0, prepare_batch=Halved(), inferer=double)[0]
    np.testing.assert_allclose(changed.clean, usual.clean / 2)
    np.testing.assert_allclose(changed.clean_found, usual.clean_found, rtol=1e-5)
    calls.clear()
    examples(inferer=double)
    assert calls == [*[True] * 3, False, False] * 2  # for each network three steps of the attack, then two looks


def test_the_grid_is_drawn_with_a_row_an_arm(tmp_path: Path) -> None:
    found = examples()
    plot_detection_examples(found, tmp_path / "two.png", class_names=NAMES)
    plot_detection_examples(found[:1], tmp_path / "one.png", class_names=NAMES)
    two, one = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("two", "one"))
    assert two.shape[0] > 1.5 * one.shape[0]
    assert two.shape[1] == one.shape[1] > 1000
    colourful = (two[..., :3].max(axis=2) - two[..., :3].min(axis=2)) > 0.2
    assert colourful.sum() > 500
    nothing = dataclasses.replace(
        found[0], noisy_found=np.zeros((0, 6)), truth=np.zeros((0, 5)), noisy_iou=float("nan")
    )
    plot_detection_examples([nothing], tmp_path / "nothing.png", class_names=NAMES)
    with pytest.raises(ValueError, match="class 0 needs a name"):
        plot_detection_examples(found, tmp_path / "none.png", class_names=[])
    with pytest.raises(ValueError, match="no example"):
        plot_detection_examples([], tmp_path / "none.png", class_names=NAMES)
    assert not (tmp_path / "none.png").exists()


def test_grey_images_are_shown_grey() -> None:
    attack = ProjectedGradientDescent(steps=1)
    attacked = attack_each({"a": Corners(1.0)}, batch(1), loss=RightEdge(), attack=attack, epsilon=0.0)
    grey = make_detection_examples(attacked, classes=2, decode=decode)[0]
    assert grey.clean.shape == (3, 16, 20)
    assert (grey.clean == grey.clean[:1]).all()


def test_the_image_with_every_class_and_fewest_objects_is_chosen(tmp_path: Path) -> None:
    chosen: list[Any] = []

    def draw(labels: Sequence[Tensor]) -> int:
        items = [
            {"image": torch.full((3, 16, 20), 0.5), "targets": rows, "sample_seed": 0, "number": i}
            for i, rows in enumerate(labels)
        ]

        class Prepare(PrepareBatchDefault):
            def __call__(self, batchdata: Any, *args: Any, **kwargs: Any) -> Any:
                chosen.append(int(batchdata["number"]))
                return super().__call__({**batchdata, "label": batchdata["targets"]}, *args, **kwargs)

        DetectionExamples(
            loss=RightEdge(),
            attack=ProjectedGradientDescent(steps=1),
            epsilon=1.0,
            class_names=NAMES,
            decode=decode,
            prepare_batch=Prepare(),
        ).draw({"STD": Corners(1.0)}, items, tmp_path / "a.png")
        return chosen[-1]

    assert draw([target(), target(0, 0, 0), target(0, 0, 1), target(0, 1), target(1, 0)]) == 3
    assert draw([target(0, 0), target(1)]) == 1
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.02
    assert draw([target()]) == 0  # what is found on it can be seen all the same
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.02
    with pytest.raises(ValueError, match="there is no image to show"):
        draw([])
