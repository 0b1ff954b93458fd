"""Thresholds: fitted, saved, loaded, refused; and running thresholds against a naive computation."""

from __future__ import annotations

import io
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.margins import Huber, MeanStd, RunningThresholds, Thresholds

LOSSES = {"a": torch.tensor([1.0, 2.0, 3.0, 6.0]), "b": torch.tensor([0.5, 0.25, 0.75, 0.5])}

# Fitted


def test_fit_is_one_statistic_per_term_with_its_provenance() -> None:
    """a < 3 for the first two, b < 0.5 for the second only: one of four clean samples passes both."""
    with pytest.warns(UserWarning, match="25%"):
        thresholds = Thresholds.fit(LOSSES, provenance={"checkpoint": "abc"})
    assert thresholds.values == {"a": 3.0, "b": 0.5}
    assert thresholds.ready
    provenance = thresholds.provenance
    assert provenance["statistic"] == "MeanStd(k=0.0)"
    assert provenance["samples"] == 4
    assert provenance["clean_accepted"] == 0.25
    assert provenance["mean"] == {"a": 3.0, "b": 0.5}
    assert provenance["std"]["a"] == pytest.approx(np.std([1, 2, 3, 6]))
    assert provenance["checkpoint"] == "abc"


@pytest.mark.parametrize("statistic", [None, MeanStd(1.0), Huber(0.5)], ids=repr)
def test_any_statistic_of_the_losses_as_they_are(statistic: Any) -> None:
    """In double precision, for losses of any precision."""
    losses = torch.linspace(0, 1, 50).square()
    for given_losses in (losses, losses.clone().requires_grad_(), losses.double()):
        thresholds = Thresholds.fit({"total": given_losses}, statistic)
        expected = (statistic or MeanStd())(losses.double().numpy())
        assert thresholds.values["total"] == pytest.approx(expected, rel=1e-12)


def spread_so_that(share: float) -> torch.Tensor:
    """A hundred losses; exactly this share lies below their mean."""
    below = round(share * 100)
    return torch.cat([torch.full((below,), -1.0), torch.full((100 - below,), below / (100 - below))])


@pytest.mark.parametrize(("share", "warns"), [(0.29, True), (0.3, False), (0.6, False), (0.9, False), (0.91, True)])
def test_warns_where_xi_accepts_too_few_or_too_many(share: float, warns: bool) -> None:
    losses = spread_so_that(share).double()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thresholds = Thresholds.fit({"total": losses}, lambda values: 0.0)
    assert thresholds.provenance["clean_accepted"] == pytest.approx(share)
    assert [warning.category for warning in caught] == ([UserWarning] if warns else [])
    if warns:
        assert f"{share:.0%}" in str(caught[0].message)
        assert caught[0].filename == __file__, "the warning points at the caller"


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "at least one clean sample"),
        ({"a": torch.zeros(0)}, "at least one clean sample"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, r"'a': 2, 'b': 3"),
        ({"a": torch.zeros(2), "b": torch.tensor([0.0, math.nan])}, r"'b'.*\[1\]"),
        ({"a": torch.tensor([math.inf, 0.0])}, r"'a'.*\[0\]"),
    ],
    ids=str,
)
def test_losses_that_give_no_threshold(losses: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Thresholds.fit(losses)


@pytest.mark.parametrize("values", [{}, {"a": math.nan}, {"a": 1.0, "b": math.inf}], ids=str)
def test_thresholds_must_be_finite_and_some(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="thresholds"):
        Thresholds(values)


def test_a_statistic_that_gives_no_number_is_refused() -> None:
    with pytest.warns(UserWarning, match="0%"), pytest.raises(ValueError, match="nan"):
        Thresholds.fit({"a": torch.tensor([1.0, 2.0])}, lambda values: math.nan)


# Saved and loaded


def test_what_is_saved_comes_back_exactly(tmp_path: Path) -> None:
    thresholds = Thresholds(
        {"total": 0.1 + 0.2, "größe": -1e-300}, {"note": "ξ", "samples": 3, "deep": {"x": [1, None]}}
    )
    path = tmp_path / "new" / "folder" / "thresholds.json"
    thresholds.save(path)
    assert Thresholds.load(path) == thresholds
    assert Thresholds.load(str(path)) == thresholds
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {"format", "thresholds", "provenance"}
    assert [entry.name for entry in path.parent.iterdir()] == ["thresholds.json"]


def test_a_fit_survives_the_file(tmp_path: Path) -> None:
    thresholds = Thresholds.fit({"total": torch.arange(10.0)}, Huber(0.5))
    thresholds.save(tmp_path / "t.json")
    assert Thresholds.load(tmp_path / "t.json") == thresholds


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    Thresholds({"total": 1.0}).save(path)
    with pytest.raises(TypeError):
        Thresholds({"total": 2.0}, {"network": object()}).save(path)
    assert Thresholds.load(path).values == {"total": 1.0}


def test_the_message_on_a_missing_file_contains_the_remedy(tmp_path: Path) -> None:
    for missing in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"calibrate\.json") as caught:
            Thresholds.load(missing)
        assert str(missing) in str(caught.value)


