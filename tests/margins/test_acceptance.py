"""Acceptance: each object alone, NaN, missing terms, and the algebra of & and |."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monai_amat.margins import Absolute, Acceptance, Measurement, MetricAtLeast, Relative, RunningThresholds, Thresholds

NAN, INF = math.nan, math.inf


def total(*values: float) -> Measurement:
    return Measurement({"total": torch.tensor(values)})


def test_absolute_is_strictly_below() -> None:
    verdict = Absolute({"total": 1.0})(total(0.99, 1.0, 1.01, -INF, INF, NAN), None)
    assert verdict.tolist() == [True, False, False, True, False, False]
    assert verdict.dtype == torch.bool


def test_absolute_wants_every_judged_term_below_its_own() -> None:
    noisy = Measurement({"a": torch.tensor([0.0, 0.0, 5.0, NAN]), "b": torch.tensor([1.0, 3.0, 1.0, 1.0])})
    assert Absolute({"a": 1.0, "b": 2.0})(noisy, None).tolist() == [True, False, False, False]
    assert Absolute({"b": 2.0})(noisy, None).tolist() == [True, False, True, True]


def test_absolute_takes_fixed_and_running_thresholds() -> None:
    fixed = Absolute(Thresholds({"total": 1.0}))
    assert fixed(total(0.5, 1.5), None).tolist() == [True, False]
    assert fixed.ready
    assert fixed.judged == {"total"}
    running = RunningThresholds(warmup=2, momentum=0.0)
    moving = Absolute(running)
    assert not moving.ready
    assert moving.judged == frozenset()
    assert moving(total(-1e9, 0.0), None).tolist() == [False, False]  # nothing is accepted before there is a ξ
    running.update({"total": torch.tensor([1.0])})
    assert not moving.ready
    running.update({"total": torch.tensor([3.0])})
    assert moving.ready
    assert moving.judged == {"total"}
    assert moving(total(2.0, 3.5), None).tolist() == [True, False]


def test_relative_looks_at_the_growth() -> None:
    noisy, clean = total(1.5, 9.1, 9.3, 0.0, NAN, 1.0, INF), total(1.4, 9.0, 9.0, 5.0, 1.0, NAN, INF)
    assert Relative(0.2)(noisy, clean).tolist() == [True, True, False, True, False, False, False]
    other = Measurement({"total": torch.zeros(1), "dice": torch.ones(1)})
    assert Relative(0.5, term="dice")(other, Measurement({"dice": torch.zeros(1)})).tolist() == [False]
    assert Relative(1.5, term="dice")(other, Measurement({"dice": torch.zeros(1)})).tolist() == [True]
    assert Relative(0.5, term="dice").judged == {"dice"}


def test_a_metric_of_at_least_its_threshold() -> None:
    acceptance = MetricAtLeast(lambda pred, target: pred - target, 1.0)
    noisy = Measurement({}, torch.tensor([3.0, 2.0, 1.0, NAN]), torch.ones(4))
    assert acceptance(noisy, None).tolist() == [True, True, False, False]
    assert acceptance.judged == frozenset()
    assert not acceptance.needs_clean


@pytest.mark.parametrize("acceptance", [Absolute({"dice": 1.0}), Absolute({"dice": 1.0, "total": 1.0})], ids=str)
def test_absolute_lists_terms_that_the_loss_does_not_give(acceptance: Acceptance) -> None:
    with pytest.raises(ValueError, match=r"'dice'.*got \['total'\]; calibrate"):
        acceptance(total(0.0), None)


def test_relative_lists_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"'dice', got \['total'\]$"):
        Relative(0.2, term="dice")(total(0.0), total(0.0))
    with pytest.raises(ValueError, match="clean samples"):
        Relative(0.2)(total(0.0), None)


def test_absolute_needs_a_threshold() -> None:
    with pytest.raises(ValueError, match="at least one term"):
        Absolute({})


# The algebra


@dataclass(frozen=True)
class Fixed(Acceptance):
    """An acceptance with fixed verdicts."""

    answers: tuple[bool, ...]
    name: str = "x"
    clean: bool = False
    warm: bool = True

    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        assert (clean is not None) or not self.needs_clean
        return torch.tensor(self.answers)

    @property
    def needs_clean(self) -> bool:
        return self.clean

    @property
    def ready(self) -> bool:
        return self.warm

    @property
    def judged(self) -> frozenset[str]:
        return frozenset({self.name})


answers = st.tuples(*[st.booleans()] * 3)


@given(a=answers, b=answers, c=answers)
def test_and_and_or_are_those_of_logic(a: tuple[bool, ...], b: tuple[bool, ...], c: tuple[bool, ...]) -> None:
    first, second, third = Fixed(a), Fixed(b), Fixed(c)
    cases: Mapping[str, tuple[Acceptance, Callable[[bool, bool, bool], bool]]] = {
        "a&b": (first & second, lambda x, y, z: x and y),
        "a|b": (first | second, lambda x, y, z: x or y),
        "a&b|c": (first & second | third, lambda x, y, z: (x and y) or z),
        "a&(b|c)": (first & (second | third), lambda x, y, z: x and (y or z)),
    }
    for name, (acceptance, logic) in cases.items():
        wanted = [logic(*values) for values in zip(a, b, c, strict=True)]
        assert acceptance(total(0, 0, 0), None).tolist() == wanted, name


@pytest.mark.parametrize("combine", [lambda a, b: a & b, lambda a, b: a | b], ids=["and", "or"])
def test_a_pair_needs_what_either_needs_and_is_ready_when_both_are(
    combine: Callable[[Acceptance, Acceptance], Acceptance],
) -> None:
    for one in (False, True):
        for two in (False, True):
            pair = combine(Fixed((True,), "a", clean=one, warm=one), Fixed((True,), "b", clean=two, warm=two))
            assert pair.needs_clean is (one or two)
            assert pair.ready is (one and two)
            assert pair.judged == {"a", "b"}
    deep = combine(combine(Absolute({"a": 1.0}), Relative(0.1, "b")), MetricAtLeast(lambda p, t: p, 0.0))
    assert deep.needs_clean
    assert deep.ready
    assert deep.judged == {"a", "b"}


def test_the_authors_trial_absolute_or_relative() -> None:
    """A sample whose clean loss is above ξ is accepted as long as noise adds little."""
    acceptance = Absolute({"total": 1.0}) | Relative(0.2)
    assert acceptance(total(0.9, 3.1, 3.1), total(0.1, 3.0, 2.0)).tolist() == [True, True, False]
