"""Norms against numpy in double precision: sizes, directions, projections and draws, sample by sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monai_amat.attacks import L2, Linf, Norm, get_norm

NORMS = [L2(), Linf()]
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)
scales = st.sampled_from([1e-30, 1e-12, 1e-3, 1.0, 1e4, 1e30])


def in_double(norm: Norm, noise: Tensor) -> np.ndarray:
    flat = noise.double().reshape(len(noise), -1).numpy()
    return np.abs(flat).max(axis=1) if isinstance(norm, Linf) else np.sqrt((flat**2).sum(axis=1))


def some_noise(batch: int, shape: tuple[int, ...], scale: float, seed: int) -> Tensor:
    return torch.randn((batch, *shape), generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@given(batch=st.integers(1, 4), shape=shapes, scale=scales, seed=st.integers(0, 99))
def test_size_is_numpys_at_any_scale(norm: Norm, batch: int, shape: tuple[int, ...], scale: float, seed: int) -> None:
    noise = some_noise(batch, shape, scale, seed)
    size = norm.size(noise)
    assert size.shape == (batch,)
    np.testing.assert_allclose(size.double().numpy(), in_double(norm, noise), rtol=2e-6)


def test_size_stays_accurate_for_a_large_image() -> None:
    noise = torch.randn(2, 1, 1024, 1024) * 7 + 3
    np.testing.assert_allclose(L2().size(noise).double().numpy(), in_double(L2(), noise), rtol=2e-6)


def test_size_of_nothing_and_of_infinity() -> None:
    noise = torch.tensor([[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0]])
    for norm in NORMS:
        size = norm.size(noise)
        assert size[0] == 0
        assert not torch.isfinite(size[1:]).any()


@given(batch=st.integers(1, 4), shape=shapes, scale=scales, seed=st.integers(0, 99))
def test_l2_direction_has_length_one_and_is_parallel(
    batch: int, shape: tuple[int, ...], scale: float, seed: int
) -> None:
    gradient = some_noise(batch, shape, scale, seed)
    direction = L2().direction(gradient)
    assert direction.shape == gradient.shape
    np.testing.assert_allclose(in_double(L2(), direction), 1.0, rtol=1e-5)
    flat = gradient.double().reshape(batch, -1)
    expected = flat / flat.norm(dim=1, keepdim=True)
    torch.testing.assert_close(direction.double().reshape(batch, -1), expected, rtol=0, atol=1e-6)


def test_l2_direction_of_gradients_whose_squares_vanish() -> None:
    direction = L2().direction(torch.tensor([[3e-40, -4e-40], [3e37, -4e37]]))
    torch.testing.assert_close(direction, torch.tensor([[0.6, -0.8], [0.6, -0.8]]), rtol=0, atol=1e-4)


@given(batch=st.integers(1, 4), shape=shapes, scale=scales, seed=st.integers(0, 99))
def test_linf_direction_is_the_sign(batch: int, shape: tuple[int, ...], scale: float, seed: int) -> None:
    gradient = some_noise(batch, shape, scale, seed)
    gradient.flatten()[0] = 0.0
    assert np.array_equal(Linf().direction(gradient).numpy(), np.sign(gradient.numpy()))


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -math.inf], ids=str)
def test_an_unusable_gradient_gives_no_direction_and_does_not_change_the_others(norm: Norm, bad: float) -> None:
    good = torch.randn(3, 2, 4)
    spoilt = good.clone()
    spoilt[1] = 0.0
    spoilt[1, 0, 2] = bad
    direction, alone = norm.direction(spoilt), norm.direction(good)
    assert not direction[1].any()
    assert torch.equal(direction[[0, 2]], alone[[0, 2]])


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@given(
    batch=st.integers(1, 4), shape=shapes, scale=scales, relative=st.sampled_from([0.0, 0.3, 1.0, 3.0]), data=st.data()
)
def test_projection_is_the_nearest_point_of_the_ball(
    norm: Norm, batch: int, shape: tuple[int, ...], scale: float, relative: float, data: st.DataObject
) -> None:
    noise = some_noise(batch, shape, scale, data.draw(st.integers(0, 99)))
    sizes = torch.from_numpy(in_double(norm, noise))
    radius = (sizes * relative).float()
    projected = norm.project(noise, radius)
    assert projected.shape == noise.shape
    assert (in_double(norm, projected) <= radius.double().numpy() * (1 + 1e-6)).all()
    wide = radius.double().reshape(-1, *(1,) * len(shape))
    exact = noise.double()
    nearest = exact.clamp(-wide, wide) if isinstance(norm, Linf) else exact * min(relative, 1.0)
    torch.testing.assert_close(projected.double(), nearest, rtol=2e-6, atol=1e-44)


@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_noise_inside_the_ball_is_unchanged(norm: Norm) -> None:
    noise = torch.randn(3, 2, 5)
    assert torch.equal(norm.project(noise, norm.size(noise) * 1.001), noise)


@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_each_sample_is_projected_by_its_own_radius(norm: Norm) -> None:
    noise, radius = torch.randn(4, 3, 3), torch.tensor([0.0, 0.1, 2.0, 1e6])
    together = norm.project(noise, radius)
    for row in range(4):
        assert torch.equal(together[row], norm.project(noise[row : row + 1], radius[row : row + 1])[0])


@pytest.mark.parametrize("norm", NORMS, ids=repr)
@given(batch=st.integers(1, 4), shape=shapes, radius=st.sampled_from([0.0, 1e-30, 1e-3, 5.0, 1e30]))
def test_draw_stays_in_the_ball(norm: Norm, batch: int, shape: tuple[int, ...], radius: float) -> None:
    drawn = norm.draw(torch.zeros(batch, *shape), torch.full((batch,), radius), list(range(batch)))
    assert drawn.shape == (batch, *shape)
    assert drawn.dtype == torch.float32
    assert (in_double(norm, drawn) <= radius * (1 + 1e-6)).all()
    assert drawn.any() or radius == 0


def test_draw_follows_the_cube_projected_onto_the_ball() -> None:
    """By hand: the seed's uniform numbers, scaled to ±2, and projected onto the sphere if outside."""
    uniform = torch.rand(3, 4, generator=torch.Generator().manual_seed(11)).double()
    cube = (uniform * 2 - 1) * 2
    like, radius = torch.zeros(1, 3, 4), torch.tensor([2.0])
    torch.testing.assert_close(Linf().draw(like, radius, [11])[0].double(), cube, rtol=0, atol=1e-6)
    torch.testing.assert_close(L2().draw(like, radius, [11])[0].double(), cube * 2 / cube.norm(), rtol=0, atol=1e-6)


