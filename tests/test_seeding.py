"""Seeds: known answers, every machine alike, and no two draws that share one."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.seeding import fold, generator

integers = st.integers(-(2**63), 2**64)
parts = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)


@pytest.mark.parametrize(
    ("seed", "first"),
    # The first number of splitmix64 from this state, as published with the generator and its ports.
    [(0, 0xE220A8397B1DCDAF), (1234567, 6457827717110365317)],
)
def test_a_seed_alone_is_splitmix64(seed: int, first: int) -> None:
    assert fold(seed) == first >> 1


def test_known_answers_that_a_saved_run_relies_on() -> None:
    """Worked once by a second implementation in numpy's wrapping integers."""

    def splitmix(value: np.uint64) -> np.uint64:
        with np.errstate(over="ignore"):
            value = value + np.uint64(0x9E3779B97F4A7C15)
            value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))

    for seed, *rest in [(0, 1, 2), (7,), (42, 0), (2**63, 2**63 - 1, 5, 0, 9)]:
        state = splitmix(np.uint64(seed))
        for part in rest:
            state = splitmix(state ^ np.uint64(part))
        assert fold(seed, *rest) == int(state >> np.uint64(1))


@given(seed=integers, rest=parts)
def test_fits_an_int64_and_a_generator(seed: int, rest: list[int]) -> None:
    value = fold(seed, *rest)
    assert 0 <= value < 2**63
    assert torch.tensor([value], dtype=torch.int64).item() == value
    assert generator(value).initial_seed() == value
    assert fold(seed, *rest) == value


@given(seed=integers, rest=parts, other=st.integers(0, 2**62))
def test_every_part_its_place_and_their_number_matter(seed: int, rest: list[int], other: int) -> None:
    value = fold(seed, *rest)
    assert fold(seed, *rest, 0) != value
    for place in range(len(rest)):
        if (rest[place] - other) % 2**64:
            assert fold(seed, *rest[:place], other, *rest[place + 1 :]) != value
    if len(rest) > 1 and rest[0] != rest[1]:
        assert fold(seed, rest[1], rest[0], *rest[2:]) != value


def test_no_two_samples_of_a_run_share_a_seed() -> None:
    """Two seeds, 10 epochs, 1,000 samples, 3 visits, and the shorter tuples: all different."""
    values = {fold(*names) for names in itertools.product((0, 1), range(10), range(1000), range(3))}
    values |= {fold(*names) for names in itertools.product((0, 1), range(10), range(1000))}
    assert len(values) == 2 * 10 * 1000 * 3 + 2 * 10 * 1000


def test_neighbouring_names_differ_in_half_of_their_bits() -> None:
    differing = [bin(fold(3, i) ^ fold(3, i + 1)).count("1") for i in range(2000)]
    assert 30.5 < sum(differing) / len(differing) < 32.5
    for bit in range(63):
        assert 0.4 < sum(fold(3, i) >> bit & 1 for i in range(1000)) / 1000 < 0.6


def test_any_kind_of_integer_names_the_same_draw() -> None:
    """A numpy or torch integer out of a batch must not overflow, nor give another seed than Python's own."""
    expected = fold(5, 3, 2)
    kinds: list[Callable[[int], Any]] = [np.int64, np.int32, np.uint8, torch.tensor]
    for kind in kinds:
        assert fold(kind(5), kind(3), kind(2)) == expected
        assert type(fold(kind(5), kind(3))) is int
    assert fold(0, True) == fold(0, 1)


@pytest.mark.parametrize("wrong", [1.5, "1", None])
def test_what_is_no_integer_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError):
        fold(0, wrong)  # type: ignore[arg-type]


def test_another_process_folds_alike() -> None:
    code = "from monai_amat.seeding import fold; print(fold(1, 2, -3), fold(2**40))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(fold(1, 2, -3)), str(fold(2**40))]


def test_a_generator_is_its_own_and_on_the_cpu() -> None:
    before = torch.get_rng_state()
    first = torch.rand(4, generator=generator(7))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, torch.rand(4, generator=generator(7)))
    assert not torch.equal(first, torch.rand(4, generator=generator(8)))
    assert generator(7) is not generator(7)
    with torch.device("meta"):
        assert generator(7).device.type == "cpu"
