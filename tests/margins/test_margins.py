"""SampleMargins: Algorithm 1 line by line, several visits, refused values, saving, and ten million samples."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from monai_amat.margins import Absolute, BoundaryRule, MarginRule, Measurement, PaperRule, PathRule, SampleMargins

RULE = PaperRule(step=2.0)


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def bools(*values: bool) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def floats(*values: float) -> Tensor:
    return torch.tensor(values)


# Algorithm 1


def test_algorithm_1_line_by_line() -> None:
    """Four samples, Δ = 2, ξ = 1, three epochs in mini-batches of two whose order changes.

    L1 is the loss on the noisy sample, n the norm of its noise, E the margin before and after. Worked by hand:

        epoch  sample  L1    n     line  E before -> after
        1      0       0.5   2.0   10    2   + 2        = 4
        1      1       1.0   2.0   12    (2 + 2)/2      = 2      1.0 is not below ξ
        1      2       1.5   1.0   12    (1 + 2)/2      = 1.5    clipping kept the noise inside
        1      3       0.9   2.0   10    2   + 2        = 4
        2      0       0.99  4.0   10    4   + 2        = 6
        2      1       0.2   2.0   10    2   + 2        = 4
        2      2       0.3   1.5   10    1.5 + 2        = 3.5
        2      3       3.0   3.0   12    (3 + 4)/2      = 3.5
        3      0       7.0   1.0   12    (1 + 6)/2      = 3.5
        3      1       NaN   4.0   12    (4 + 4)/2      = 4      a NaN is not below ξ
        3      2       0.1   3.5   10    3.5 + 2        = 5.5
        3      3       0.5   3.5   10    3.5 + 2        = 5.5
    """
    table = [
        ({0: (0.5, 2.0), 1: (1.0, 2.0), 2: (1.5, 1.0), 3: (0.9, 2.0)}, [4.0, 2.0, 1.5, 4.0]),
        ({2: (0.3, 1.5), 0: (0.99, 4.0), 3: (3.0, 3.0), 1: (0.2, 2.0)}, [6.0, 4.0, 3.5, 3.5]),
        ({3: (0.5, 3.5), 2: (0.1, 3.5), 1: (math.nan, 4.0), 0: (7.0, 1.0)}, [3.5, 4.0, 5.5, 5.5]),
    ]
    margins, line_9 = SampleMargins(4, initial=2.0), Absolute({"total": 1.0})
    assert margins[ids(0, 1, 2, 3)].tolist() == [2.0] * 4
    for epoch, after in table:
        order = list(epoch)
        for batch in (order[:2], order[2:]):
            losses = floats(*(epoch[i][0] for i in batch))
            accepted = line_9(Measurement({"total": losses}), None)
            margins.update(ids(*batch), accepted, floats(*(epoch[i][1] for i in batch)), RULE)
        assert margins[ids(0, 1, 2, 3)].tolist() == after


def test_section_2_3_every_term_has_its_own_threshold() -> None:
    """Three terms, ξ = 1, 2, 3: sample 0 is below all, each other one breaks exactly one."""
    terms = {"box": floats(0.9, 1.0, 0.9, 0.9), "object": floats(1.9, 1.9, 2.5, 1.9), "class": floats(2.9, 0, 0, 3.1)}
    accepted = Absolute({"box": 1.0, "object": 2.0, "class": 3.0})(Measurement(terms), None)
    margins = SampleMargins(4, initial=2.0)
    margins.update(ids(0, 1, 2, 3), accepted, floats(2, 2, 2, 2), RULE)
    assert margins.values.tolist() == [4.0, 2.0, 2.0, 2.0]


# Visits


def test_only_the_visited_change() -> None:
    margins = SampleMargins(5, initial=2.0)
    margins.update(ids(3), bools(True), floats(2.0), RULE)
    assert margins.values.tolist() == [2, 2, 2, 4, 2]
    margins.update(ids(), bools(), floats(), RULE)
    assert margins.values.tolist() == [2, 2, 2, 4, 2]
    assert len(margins) == 5


def test_several_visits_in_a_step_count_as_one() -> None:
    """Sample 1 thrice: one visit rejected, norms 1, 2 and 0 (mean 1): (1 + 2)/2. Sample 0 twice, both accepted: + Δ."""
    margins = SampleMargins(3, initial=2.0)
    accepted = bools(True, True, False, True, True)
    margins.update(ids(1, 0, 1, 0, 1), accepted, floats(1.0, 2.0, 2.0, 2.0, 0.0), RULE)
    assert margins.values.tolist() == [4.0, 1.5, 2.0]


def test_over_an_epoch_one_accepted_visit_is_enough() -> None:
    """The authors' code. Sample 2 has no accepted visit: mean of 0 and 1 is 0.5, (0.5 + 2)/2."""
    margins = SampleMargins(3, initial=2.0)
    accepted = bools(False, True, False, False)
    margins.update_epoch(ids(1, 1, 2, 2), accepted, floats(2.0, 1.0, 0.0, 1.0), PathRule(step=2.0))
    assert margins.values.tolist() == [2.0, 4.0, 1.25]


