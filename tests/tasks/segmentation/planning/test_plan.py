"""The plan: the paper's three configurations, and what holds for any data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_amat.tasks.segmentation import make_plan, nnunet_2d
from monai_amat.tasks.segmentation.planning.plan import _feature_values

# facts of the paper and of nnU-Net's documentation: median shapes, cases, channels, classes; patch, batch, poolings.
PAPER = {
    "heart": ((115, 320, 232), 20, 1, 2, (320, 256), 40, 6),
    "hippocampus": ((36, 50, 35), 260, 1, 3, (56, 40), 366, 3),
    "prostate": ((20, 320, 319), 32, 2, 3, (320, 320), 32, 6),
}


@pytest.mark.parametrize("task", PAPER)
def test_the_papers_configurations(task: str) -> None:
    (slices, *size), cases, channels, classes, patch, batch, poolings = PAPER[task]
    plan = make_plan(size, median_slices=slices, cases=cases, channels=channels, num_classes=classes)
    assert plan.patch_size == patch
    assert plan.batch_size == batch
    assert plan.poolings == (poolings, poolings)
    assert list(plan.features) == [32, 64, 128, 256, 480, 480, 480][: poolings + 1]
    assert plan.spacing is None


def test_the_budget_limits_large_patches_and_the_share_small_data_sets() -> None:
    many = make_plan((256, 256), median_slices=100, cases=1000)
    # 50 patches of 256x256 are what the budget was measured with, at another depth: within a few.
    assert 45 <= many.batch_size <= 52
    # 5 % of 4 cases of 10 slices is two slices.
    assert make_plan((256, 256), median_slices=10, cases=4).batch_size == 2
    assert make_plan((256, 256), median_slices=10, cases=40).batch_size == 20
    # However large an image is, two patches are trained on.
    assert make_plan((2048, 2048), median_slices=100, cases=1000).batch_size == 2


def test_an_image_smaller_than_two_poolings_need_is_padded() -> None:
    assert make_plan((9, 12), median_slices=5, cases=10).patch_size == (16, 16)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 3), st.integers(2, 5))
def test_a_plan_covers_the_median_with_less_than_one_pooled_pixel_to_spare(
    height: int, width: int, channels: int, classes: int
) -> None:
    plan = make_plan((height, width), median_slices=40, cases=30, channels=channels, num_classes=classes)
    for size, planned, times in zip((height, width), plan.patch_size, plan.poolings, strict=True):
        wanted = max(size, 16)
        assert planned % 2**times == 0
        assert wanted <= planned < wanted + 2**times
    assert len(plan.features) == max(plan.poolings) + 1
    assert plan.batch_size >= 2
    more = make_plan((height, width), median_slices=40, cases=3000, channels=channels, num_classes=classes)
    assert more.batch_size >= plan.batch_size


@settings(max_examples=5)
@given(st.integers(16, 70), st.integers(16, 70))
def test_the_network_can_be_built_and_applied(height: int, width: int) -> None:
    plan = make_plan((height, width), median_slices=20, cases=20)
    network = nnunet_2d(
        in_channels=1, out_channels=2, patch_size=plan.patch_size, poolings=plan.poolings, base_features=2
    ).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *plan.patch_size)).shape == (1, 2, *plan.patch_size)


@pytest.mark.parametrize(
    "change",
    [{"median_size": (0, 5)}, {"median_size": (5, 5, 5)}, {"cases": 0}, {"num_classes": 1}, {"channels": 0}],
)
def test_what_is_no_data_set_is_refused(change: dict[str, object]) -> None:
    given: dict[str, object] = {"median_size": (20, 20), "median_slices": 5, "cases": 3, **change}
    with pytest.raises(ValueError, match="a plan needs a median size"):
        make_plan(given.pop("median_size"), **given)  # type: ignore[arg-type]


def test_feature_values_of_a_small_network_by_hand() -> None:
    """64 pixels of 5·30 features, a channel and two classes; 16 of 5·60; 4 of 2·120."""
    assert _feature_values((8, 8), (2, 2), 480, 1, 2) == 64 * 153 + 16 * 300 + 4 * 240
    # One axis pooled alone at the end: 4 of 5·120, 2 of 2·240, and a cap on the widths.
    assert _feature_values((8, 8), (3, 2), 200, 1, 2) == 64 * 153 + 16 * 300 + 4 * 600 + 2 * 2 * 200


def test_memory_is_counted_as_a_network_keeps_it() -> None:
    """Against the feature maps of a real network: nnU-Net's estimate is proportional to them within a fifth."""
    ratios = []
    for size, channels in (((64, 64), 1), ((64, 96), 3)):
        plan = make_plan(size, median_slices=100, cases=10_000, channels=channels)
        network = nnunet_2d(
            in_channels=channels, out_channels=2, patch_size=size, poolings=plan.poolings, deep_supervision=False
        )
        kept = 0

        def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            nonlocal kept
            kept += output.numel()

        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                module.register_forward_hook(count)
        with torch.no_grad():
            network(torch.zeros(1, channels, *size))
        ratios.append(kept * plan.batch_size)
    assert np.ptp(ratios) < 0.2 * max(ratios)
