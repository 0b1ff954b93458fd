"""Square: brute force on small images, windows in every place, energy on the sphere."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from monai_amat.attacks import Square
from monai_amat.attacks.square import window_share
from monai_amat.attacks.square_windows import Windows, hill, tiles, window_sides

NORMS: list[Any] = [2, math.inf]
SHAPES = [(9,), (1, 7), (3, 6, 9), (2, 5, 4, 3)]


def test_in_the_maximum_norm_it_finds_the_corner_that_brute_force_finds() -> None:
    """A loss in which pixels interact: the best sign of a pixel depends on the other pixels."""
    draw = torch.Generator().manual_seed(0)
    coupling = torch.randn(4, 9, 9, generator=draw)

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        flat = noisy.flatten(1)
        return torch.einsum("bi,bij,bj->b", flat, coupling[rows], flat)

    corners = torch.tensor(list(product([-0.5, 0.5], repeat=9)))
    best = torch.einsum("ci,bij,cj->bc", corners, coupling, corners).amax(1)
    images, attack = torch.zeros(4, 1, 3, 3), Square(norm="inf", queries=300)
    found = torch.stack(
        [
            objective(attack(objective, images, 0.5, seeds=range(s, s + 4)).noisy, torch.arange(4))
            for s in range(0, 32, 4)
        ]
    )
    assert (found <= best + 1e-5).all()
    # A search that keeps what is better ends at the best corner from some starts, and near it from all.
    torch.testing.assert_close(found.amax(0), best)
    assert found.mean() > 0.85 * best.mean()


def test_in_l2_it_comes_near_the_best_point_of_the_sphere() -> None:
    """The loss is linear with smooth weights, so that the best noise is a multiple of the weights."""
    weights = F.interpolate(torch.randn(6, 1, 3, 3, generator=torch.Generator().manual_seed(2)), size=12)
    result = Square(queries=800)(lambda n, rows: (n * weights[rows]).flatten(1).sum(1), torch.zeros(6, 1, 12, 12), 2.0)
    best = 2.0 * weights.flatten(1).norm(dim=1)
    assert ((result.noisy * weights).flatten(1).sum(1) > 0.5 * best).all()


def test_a_network_without_gradients_can_be_attacked() -> None:
    images = torch.zeros(1, 1, 8, 8)
    result = Square(norm="inf", queries=300)(lambda n, rows: n.detach().sign().flatten(1).sum(1), images, 0.1)
    assert result.noisy.sign().sum() > 60
    assert result.steps.tolist() == result.stalled.tolist() == [0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_pixel_is_reached_and_each_sample_has_its_own_windows(norm: Any, shape: tuple[int, ...]) -> None:
    images, seen = torch.zeros(2, *shape), []

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        seen.append(noisy.clone())
        return torch.full((2,), float(len(seen)))  # each query counts as better than the one before

    Square(norm=norm, queries=600)(objective, images, 1.0)
    changes = torch.stack([(b - a).abs() > 1e-4 for a, b in pairwise(seen)])
    assert changes.any(0).all()
    last = changes[..., -1].flatten(1).float().mean()
    assert 0.3 * changes.float().mean() < last
    assert (changes[:, 0] != changes[:, 1]).flatten(1).any(1).float().mean() > 0.5
    # Windows shrink: in the end few pixels change in a query.
    assert changes[-20:].float().mean() < changes[:20].float().mean()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_l2_noise_stays_on_the_sphere_and_linf_noise_at_the_corners(shape: tuple[int, ...]) -> None:
    images, radius = torch.randn(3, *shape), torch.tensor([0.5, 3.0, 1.0])

    def sphere(noisy: Tensor, rows: Tensor) -> Tensor:
        size = (noisy - images).flatten(1).norm(dim=1)
        torch.testing.assert_close(size, radius, rtol=1e-4, atol=1e-5)
        return noisy.flatten(1).sin().sum(1)

    Square(queries=60)(sphere, images, radius)

    def corners(noisy: Tensor, rows: Tensor) -> Tensor:
        size = (noisy - images).abs().flatten(1)
        torch.testing.assert_close(size, radius[:, None].expand(size.shape), rtol=1e-4, atol=1e-5)
        return noisy.flatten(1).sin().sum(1)

    Square(queries=60, norm="inf")(corners, images, radius)


@pytest.mark.parametrize("norm", NORMS)
def test_energy_removed_by_clipping_is_added_again(norm: Any) -> None:
    images = torch.zeros(1, 1, 6, 6)
    result = Square(norm=norm, queries=800, clip_range=(0.0, 1.0))(lambda n, rows: n.flatten(1).sum(1), images, 0.8)
    noise = result.noisy - images
    assert (noise >= 0).all()
    assert noise.norm() > 0.7 if norm == 2 else torch.equal(noise, torch.full_like(noise, 0.8))


def test_the_loss_never_falls_and_each_query_is_one_forward() -> None:
    calls = []

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        assert not noisy.requires_grad
        calls.append(noisy.flatten(1).sin().sum(1))
        return calls[-1]

    result = Square(queries=50)(objective, torch.zeros(2, 1, 5, 5), 1.0)
    assert len(calls) == 50
    torch.testing.assert_close(result.noisy.flatten(1).sin().sum(1), torch.stack(calls).amax(0))


@pytest.mark.parametrize(
    ("size", "share"), [((32, 32), 0.8), ((56, 40), 0.05), ((5, 64, 64), 0.3), ((200,), 0.1), ((2, 2), 0.5)], ids=str
)
@pytest.mark.parametrize("odd", [False, True])
def test_windows_hold_their_share_of_the_image(size: tuple[int, ...], share: float, odd: bool) -> None:
    sides = window_sides(size, share, odd=odd)
    assert all(1 <= side <= length for side, length in zip(sides, size, strict=True))
    if odd:
        assert all(side % 2 == 1 or side == length for side, length in zip(sides, size, strict=True))
    if min(size) > 2:
        assert math.prod(sides) / math.prod(size) == pytest.approx(share, rel=0.25)


@pytest.mark.parametrize("sides", [(3, 3), (7, 7), (5,), (3, 5, 5), (4, 9), (1, 3)], ids=str)
def test_a_hill_has_two_halves_of_opposite_sign_and_unit_length(sides: tuple[int, ...]) -> None:
    for axis in range(len(sides)):
        pattern = hill(sides, axis)
        assert tuple(pattern.shape) == sides
        assert pattern.norm().item() == pytest.approx(1.0)
        half = sides[axis] // 2
        assert (pattern.narrow(axis, 0, half) > 0).all()
        if half:
            assert (pattern.narrow(axis, half, sides[axis] - half) < 0).all()


def test_a_hill_is_a_sum_over_nested_boxes() -> None:
    """The half of 3 × 7 pixels: boxes around its middle, each smaller by one on all sides, of heights 1, 1/4, 1/9."""
    pattern = hill((6, 7), 0)[:3]
    expected = torch.zeros(3, 7)
    for k in range(4):
        expected[max(1 - k, 0) : 2 + k, 3 - k : 4 + k] += 1 / (k + 1) ** 2
    torch.testing.assert_close(pattern / pattern.max(), expected / expected.max())


def test_tiles_cover_an_image_of_any_shape() -> None:
    pattern, sides, counts = tiles((11, 40))
    assert tuple(pattern.shape) == (11, 40)
    assert sides == (3, 3)
    assert counts == (4, 14)
    assert (pattern != 0).all()


def test_windows_read_what_they_write() -> None:
    images = torch.zeros(2, 2, 4, 5)
    windows = Windows(torch.tensor([[0, 3], [2, 0]]), (2, 2))
    written = windows.write(images, torch.ones(2, 2, 2, 2))
    assert torch.equal(windows.read(written), torch.ones(2, 2, 2, 2))
    assert written.sum() == 16
    assert written[0, :, :2, 3:].sum() == 8
    assert written[1, :, 2:, :2].sum() == 8


def test_the_share_falls_as_in_the_paper() -> None:
    assert [window_share(q, 10_000, 0.8) for q in (10, 11, 51, 201, 8001)] == [0.8, 0.4, 0.2, 0.1, 0.8 / 512]


@pytest.mark.parametrize("settings", [{"queries": 0}, {"share": 0.0}, {"share": 1.5}, {"norm": 1}], ids=str)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Square(**settings)
