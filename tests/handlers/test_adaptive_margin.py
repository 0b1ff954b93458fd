from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from monai_amat.attacks import BoundaryPGD, ProjectedGradientDescent
from monai_amat.engines import PrepareBatchAdversarial
from monai_amat.handlers.adaptive_margin import AdaptiveMarginHandler
from monai_amat.handlers.adversarial_output import AdversarialOutputHandler
from monai_amat.handlers.non_finite_guard import NonFiniteGuardHandler
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import (
    Absolute,
    AdaptiveMargins,
    BoundaryRule,
    MarginRule,
    PaperRule,
    PathRule,
    Relative,
    RunningThresholds,
    SampleMargins,
)
from tests.watching import watched

XI = 3.0
DELTA = 1.0


class Level(PerSampleLoss):
    """The loss of a sample is its one pixel, so that noise of size E raises it by E; beyond 50 it is infinite."""

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {"level": pred[:, 0] + torch.where(pred[:, 0] > 50, torch.inf, 0.0) + 0 * target[:, 0]}


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return image * self.factor


# Two of the four steps reach the sphere: the path is x, x + E/2, x + E, x + E, x + E.
PGD: dict[str, Any] = {"steps": 4, "rel_step": 0.5, "random_start": None}


def a_batch(pixels: list[float], ids: list[int] | None = None) -> dict[str, Tensor]:
    image = torch.tensor(pixels)[:, None]
    return {
        "image": image,
        "label": torch.zeros_like(image),
        "sample_id": torch.tensor(ids or list(range(len(pixels)))),
    }


class Run:
    """A trainer that leaves the network alone, and what the margins were after each step and epoch."""

    def __init__(
        self,
        loader: list[dict[str, Tensor]],
        rule: MarginRule,
        *,
        epochs: int = 1,
        attack: Any = None,
        acceptance: Any = None,
        size: int = 4,
        before: list[Any] | None = None,
        after: list[Any] | None = None,
    ) -> None:
        network = Scale()
        self.margins = SampleMargins(size, DELTA)
        self.prepare = PrepareBatchAdversarial(
            network=network,
            loss=Level(),
            attack=ProjectedGradientDescent(**PGD) if attack is None else attack,
            radius=AdaptiveMargins(
                self.margins, acceptance=Absolute({"total": XI}) if acceptance is None else acceptance, rule=rule
            ),
        )
        self.handler = AdaptiveMarginHandler(self.prepare)
        self.steps: list[list[float]] = []
        self.at_epoch_end: list[list[float]] = []
        self.visits: list[Any] = []
        self.engine = SupervisedTrainer(
            "cpu",
            epochs,
            loader,
            network,
            # Its own parameter: the network must stay as it is even where a gradient is not finite.
            torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1),
            self.prepare.loss,
            prepare_batch=self.prepare,
            train_handlers=[*(before or []), self.handler, *(after or [])],
        )
        self.engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)

    def _note(self, engine: Any) -> None:
        self.steps.append(self.margins.values.tolist())
        self.visits.append(self.handler.visits)

    def run(self) -> Run:
        self.engine.run()
        return self


# ------------------------------------------------------------------ the rules at work


def test_paper_rule_in_the_step() -> None:
    # E grows by Δ while x + E < ξ; without clipping the rejected noise has size E, so that line 12 changes nothing.
    run = Run([a_batch([0.0, 1.5, 2.5])], PaperRule(step=DELTA), epochs=4).run()
    assert run.steps == [[2, 2, 1, 1], [3, 2, 1, 1], [3, 2, 1, 1], [3, 2, 1, 1]]


def test_line_12_pulls_a_clipped_margin_towards_its_noise() -> None:
    attack = ProjectedGradientDescent(**PGD, clip_range=(0.0, 3.0))
    run = Run([a_batch([0.0, 2.5])], PaperRule(step=DELTA), epochs=5, attack=attack).run()
    assert [step[0] for step in run.steps] == [2, 3, 3, 3, 3]
    # x = 2.5 is clipped at 3: noise 0.5, and 3 is not below ξ. E <- (0.5 + E) / 2 each time.
    assert [step[1] for step in run.steps] == pytest.approx([0.75, 0.625, 0.5625, 0.53125, 0.515625])