def test_draw_in_image_dimensions_lies_on_the_l2_sphere_and_covers_the_cube() -> None:
    like, radius = torch.zeros(4, 1, 32, 32), torch.tensor([0.5, 1.0, 2.0, 4.0])
    torch.testing.assert_close(L2().size(L2().draw(like, radius, [1, 2, 3, 4])), radius)
    filled = Linf().draw(like, radius, [1, 2, 3, 4]).flatten(1) / radius[:, None]
    assert (filled.amax(1) > 0.95).all()
    assert (filled.amin(1) < -0.95).all()
    assert filled.mean(1).abs().max() < 0.1


@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_draw_depends_on_the_sample_s_own_seed_alone(norm: Norm) -> None:
    like, radius = torch.zeros(3, 2, 6), torch.tensor([1.0, 2.0, 3.0])
    before = torch.get_rng_state()
    together = norm.draw(like, radius, [7, 8, 7])
    assert torch.equal(torch.get_rng_state(), before)
    for row, seed in enumerate([7, 8, 7]):
        alone = norm.draw(like[:1], radius[row : row + 1], [seed])[0]
        assert torch.equal(together[row], alone)
    assert not torch.equal(together[0] / 1.0, together[1] / 2.0)


def test_draw_is_not_moved_by_default_dtype_or_device() -> None:
    like, radius = torch.zeros(1, 8), torch.ones(1)
    plain = L2().draw(like, radius, [3])
    torch.set_default_dtype(torch.float64)
    try:
        double = L2().draw(like, radius, [3])
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        elsewhere = L2().draw(like, radius, [3])
    assert torch.equal(double, plain)
    assert torch.equal(elsewhere, plain)


class Sum(Norm):
    """The L1 norm, as an example of a custom norm."""

    def size(self, noise: Tensor) -> Tensor:
        return noise.abs().flatten(1).sum(1)

    def direction(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        place = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign()).reshape(gradient.shape)

    def project(self, noise: Tensor, radius: Tensor) -> Tensor:
        return noise * (radius / self.size(noise).clamp_min(1e-30)).clamp_max(1).reshape(-1, *(1,) * (noise.ndim - 1))


@pytest.mark.parametrize(
    ("given_norm", "kind"), [(2, L2), (2.0, L2), ("2", L2), (math.inf, Linf), (float("inf"), Linf), ("inf", Linf)]
)
def test_get_norm(given_norm: Any, kind: type[Norm]) -> None:
    assert type(get_norm(given_norm)) is kind


def test_a_custom_norm_is_returned_unchanged() -> None:
    own = Sum()
    assert get_norm(own) is own


@pytest.mark.parametrize("wrong", [1, 0, -2, "l2", "Linf", None, math.nan])
def test_get_norm_refuses(wrong: Any) -> None:
    with pytest.raises(ValueError, match="norm must be 2, inf or"):
        get_norm(wrong)