@given(data=st.data(), epoch=st.booleans())
def test_merging_is_that_of_a_plain_loop_in_any_order(data: st.DataObject, epoch: bool) -> None:
    visits = data.draw(
        st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from([0.0, 0.5, 1.0, 2.0])), max_size=12)
    )
    expected = [2.0] * 5
    for sample in {visit[0] for visit in visits}:
        mine = [visit for visit in visits if visit[0] == sample]
        good = any(v[1] for v in mine) if epoch else all(v[1] for v in mine)
        mean = sum(v[2] for v in mine) / len(mine)
        expected[sample] = 4.0 if good else (mean + 2.0) / 2
    for arrangement in (visits, data.draw(st.permutations(visits))):
        margins = SampleMargins(5, initial=2.0)
        arguments = (
            torch.tensor([v[0] for v in arrangement], dtype=torch.int64),
            torch.tensor([v[1] for v in arrangement], dtype=torch.bool),
            torch.tensor([v[2] for v in arrangement], dtype=torch.float32),
        )
        (margins.update_epoch if epoch else margins.update)(*arguments, RULE)
        torch.testing.assert_close(margins.values, torch.tensor(expected))


def test_tensors_of_any_type_from_training_are_accepted() -> None:
    """Half-precision norms that require gradients, int32 IDs, another default precision."""
    margins = SampleMargins(3, initial=2.0)
    noise_norm = torch.tensor([1.0], dtype=torch.float16, requires_grad=True)
    margins.update(torch.tensor([1], dtype=torch.int32), bools(False), noise_norm, RULE)
    assert margins.values.tolist() == [2.0, 1.5, 2.0]
    assert not margins.values.requires_grad
    torch.set_default_dtype(torch.float64)
    try:
        margins.update(ids(1), bools(False), torch.tensor([1.0]), RULE)
    finally:
        torch.set_default_dtype(torch.float32)
    assert margins.values.tolist() == [2.0, 1.25, 2.0]
    assert margins.values.dtype == torch.float32


def test_margins_live_on_the_cpu_whatever_the_default_device() -> None:
    visited, accepted, noise_norm = ids(1), bools(True), floats(2.0)
    with torch.device("meta"):
        margins = SampleMargins(3, initial=2.0)
        margins.update(visited, accepted, noise_norm, RULE)
        margins.load_state_dict(margins.state_dict())
    assert margins[ids(0, 1, 2)].tolist() == [2.0, 4.0, 2.0]


# Refused values


class Broken(MarginRule):
    """A custom rule that divides by zero."""

    def __call__(self, margin: Tensor, accepted: Tensor, noise_norm: Tensor) -> Tensor:
        return margin / torch.where(accepted, 1.0, 0.0) * 0


@pytest.mark.parametrize(
    ("arguments", "rule", "error", "message"),
    [
        ((ids(0, 2), bools(True, True), floats(1.0, math.nan)), RULE, ValueError, r"samples \[2\]"),
        ((ids(0, 2), bools(True, True), floats(math.inf, 1.0)), RULE, ValueError, r"samples \[0\]"),
        ((ids(0, 2), bools(True, True), floats(-0.5, 1.0)), RULE, ValueError, r"samples \[0\]"),
        ((ids(0, 2), bools(True, False), floats(1.0, 1.0)), Broken(step=1.0), ValueError, r"got \[nan\] from Broken"),
        ((ids(0, 3), bools(True, True), floats(1.0, 1.0)), RULE, IndexError, r"0 … 2, got 0 … 3"),
        ((ids(-1, 2), bools(True, True), floats(1.0, 1.0)), RULE, IndexError, "got -1 … 2"),
        ((ids(0, 2), bools(True, True), floats(1.0, 1.0, 1.0)), RULE, ValueError, "same shape"),
        ((ids(0, 2), bools(True, True, False), floats(1.0, 1.0)), RULE, ValueError, "same shape"),
        ((ids(0, 2), bools(True), floats(1.0, 1.0)), RULE, ValueError, "same shape"),
        ((ids(0, 2), bools(True, True), floats(1.0)), RULE, ValueError, "same shape"),
        ((floats(0.0, 1.5), bools(True, True), floats(1.0, 1.0)), RULE, TypeError, "float32"),
        ((bools(True, False), bools(True, True), floats(1.0, 1.0)), RULE, TypeError, "bool"),
    ],
)
def test_a_refused_update_changes_nothing(
    arguments: Any, rule: MarginRule, error: type[Exception], message: str
) -> None:
    margins = SampleMargins(3, initial=2.0)
    visited, accepted, noise_norm = arguments
    for update in (margins.update, margins.update_epoch):
        with pytest.raises(error, match=message):
            update(visited, accepted, noise_norm, rule)
        assert margins.values.tolist() == [2.0] * 3