class Bump(Level):
    """Worst around 1, so that a path may be rejected on its way to an end that is accepted."""

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {"level": pred[:, 0] + 9 * ((pred[:, 0] - 1.0).abs() < 0.1)}


@pytest.mark.parametrize(
    ("rule", "after"),
    [
        (PathRule(step=DELTA), [[2, 1, 1, 1], [2, 1, 1, 1], [2, 2, 1, 1]]),
        (PaperRule(step=DELTA), [[3, 1, 1, 1], [3, 2, 1, 1]] * 2),
    ],
)
def test_path_rule_judges_every_iterate_and_moves_by_epoch(rule: MarginRule, after: list[list[float]]) -> None:
    run = Run([a_batch([0.0], [0]), a_batch([0.25], [1]), a_batch([4.0], [2])], rule)
    run.prepare.loss = run.engine.loss_function = Bump()
    run.margins.values[0] = 2.0  # its path is 0, 1, 2, 2, 2; that of sample 1 is .25, .75, 1.25, …
    run.run()
    assert run.prepare.judge_path == rule.judges_path
    assert run.steps == [*after[:2], after[-1]]


def test_path_rule_any_accepted_visit_accepts_and_norms_are_averaged() -> None:
    loader = [a_batch([9.0, 9.0], [0, 1]), a_batch([0.0, 8.0], [0, 1])]
    run = Run(loader, PathRule(step=DELTA, decay=0.5)).run()
    assert run.steps == [[1, 1, 1, 1], [2, 0.5, 1, 1]]


def test_paper_rule_every_visit_of_a_step_must_be_accepted() -> None:
    attack = ProjectedGradientDescent(**PGD, clip_range=(0.0, 3.5))
    run = Run([a_batch([0.0, 3.0, 1.0], [2, 2, 0])], PaperRule(step=DELTA), attack=attack).run()
    # Sample 2: one visit accepted with noise 1, one rejected with noise clipped to 0.5: (0.75 + 1) / 2.
    assert run.margins.values.tolist() == pytest.approx([2, 1, 0.875, 1])
    assert run.visits[0].ids.tolist() == [2, 2, 0]
    assert run.visits[0].accepted.tolist() == [True, False, True]


def test_epoch_margins_move_before_anything_on_epoch_completed() -> None:
    seen: list[list[float]] = []

    class Saver:
        def attach(self, engine: Any) -> None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: seen.append(run.margins.values.tolist()))

    run = Run([a_batch([0.0]), a_batch([0.0])], PathRule(step=DELTA), epochs=2, before=[Saver()])
    run.run()
    assert seen == [[2, 1, 1, 1], [3, 1, 1, 1]]


def test_a_broken_epoch_leaves_nothing_behind() -> None:
    run = Run([a_batch([9.0]), a_batch([0.0], [1])], PathRule(step=DELTA, decay=0.5))
    run.engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda engine: engine.terminate())
    run.engine.run()
    assert len(run.steps) == 1
    # The epoch is done again by another engine: the visit that was rejected before must not count now.
    engine = SupervisedTrainer(
        "cpu",
        1,
        [a_batch([0.0], [1])],
        run.prepare.network,
        run.engine.optimizer,
        run.prepare.loss,
        prepare_batch=run.prepare,
    )
    run.handler.attach(engine)
    engine.run()
    assert run.margins.values.tolist() == [1, 2, 1, 1]


