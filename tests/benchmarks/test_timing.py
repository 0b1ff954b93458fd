"""The order of interleaved timing, and what it is for: ratios that slow drift leaves alone."""

from __future__ import annotations

import doctest
import functools
import importlib
import time

import memory
import pytest
import timing
import torch
from counting import Evaluations, counted
from hypothesis import given
from hypothesis import strategies as st
from report import markdown


class Clock:
    """A machine that gets slower with every second: work of w seconds takes w·(1 + drift·now)."""

    def __init__(self, drift: float) -> None:
        self.now = 0.0
        self.drift = drift

    def work(self, seconds: float) -> None:
        self.now += seconds * (1 + self.drift * self.now)


def test_rounds_go_there_and_back() -> None:
    order: list[str] = []
    calls = {name: functools.partial(order.append, name) for name in "abc"}
    seconds = timing.interleave(calls, 3, warmup=2, before=lambda: order.append("-"))
    assert "".join(order) == "abcabc" + "-abc" + "-cba" + "-abc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_each_second_belongs_to_its_own_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(drift=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    calls = {"slow": lambda: clock.work(3.0), "fast": lambda: clock.work(1.0)}
    seconds = timing.interleave(calls, 4, before=lambda: clock.work(100.0))
    assert seconds == {"slow": [3.0] * 4, "fast": [1.0] * 4}
    assert timing.ratios(seconds, "slow", "fast") == timing.Spread(3.0, 3.0, 3.0)


@given(drift=st.floats(0, 0.02), cost=st.floats(0.8, 1.3))
def test_slow_drift_cancels_in_the_ratio(drift: float, cost: float) -> None:
    clock = Clock(drift)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: clock.now)
        seconds = timing.interleave({"a": lambda: clock.work(1.0), "b": lambda: clock.work(cost)}, 20)
    assert timing.ratios(seconds, "b", "a").median == pytest.approx(cost, rel=4e-3)
    if drift > 0.005:  # what it is good for: first all of one, then all of the other, would be far off
        assert seconds["a"][-1] > 1.1 * seconds["a"][0]


def test_quartiles_by_hand() -> None:
    assert timing.spread([4.0, 1.0, 2.0, 3.0]) == timing.Spread(median=2.5, low=1.75, high=3.25)
    assert timing.spread([7.0]) == timing.Spread(7.0, 7.0, 7.0)
    # The median of ratios, not the ratio of medians.
    assert timing.ratios({"a": [1.0, 4.0, 10.0], "b": [3.0, 4.0, 5.0]}, "b", "a").median == 1.0


def test_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        timing.spread([])
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        timing.interleave({"a": lambda: None}, 0)
    with pytest.raises(ValueError, match="shorter"):
        timing.ratios({"a": [1.0], "b": [1.0, 2.0]}, "b", "a")


def test_forwards_without_a_gradient_are_told_apart() -> None:
    network = torch.nn.Linear(2, 2).requires_grad_(False)
    inputs = torch.zeros(5, 2, requires_grad=True)
    with counted(network) as evaluations:
        with torch.no_grad():
            network(inputs)
        torch.autograd.grad(network(inputs[:3]).sum(), inputs)
        network(inputs)
    network(inputs)
    assert evaluations == Evaluations(forwards=3, gradients=1, samples=13, gradient_samples=3)
    with pytest.raises(ZeroDivisionError), counted(network) as evaluations:
        raise ZeroDivisionError
    network(inputs)
    assert evaluations.forwards == 0


@pytest.mark.slow
def test_memory_is_what_the_work_keeps_and_reaches() -> None:
    kept = memory.memory_of(functools.partial, torch.ones, 10_000_000)
    assert 39e6 < kept.held < 45e6 and kept.held <= kept.peak < 50e6
    passing = memory.memory_of(functools.partial, eval, "len(b'x' * 60_000_000)")
    assert passing.held < 5e6 and 59e6 < passing.peak < 70e6
    assert passing.total == passing.before + passing.peak


def test_memory_of_what_was_there_before_does_not_count() -> None:
    mine = torch.ones(50_000_000)  # nor does that of the calling process
    given = memory.memory_of(functools.partial, len, b"x" * 40_000_000)
    assert len(mine) and given.held < 5e6 and given.peak < 5e6


def test_a_table() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 22, "b": "y | z"}]
    with pytest.raises(KeyError):
        markdown([*rows, {"a": 1}])
    assert markdown(rows[:1]).splitlines() == ["| a | b |", "|---|---|", "| 1 | x |"]


@pytest.mark.parametrize("name", ["timing", "report", "memory", "counting", "workload"])
def test_examples(name: str) -> None:
    failed, attempted = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert attempted > 0 and failed == 0