def test_ids_outside_the_list_have_no_margin() -> None:
    margins = SampleMargins(3, initial=2.0)
    for wrong in (ids(3), ids(-1), ids(0, 99)):
        with pytest.raises(IndexError, match="IndexedDataset"):
            margins[wrong]
    assert margins[ids()].shape == (0,)


def test_what_is_read_is_a_copy() -> None:
    margins = SampleMargins(3, initial=2.0)
    margins[ids(0, 1)].fill_(99.0)
    margins.state_dict()["values"].fill_(99.0)
    assert margins.values.tolist() == [2.0] * 3


@pytest.mark.parametrize(
    ("size", "initial", "message"),
    [(0, 1.0, "size .* must be at least 1, got 0"), (3, -1.0, "got -1"), (3, math.nan, "nan"), (3, math.inf, "inf")],
)
def test_a_bad_beginning(size: int, initial: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampleMargins(size, initial=initial)


# Saving


def test_saved_margins_come_back_exactly_from_a_safe_file() -> None:
    margins = SampleMargins(4, initial=2.0, fingerprint="abc")
    margins.update(ids(1, 2), bools(True, False), floats(2.0, 1 / 3), RULE)
    stream = io.BytesIO()
    torch.save(margins.state_dict(), stream)
    stream.seek(0)
    other = SampleMargins(4, initial=9.0, fingerprint="abc")
    state = torch.load(stream, weights_only=True)
    other.load_state_dict(state)
    assert torch.equal(other.values, margins.values)
    state["values"].fill_(7.0)
    assert torch.equal(other.values, margins.values), "loaded margins share no memory with their source"
    for both in (margins, other):  # and both continue in the same way
        both.update(ids(3, 2), bools(True, False), floats(2.0, 0.1), BoundaryRule(step=1.0))
    assert torch.equal(other.values, margins.values)


@pytest.mark.parametrize(("saved", "here"), [("", "abc"), ("abc", "")])
def test_an_empty_fingerprint_accepts_any_of_the_same_size(saved: str, here: str) -> None:
    margins = SampleMargins(2, initial=1.0, fingerprint=here)
    margins.load_state_dict(SampleMargins(2, initial=5.0, fingerprint=saved).state_dict())
    assert margins.values.tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "other"}, "fingerprint abc.*, got other"),
        ({"values": torch.ones(3)}, r"one number per sample, shape \(2,\), got shape \(3,\)"),
        ({"values": torch.ones(2, 2)}, r"\(2, 2\)"),
        ({"values": torch.tensor(1.0)}, r"\(\)"),
        ({"values": floats(1.0, math.nan)}, "damaged"),
        ({"values": floats(1.0, -1.0)}, "damaged"),
        ({"values": None}, "'values'"),
    ],
    ids=str,
)
def test_foreign_or_damaged_margins_are_refused_and_change_nothing(change: dict[str, Any], message: str) -> None:
    margins = SampleMargins(2, initial=1.0, fingerprint="abc")
    state = {**SampleMargins(2, initial=5.0, fingerprint="abc").state_dict(), **change}
    if state["values"] is None:
        del state["values"]
    with pytest.raises(ValueError, match=message):
        margins.load_state_dict(state)
    assert margins.values.tolist() == [1.0, 1.0]


# Size


class _Largest(TorchDispatchMode):
    """Records how many elements the largest new tensor has; a tensor changed in place is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in (result,) if isinstance(result, Tensor) else ():
            if not any(tensor is argument for argument in args):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_ten_million_samples_take_40_mb_and_an_update_touches_only_its_batch() -> None:
    margins = SampleMargins(10_000_000, initial=2.0)
    assert margins.values.untyped_storage().nbytes() == 40_000_000
    stream = io.BytesIO()
    torch.save(margins.state_dict(), stream)
    assert stream.tell() < 41_000_000
    ids, accepted, noise_norm = torch.randint(len(margins), (256,)), torch.rand(256) < 0.5, torch.rand(256)
    with _Largest() as largest:
        margins.update(ids, accepted, noise_norm, RULE)
        margins[ids]
    assert 0 < largest.elements <= 256