def test_boundary_rule_follows_the_boundary_both_ways() -> None:
    run = Run(
        [a_batch([1.0, 2.5, 7.0])],
        BoundaryRule(step=DELTA),
        epochs=3,
        attack=BoundaryPGD(**PGD, floor=DELTA, halvings=16),
    )
    run.margins.values[0] = 4.0
    run.run()
    # x = 1: the boundary is 2 away. 4 -> (2 + 4) / 2 = 3 -> 2.5 -> 2.25. Floors hold the others at Δ.
    assert [step[0] for step in run.steps] == pytest.approx([3.0, 2.5, 2.25], abs=1e-3)
    assert [step[1] for step in run.steps] == [1, 1, 1]
    assert [step[2] for step in run.steps] == [1, 1, 1]
    assert run.visits[0].noise_norm.tolist() == pytest.approx([2.0, 0.5, 1.0], abs=1e-3)
    assert run.visits[0].accepted.tolist() == [False, False, False]


def test_margins_of_zero_are_judged_too() -> None:
    run = Run([a_batch([0.0, 4.0])], PathRule(step=DELTA))
    run.margins.values.zero_()
    run.run()
    assert run.margins.values.tolist() == [1, 0, 0, 0]


def test_acceptance_relative_to_the_clean_loss() -> None:
    run = Run([a_batch([0.0, 40.0])], PaperRule(step=DELTA), epochs=4, acceptance=Relative(2.5)).run()
    assert run.steps == [[2, 2, 1, 1], [3, 3, 1, 1], [3, 3, 1, 1], [3, 3, 1, 1]]


# ------------------------------------------------------------------ visits


def test_visits_say_what_was_judged() -> None:
    run = Run([a_batch([0.0, 2.5, 5.0], [3, 0, 1])], PaperRule(step=DELTA)).run()
    visits = run.visits[0]
    assert visits.ids.tolist() == [3, 0, 1]
    assert visits.accepted.tolist() == [True, False, False]
    assert visits.clean_accepted.tolist() == [True, True, False]
    assert visits.noise_norm.tolist() == pytest.approx([1, 1, 1])
    assert visits.before.tolist() == [1, 1, 1]
    assert visits.after.tolist() == [2, 1, 1]
    assert visits.steps.tolist() == [4, 4, 4]
    assert visits.stalled.tolist() == [0, 0, 0]


def test_until_margins_move_after_is_before() -> None:
    run = Run([a_batch([0.0]), a_batch([0.0])], PathRule(step=DELTA)).run()
    assert [visits.after.tolist() for visits in run.visits] == [[1], [2]]


# ------------------------------------------------------------------ running thresholds


def test_running_thresholds_take_the_clean_losses_and_margins_wait_for_them() -> None:
    running = RunningThresholds(momentum=0.5, warmup=2)
    loader = [a_batch([0.0, 4.0]), a_batch([0.0, 2.0]), a_batch([0.0, 9.0]), a_batch([1.0, 5.0])]
    run = Run(loader, PaperRule(step=DELTA), acceptance=Absolute(running)).run()
    # Means of the steps: 2, 1, 4.5, 3. ξ before step 3 is (2/4 + 1/2) / (3/4) = 4/3, before step 4 21.5/7.
    assert run.steps == [[1, 1, 1, 1], [1, 1, 1, 1], [2, 1, 1, 1], [3, 1, 1, 1]]
    weights, means = [1 / 16, 1 / 8, 1 / 4, 1 / 2], [2, 1, 4.5, 3]
    expected = sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)
    assert running.values == {"total": pytest.approx(expected)}
    assert running.steps == 4


def test_without_warm_up_the_first_step_has_no_threshold_yet() -> None:
    running = RunningThresholds(warmup=1)
    run = Run([a_batch([-5.0, 5.0])] * 2, PaperRule(step=DELTA), acceptance=Absolute(running)).run()
    assert run.steps == [[1, 1, 1, 1], [2, 1, 1, 1]]


def test_epoch_rules_leave_visits_of_the_warm_up_out() -> None:
    running = RunningThresholds(warmup=3)
    loader = [a_batch([-9.0], [0]), a_batch([-9.0], [1]), a_batch([3.0], [2]), a_batch([-9.0], [3])]
    run = Run(loader, PathRule(step=DELTA), acceptance=Absolute(running)).run()
    assert run.margins.values.tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize(("pixels", "warned"), [([8.0, 6.0, 4.0, 2.0, 1.0], True), ([2.0] * 5, False)])