GOOD = '{"format": 1, "provenance": {}, "thresholds": {"total": 1.5}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD[:-10],
        "[]",
        "null",
        "3",
        "{}",
        '{"total": 1.5}',
        '{"thresholds": 1.5}',
        '{"thresholds": [1.5]}',
        '{"thresholds": {}}',
        '{"thresholds": {"total": null}}',
        '{"thresholds": {"total": "high"}}',
        '{"thresholds": {"total": [1.0]}}',
        '{"thresholds": {"total": NaN}}',
        '{"thresholds": {"total": Infinity}}',
        '{"thresholds": {"total": 1e999}}',
        '{"thresholds": {"total": 1.5}, "provenance": 3}',
        GOOD.replace('"format": 1', '"format": 2'),
    ],
)
def test_the_message_on_another_file_contains_its_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json"):
        Thresholds.load(path)


def test_the_message_on_a_binary_file_contains_its_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"bad\.json"):
        Thresholds.load(path)


def test_a_file_written_by_hand_needs_no_more_than_its_values(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"thresholds": {"total": 1}}')
    assert Thresholds.load(path) == Thresholds({"total": 1.0})


# Running


def naive(steps: list[list[float]], momentum: float, k: float) -> float:
    """ξ as the weighted mean and deviation of all steps at once, each step weighing `momentum` more than the last."""
    weights = [momentum ** (len(steps) - 1 - i) for i in range(len(steps))]
    first = sum(w * sum(s) / len(s) for w, s in zip(weights, steps, strict=True)) / sum(weights)
    second = sum(w * sum(v * v for v in s) / len(s) for w, s in zip(weights, steps, strict=True)) / sum(weights)
    return first + k * math.sqrt(max(second - first**2, 0.0))


losses_of_steps = st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=4), min_size=1, max_size=12)


@given(steps=losses_of_steps, momentum=st.sampled_from([0.0, 0.5, 0.99]), k=st.sampled_from([0.0, 2.0]))
def test_running_is_the_weighted_mean_and_deviation(steps: list[list[float]], momentum: float, k: float) -> None:
    running = RunningThresholds(k=k, momentum=momentum)
    for i, losses in enumerate(steps):
        running.update({"total": torch.tensor(losses, dtype=torch.float64), "other": torch.ones(3) * i})
        expected = naive(steps[: i + 1], momentum, k)
        assert running.values["total"] == pytest.approx(expected, rel=1e-6, abs=1e-5)
    assert set(running.values) == {"total", "other"}


def test_running_by_hand() -> None:
    """Momentum ½: weights of 4 and 2 are ⅓ and ⅔, mean 8/3; squares 16 and 4 give 8, variance 8 − 64/9 = 8/9."""
    running = RunningThresholds(k=1.0, momentum=0.5)
    running.update({"total": torch.tensor([4.0, 4.0])})
    assert running.values["total"] == 4.0
    running.update({"total": torch.tensor([2.0])})
    assert running.values["total"] == pytest.approx(8 / 3 + math.sqrt(8 / 9))


