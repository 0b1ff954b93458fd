from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from monai_amat.data.sampler import SeededSampler


@given(size=st.integers(1, 20), factor=st.integers(1, 60), seed=st.integers(0, 5), epoch=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_pass_is_a_permutation_with_its_own_visit(size: int, factor: int, seed: int, epoch: int) -> None:
    sampler = SeededSampler(size, num_samples=factor, seed=seed)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == factor
    for start in range(0, factor, size):
        part = drawn[start : start + size]
        visit = start // size
        assert {index // size for index in part} == {visit}
        assert len({index % size for index in part}) == len(part)


def test_order_follows_from_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = SeededSampler(50, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_passes_of_one_epoch_differ() -> None:
    drawn = list(SeededSampler(50, num_samples=100))
    assert [index - 50 for index in drawn[50:]] != drawn[:50]


def test_without_shuffling_in_order() -> None:
    assert list(SeededSampler(3, num_samples=7, shuffle=False)) == [0, 1, 2, 3, 4, 5, 6]


def test_global_generator_neither_used_nor_moved() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    first = list(SeededSampler(20, weights=[1.0] * 20))
    torch.manual_seed(0)
    assert list(SeededSampler(20, weights=[1.0] * 20)) == first
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0, 1.0, 0.0, 4.0]])
@pytest.mark.parametrize(("world", "batch"), [(2, 2), (3, 1), (4, 2)])
def test_ranks_see_together_what_one_process_sees(weights: list[float] | None, world: int, batch: int) -> None:
    settings_ = {"num_samples": 24, "weights": weights, "seed": 3}
    whole = list(BatchSampler(SeededSampler(7, **settings_), world * batch, drop_last=False))  # type: ignore[arg-type]
    shares = [
        list(BatchSampler(SeededSampler(7, rank=r, world_size=world, **settings_), batch, drop_last=False))  # type: ignore[arg-type]
        for r in range(world)
    ]
    for number, expected in enumerate(whole):
        assert sorted(index for share in shares for index in share[number]) == sorted(expected)
    assert {len(share) for share in shares} == {len(whole)}


def test_tail_dropped_so_that_ranks_agree_in_length() -> None:
    shares = [SeededSampler(10, rank=rank, world_size=4) for rank in range(4)]
    assert [len(share) for share in shares] == [len(list(share)) for share in shares] == [2, 2, 2, 2]


def test_visits_count_earlier_draws_of_a_sample() -> None:
    seen: Counter[int] = Counter()
    for index in SeededSampler(5, num_samples=200, weights=[1, 5, 0, 2, 1]):
        sample, visit = index % 5, index // 5
        assert visit == seen[sample]
        seen[sample] += 1
    assert max(seen.values()) > 50


def test_weights_are_the_shares_drawn() -> None:
    weights = [0.0, 1.0, 3.0, 0.0, 6.0, 0.0]
    counts = Counter(index % 6 for index in SeededSampler(6, num_samples=20_000, weights=weights, seed=1))
    assert set(counts) == {1, 2, 4}
    for sample, count in counts.items():
        share = weights[sample] / 10
        assert abs(count / 20_000 - share) < 5 * math.sqrt(share * (1 - share) / 20_000)


def test_more_samples_than_multinomial_takes() -> None:
    size = 2**24 + 10
    weights = torch.zeros(size)
    weights[-1] = 1e-30
    assert {index % size for index in SeededSampler(size, num_samples=3, weights=weights)} == {size - 1}


def test_enormous_weights_do_not_overflow() -> None:
    counts = Counter(index % 2 for index in SeededSampler(2, num_samples=1000, weights=[1.7e308, 1.7e308]))
    assert min(counts[0], counts[1]) > 400


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
def test_extreme_draws_stay_within_the_samples_with_a_weight(monkeypatch: pytest.MonkeyPatch, draw: float) -> None:
    monkeypatch.setattr(torch, "rand", lambda count, **_: torch.full((count,), draw, dtype=torch.float64))
    expected = 2 if draw == 0 else 4
    for factor in (1.0, 0.1, 1.3, 3e-300):
        weights = [factor * weight for weight in (0.0, 0.0, 3.0, 0.7, 1.1, 0.0)]
        assert list(SeededSampler(6, num_samples=1, weights=weights)) == [expected]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"size": 3, "num_samples": 0}, "num_samples=0"),
        ({"size": 3, "weights": [1.0, 1.0]}, r"shape \(3,\), got \(2,\)"),
        ({"size": 2, "weights": [1.0, -1.0]}, r"got weights\[1\] = -1"),
        ({"size": 2, "weights": [math.nan, 1.0]}, r"got weights\[0\] = nan"),
        ({"size": 2, "weights": [1.0, math.inf]}, r"got weights\[1\] = inf"),
        ({"size": 2, "weights": [0.0, 0.0]}, "not all be zero"),
        ({"size": 2, "weights": [1.0, 1.0], "shuffle": False}, "shuffle=False"),
        ({"size": 2, "rank": 1}, "rank=1, world_size=None"),
        ({"size": 2, "rank": 2, "world_size": 2}, "rank=2 and world_size=2"),
    ],
)
def test_bad_settings_are_named(settings_: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeededSampler(**settings_)