def test_thresholds_that_lag_behind_falling_losses_are_told(
    pixels: list[float], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    running = RunningThresholds(momentum=0.8, warmup=1)
    Run([a_batch([pixel]) for pixel in pixels], PaperRule(step=DELTA), acceptance=Absolute(running)).run()
    assert ("above what the present clean losses give" in caplog.text) == warned


# ------------------------------------------------------------------ what is not finite


@pytest.mark.parametrize("rule", [PaperRule(step=DELTA), PathRule(step=DELTA)])
def test_samples_with_a_loss_that_is_not_finite_move_nothing(rule: MarginRule) -> None:
    running = RunningThresholds(warmup=1)
    run = Run([a_batch([0.0, 60.0, 49.5, 1.0])], rule, acceptance=watched({"total": XI}, running)).run()
    assert run.margins.values.tolist() == [2, 1, 1, 2]  # 49.5 is finite only without its noise
    assert run.visits[0].ids.tolist() == [0, 3]
    assert running.values == {"total": pytest.approx(0.5)}


def test_a_step_without_one_usable_sample() -> None:
    run = Run([a_batch([60.0, 70.0]), a_batch([0.0])], PaperRule(step=DELTA)).run()
    assert run.steps == [[1, 1, 1, 1], [2, 1, 1, 1]]
    assert len(run.visits[0].ids) == 0


@pytest.mark.parametrize("guard_first", [True, False])
@pytest.mark.parametrize("rule", [PaperRule(step=DELTA), PathRule(step=DELTA)])
def test_a_step_that_the_guard_skips_moves_nothing(guard_first: bool, rule: MarginRule) -> None:
    running = RunningThresholds(warmup=1)
    loader = [a_batch([0.0, 60.0]), a_batch([0.5], [2]), a_batch([0.0, 60.0])]
    guard = NonFiniteGuardHandler()
    around: dict[str, Any] = {"before": [guard]} if guard_first else {"after": [guard]}
    run = Run(loader, rule, acceptance=watched({"total": XI}, running), **around).run()
    assert guard.total == 2
    assert run.margins.values.tolist() == [1, 1, 2, 1]
    assert run.steps[0] == [1, 1, 1, 1]
    assert running.values == {"total": pytest.approx(0.5)}
    assert run.visits[0].after.tolist() == [1]


# ------------------------------------------------------------------ what is refused


def prepare(rule: MarginRule | None = None, acceptance: Any = None, **settings: Any) -> PrepareBatchAdversarial:
    margins = AdaptiveMargins(
        SampleMargins(4, DELTA),
        acceptance=Absolute({"total": XI}) if acceptance is None else acceptance,
        rule=PaperRule(step=DELTA) if rule is None else rule,
    )
    given: dict[str, Any] = {"network": Scale(), "loss": Level(), "attack": ProjectedGradientDescent(**PGD)}
    return PrepareBatchAdversarial(**{**given, "radius": margins, **settings})


@pytest.mark.parametrize("radius", [2.5, torch.ones(4)], ids=["number", "tensor"])
def test_the_margins_must_be_adaptive(radius: Any) -> None:
    with pytest.raises(TypeError, match=r"must be AdaptiveMargins for its margins to move, got .*; give radius="):
        AdaptiveMarginHandler(prepare(radius=radius))


def test_margins_without_a_rule_are_no_radius() -> None:
    with pytest.raises(TypeError, match=r"radius is SampleMargins, which do not move by themselves; give Adaptive"):
        prepare(radius=SampleMargins(4, DELTA))


def test_one_acceptance_is_enough() -> None:
    with pytest.raises(ValueError, match="has an acceptance already"):
        PrepareBatchAdversarial(
            network=Scale(),
            loss=Level(),
            attack=ProjectedGradientDescent(**PGD),
            radius=prepare().radius,
            acceptance=Absolute({"total": XI}),
        )


def test_boundary_attacks_need_a_rule_that_judges_the_path() -> None:
    with pytest.raises(ValueError, match=r"BoundaryPGD returns points.*PaperRule.*use BoundaryRule"):
        prepare(attack=BoundaryPGD())
    assert prepare(BoundaryRule(step=DELTA), attack=BoundaryPGD()).judge_path


@pytest.mark.parametrize("rule", [PaperRule(step=DELTA), PathRule(step=DELTA), BoundaryRule(step=DELTA)])
def test_whether_the_path_is_judged_is_known_before_anything_is_attached(rule: MarginRule) -> None:
    assert prepare(rule).judge_path is rule.judges_path


def test_another_prepare_batch_than_the_trainers_is_refused() -> None:
    handler = AdaptiveMarginHandler(prepare())
    run = Run([a_batch([0.0])], PaperRule(step=DELTA))
    with pytest.raises(ValueError, match="the trainer's prepare_batch must be the PrepareBatchAdversarial"):
        handler.attach(run.engine)


@pytest.mark.parametrize("place", ["before", "after"])
def test_outputs_are_split_only_once(place: str) -> None:
    class Again:
        def attach(self, engine: Any) -> None:
            AdversarialOutputHandler(engine.prepare_batch).attach(engine)

    run = Run([a_batch([0.0, 1.0])], PaperRule(step=DELTA), **{place: [Again()]})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"may have split them.*AdaptiveMarginHandler has its own"):
        run.run()


