"""Changes of colour."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import pytest
import torch

from monai_amat.tasks.detection import RandColourJitterd


def item(**changes: Any) -> dict[str, Any]:
    return {
        "image": torch.rand(3, 20, 30),
        "boxes": torch.tensor([[2.0, 3.0, 12.0, 9.0], [20.0, 10.0, 30.0, 20.0]]),
        "labels": torch.tensor([2, 0]),
        "case": "a",
    } | changes


def test_colours_turn_and_greys_stay_grey() -> None:
    grey = torch.rand(1, 4, 4).expand(3, 4, 4) * 0.5
    jitter = RandColourJitterd(hue=0.5, saturation=1.0, brightness=0.4)
    jitter.set_random_state(seed=0)
    for _ in range(10):
        after = jitter({"image": grey})["image"]
        torch.testing.assert_close(after, after[:1].expand(3, 4, 4), atol=2e-3, rtol=0)
        ratio = (after / grey).flatten()
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), atol=1e-2, rtol=0)
        assert 0.59 < float(ratio[0]) < 1.41


def test_hue_saturation_and_brightness_do_what_they_are_called() -> None:
    colour = (0.6, 0.4, 0.3)
    image = torch.tensor(colour).view(3, 1, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)

    def after(**strength: float) -> list[tuple[float, float, float]]:
        settings: dict[str, Any] = {"hue": 0.0, "saturation": 0.0, "brightness": 0.0}
        jitter = RandColourJitterd(**settings | strength)
        jitter.set_random_state(seed=3)
        return [colorsys.rgb_to_hsv(*jitter({"image": image})["image"].flatten().tolist()) for _ in range(40)]

    for h, s, v in after(brightness=0.4):
        assert [h, s] == pytest.approx([hue, saturation], abs=1e-3)
        assert 0.6 * value - 1e-4 <= v <= 1.4 * value + 1e-4
    assert max(v for _, _, v in after(brightness=0.4)) > 1.2 * value
    for h, _, _ in after(saturation=0.5):
        assert h == pytest.approx(hue, abs=5e-3)
    spread = [s for _, s, _ in after(saturation=0.5)]
    assert min(spread) < 0.7 * saturation and max(spread) > 1.3 * saturation
    turned = [(h - hue + 0.5) % 1 - 0.5 for h, _, _ in after(hue=0.1)]
    assert min(turned) < -0.05 and max(turned) > 0.05 and max(map(abs, turned)) < 0.15
    # A turn: brightness and the distance from grey stay.
    luma, *chroma = colorsys.rgb_to_yiq(*colour)
    for h, s, v in after(hue=0.1):
        y, *plane = colorsys.rgb_to_yiq(*colorsys.hsv_to_rgb(h, s, v))
        assert y == pytest.approx(luma, abs=2e-3)
        assert math.hypot(*plane) == pytest.approx(math.hypot(*chroma), rel=0.02)


def test_colours_are_cut_at_the_range_and_checked() -> None:
    jitter = RandColourJitterd(brightness=1.0)
    jitter.set_random_state(seed=0)
    images = [jitter(item())["image"] for _ in range(20)]
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 for image in images)
    before = item()
    assert RandColourJitterd(prob=0.0)(before)["image"] is before["image"]
    with pytest.raises(ValueError, match=r"red, green and blue \(3, H, W\), got \(1, 4, 4\)"):
        RandColourJitterd()({"image": torch.zeros(1, 4, 4)})
    with pytest.raises(ValueError, match=r"hue must lie in \[0, 0\.5\], got 0\.6"):
        RandColourJitterd(hue=0.6)
