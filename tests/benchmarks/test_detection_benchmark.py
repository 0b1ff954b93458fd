"""The detector's benchmark runs and compares like with like; times are not tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import detection_loss
import pytest
import torch


@pytest.mark.slow
def test_it_runs(quick: Callable[..., dict[str, Any]]) -> None:
    content = quick(detection_loss, "--device", "cpu")
    assert [row["of"] for row in content["results"]] == [
        [detection_loss.OURS, detection_loss.THEIRS],
        [detection_loss.PGD, detection_loss.BARE],
    ]
    for row in content["results"]:
        assert row["seconds"].keys() == set(row["of"])
        assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    assert "ultralytics" in content["versions"]


def test_both_losses_are_of_the_same_outputs_and_boxes() -> None:
    # Of one image they are the same loss, and so are their gradients.
    workload = detection_loss.detection("n", 64, 1, 3, 0, torch.device("cpu"))
    ours, theirs = (call() for call in detection_loss.loss_calls(workload).values())
    assert any(bool(gradient.any()) for gradient in ours)  # type: ignore[attr-defined]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