def test_batches_without_ids_are_refused() -> None:
    batch = a_batch([0.0])
    del batch["sample_id"]
    with pytest.raises(KeyError, match="no 'sample_id'"):
        Run([batch], PaperRule(step=DELTA)).run()


class Waits(Absolute):
    """An acceptance of the user's own that never becomes ready."""

    @property
    def ready(self) -> bool:
        return False


def test_an_acceptance_that_can_never_be_ready_is_refused() -> None:
    """Margins would wait for ever."""
    with pytest.raises(ValueError, match="Waits is not ready and has no running thresholds"):
        prepare(acceptance=Waits({"total": XI}))


def test_the_loss_is_computed_once_for_training_and_verdict() -> None:
    """The terms of the training forward are those that the trainer's loss has computed."""

    class Counted(Level):
        calls = 0

        def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
            self.calls += len(pred)
            return super().terms(pred, target)

    run = Run([a_batch([0.0, 1.5])], PaperRule(step=DELTA))
    run.prepare.loss = run.engine.loss_function = counted = Counted()
    run.run()
    assert run.steps == [[2, 2, 1, 1]]
    assert counted.calls == 4 * 2 + 4  # four steps of the attack, and the doubled batch


# ------------------------------------------------------------------ margins that nothing moves


def test_training_without_the_handler_is_an_error() -> None:
    """As where a later configuration file replaces `initialize`, in which the handler was attached."""
    made = prepare()
    trainer = SupervisedTrainer(
        "cpu",
        2,
        [a_batch([0.0])],
        made.network,
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1),
        made.loss,
        prepare_batch=made,
    )
    with pytest.raises(
        RuntimeError, match=r"1 batches were made .* none of them moved .* attach AdaptiveMarginHandler"
    ):
        trainer.run()


def test_a_step_may_be_done_again_after_an_exception() -> None:
    run = Run([a_batch([0.0])], PaperRule(step=DELTA), epochs=2)
    run.engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda _: run.prepare(a_batch([0.0])))
    run.run()
    assert run.steps == [[2, 1, 1, 1], [3, 1, 1, 1]]


def test_a_handler_that_is_attached_to_another_trainer_is_found_out() -> None:
    run = Run([a_batch([0.0])], PaperRule(step=DELTA)).run()
    with pytest.raises(RuntimeError, match="2 batches were made with these margins"):
        for _ in range(3):
            run.prepare(a_batch([0.0]))