def test_margins_wait_for_the_warm_up() -> None:
    running = RunningThresholds(warmup=3)
    assert running.values == {}
    seen = []
    for _ in range(4):
        seen.append(running.ready)
        running.update({"total": torch.ones(2)})
    assert seen == [False, False, False, True]


def test_losses_that_are_not_finite_are_left_out() -> None:
    running, clean = RunningThresholds(k=1.0, warmup=2), RunningThresholds(k=1.0, warmup=2)
    running.update({"total": torch.tensor([1.0, math.nan, 3.0, math.inf, -math.inf])})
    clean.update({"total": torch.tensor([1.0, 3.0])})
    assert running.values == clean.values
    for useless in ({"total": torch.tensor([math.nan])}, {"total": torch.zeros(0)}, {}):
        running.update(useless)
        assert running.steps == 1, "a step without a loss does not count as a step of the warm-up"
    assert running.values == clean.values
    assert not running.ready


def test_a_resumed_run_has_the_same_thresholds_to_the_last_bit() -> None:
    torch.manual_seed(0)
    steps = [{"total": torch.rand(5), "dice": torch.rand(5)} for _ in range(20)]
    whole, first = (RunningThresholds(k=2.0, momentum=0.9, warmup=15) for _ in range(2))
    for losses in steps:
        whole.update(losses)
    for losses in steps[:11]:
        first.update(losses)
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second = RunningThresholds(k=2.0, momentum=0.9, warmup=15)
    second.load_state_dict(torch.load(stream, weights_only=True))
    assert not second.ready
    for losses in steps[11:]:
        second.update(losses)
    assert second.values == whole.values
    assert second.ready
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"momentum": math.nan}, "momentum"),
        ({"warmup": 0}, "warmup"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunningThresholds(**settings)


def test_thresholds_of_another_loss_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "thresholds.json"
    Thresholds({"total": 0.5}, {"loss": {"dice_over": "all"}}).save(file)
    assert Thresholds.load(file, {"loss": {"dice_over": "all"}, "data": "unknown to the file"}).values["total"] == 0.5
    with pytest.raises(ValueError, match=r"dice_over all, but this run has present: fit the thresholds"):
        Thresholds.load(file, {"loss": {"dice_over": "present"}})


# ------------------------------------------------------------------------------- shifting


def test_shifting_a_mean_by_k_is_fitting_mean_plus_k_std() -> None:
    losses = {"box": torch.tensor([1.0, 2.0, 6.0]), "cls": torch.tensor([0.1, 0.2, 0.9])}
    shifted = Thresholds.fit(losses).shifted(0.3)
    assert shifted.values == pytest.approx(Thresholds.fit(losses, MeanStd(0.3)).values)
    assert shifted.provenance["shifted_by"] == 0.3


def test_a_shift_needs_the_spread_of_every_term() -> None:
    thresholds = Thresholds({"box": 1.0, "cls": 1.0}, {"std": {"cls": 0.1}})
    assert thresholds.shifted(0.0) is thresholds
    with pytest.raises(ValueError, match=r"no standard deviation of \['box'\]"):
        thresholds.shifted(1.0)


def test_the_lag_of_running_thresholds_is_that_of_an_even_slope() -> None:
    """Losses that fall by 0.01 per step: an average over 20 steps is 19 steps, 0.19, behind."""
    running = RunningThresholds(momentum=0.95, warmup=1)
    for step in range(400):
        running.update({"total": torch.full((2,), 10.0 - 0.01 * step)})
    present = 10.0 - 0.01 * 399
    assert running.values["total"] - present == pytest.approx(0.19, abs=1e-3)
    assert running.lag["total"] == pytest.approx(0.19, abs=1e-3)
    again = RunningThresholds(momentum=0.95, warmup=1)
    again.load_state_dict(running.state_dict())
    assert again.lag == running.lag


def test_level_losses_have_no_lag() -> None:
    running = RunningThresholds(momentum=0.9, warmup=1)
    assert running.lag == {}
    for _ in range(5):
        running.update({"total": torch.tensor([1.0, 3.0])})
    assert running.lag["total"] == pytest.approx(0.0, abs=1e-12)
