"""The doubled batch of adversarial training: noise, radii, extra inputs, the network's state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.engines.utils import PrepareBatch, PrepareBatchExtraInput
from torch import Tensor, nn

from monai_amat.attacks import BoundaryPGD, Linf, ProjectedGradientDescent, Restarts
from monai_amat.engines import evaluating, frozen
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import Absolute, Acceptance, AdaptiveMargins, PathRule, Relative, SampleMargins
from tests.engines.preparing import (
    LOSS,
    PGD,
    Gained,
    Net,
    adversarial,
    batch,
    batch_net,
    instance_net,
    last_of,
    noisy_half,
    rows,
)

# ------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("shape", [(8, 8), (4, 6, 6)])
def test_the_clean_half_comes_first_and_the_noisy_half_is_in_its_ball(count: int, shape: tuple[int, ...]) -> None:
    network = Net(spatial=len(shape))
    of = batch(count, shape)
    prepare = adversarial(network)
    inputs, target = prepare(of)
    assert inputs.shape == (2 * count, 1, *shape)
    assert torch.equal(inputs[:count], of["image"])
    assert torch.equal(target, torch.cat([of["label"], of["label"]]))
    norms = (inputs[count:] - inputs[:count]).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((count,), 1.5))
    assert bool((LOSS(network(inputs[count:]), of["label"]) > LOSS(network(of["image"]), of["label"])).all())
    assert not inputs.requires_grad


def test_last_says_what_was_done() -> None:
    of = batch()
    radius = torch.full((9,), 2.0)
    radius[1] = 0.5
    prepare = adversarial(radius=radius)
    inputs, _ = prepare({**of, "sample_id": torch.tensor([3, 1, 7, 0])})
    last = last_of(prepare)
    assert last.ids.tolist() == [3, 1, 7, 0]
    assert last.radius.tolist() == [2.0, 0.5, 2.0, 2.0]
    assert torch.equal(last.noisy, inputs[4:])
    assert last.clean is of["image"]
    assert last.target is of["label"]
    torch.testing.assert_close(last.noise_norm, torch.tensor([2.0, 0.5, 2.0, 2.0]))
    assert last.result.steps.tolist() == [3, 3, 3, 3]
    assert last.result.stalled.tolist() == [0, 0, 0, 0]


def test_noise_is_measured_in_the_norm_of_the_attack() -> None:
    for attack in (
        PGD,
        ProjectedGradientDescent(norm="inf", steps=2),
        Restarts(ProjectedGradientDescent(norm=Linf()), 2),
    ):
        prepare = adversarial(attack=attack, radius=0.3)
        prepare(batch())
        torch.testing.assert_close(last_of(prepare).noise_norm, torch.full((4,), 0.3))


def test_a_radius_schedule_of_the_users_own() -> None:
    class Ramp:
        epoch = 2

        def __getitem__(self, ids: Tensor) -> Tensor:
            return ids * 0.5 * self.epoch

    prepare = adversarial(radius=Ramp())
    prepare(batch())
    torch.testing.assert_close(last_of(prepare).noise_norm, torch.tensor([0.0, 1.0, 2.0, 3.0]))


def test_radius_zero_is_two_clean_halves() -> None:
    of = batch()
    inputs, _ = adversarial(radius=0)(of)
    assert torch.equal(inputs, torch.cat([of["image"], of["image"]]))


def test_meta_tensors_come_out_plain_and_stay_in_last() -> None:
    of = batch()
    of["image"] = MetaTensor(of["image"], meta={"name": "case"})
    of["label"] = MetaTensor(of["label"])
    prepare = adversarial()
    inputs, target = prepare(of)
    assert type(inputs) is Tensor
    assert type(target) is Tensor
    assert isinstance(last_of(prepare).clean, MetaTensor)
    assert isinstance(last_of(prepare).target, MetaTensor)
    assert torch.equal(inputs, adversarial()(batch())[0])


def test_the_networks_device_and_type_arguments_reach_the_inner_prepare_batch() -> None:
    seen: dict[str, Any] = {}

    class Inner(PrepareBatch):
        def __call__(self, batchdata: Any, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
            seen.update(device=device, non_blocking=non_blocking, **kwargs)
            return batchdata["image"].to(**kwargs), batchdata["label"]

    inputs, _ = adversarial(instance_net().double(), prepare_batch=Inner())(batch(), "cpu", True, dtype=torch.float64)
    assert seen == {"device": "cpu", "non_blocking": True, "dtype": torch.float64}
    assert inputs.dtype == torch.float64


# ------------------------------------------------------------------ trees


@pytest.mark.parametrize("keys", [["gain", "shift"], {"gain": "gain", "shift": "shift"}])
def test_extra_inputs_are_doubled_and_belong_to_their_samples(keys: Any) -> None:
    of = batch(gain=torch.tensor([1.0, 2.0, 3.0, 4.0]), shift=torch.tensor([0.0, 1.0, 0.0, -1.0]))
    prepare = adversarial(Gained(), prepare_batch=PrepareBatchExtraInput(keys))
    inputs, target, args, kwargs = prepare(of)
    given = {"gain": of["gain"], "shift": of["shift"]}
    doubled = dict(zip(given, args, strict=False)) if isinstance(keys, list) else kwargs
    assert (len(args), len(kwargs)) == ((2, 0) if isinstance(keys, list) else (0, 2))
    for name, value in given.items():
        assert torch.equal(doubled[name], torch.cat([value, value]))
    # Each sample's noise is what it gets alone: its own gain and shift were used.
    for row in range(4):
        alone = prepare(rows(of, [row]))[0][1:]
        torch.testing.assert_close(inputs[4 + row : 5 + row], alone)
    assert target.shape == (8, 1, 8, 8)


class DictNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Any]:
        value = self.layer(image)
        return {"mask": value, "heads": [value.mean(dim=(1, 2, 3)), value.amax(dim=(1, 2, 3))]}


class TreeLoss(PerSampleLoss):
    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        counts = (pred["heads"][0] - target["number"]).square() + pred["heads"][1].abs()
        return {"mask": (pred["mask"] - target["mask"][0]).square().flatten(1).mean(1), "count": counts}


def test_targets_and_predictions_may_be_trees() -> None:
    of = batch(number=torch.tensor([1.0, 2.0, 3.0, 4.0]))

    class Inner(PrepareBatch):
        def __call__(self, batchdata: Any, *_: Any, **__: Any) -> Any:
            return batchdata["image"], {"mask": (batchdata["label"],), "number": batchdata["number"]}

    prepare = adversarial(DictNet(), loss=TreeLoss(), prepare_batch=Inner())
    inputs, target = prepare(of)
    assert torch.equal(target["mask"][0], torch.cat([of["label"], of["label"]]))
    assert target["number"].tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    torch.testing.assert_close(inputs[6:7], prepare(rows(of, [2]))[0][1:])


def test_any_other_leaf_is_an_error() -> None:
    class Inner(PrepareBatch):
        def __call__(self, batchdata: Any, *_: Any, **__: Any) -> Any:
            return batchdata["image"], {"label": batchdata["label"], "name": "case_7"}

    with pytest.raises(TypeError, match="got a leaf of type str"):
        adversarial(prepare_batch=Inner())(batch())
    with pytest.raises(TypeError, match="got a leaf of type str"):
        adversarial(prepare_batch=PrepareBatchExtraInput("name"))(batch(name=["a"] * 4))


# ------------------------------------------------------------------ randomness is a function


@pytest.mark.parametrize("seeded", [True, False])
def test_noise_depends_neither_on_order_nor_on_who_else_is_in_the_batch(seeded: bool) -> None:
    of = batch(6)
    if not seeded:
        del of["sample_seed"]
    prepare = adversarial(attack=ProjectedGradientDescent(steps=0))  # the random start alone
    whole = noisy_half(prepare, of)
    order = [4, 2, 0, 5, 3, 1]
    assert torch.equal(noisy_half(prepare, rows(of, order)), whole[order])
    split = [noisy_half(prepare, rows(of, part)) for part in ([0, 2, 4], [1, 3, 5])]  # as two processes have it
    assert torch.equal(torch.cat(split), whole[[0, 2, 4, 1, 3, 5]])
    starts = whole - of["image"]
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 6


def test_the_given_seed_counts_and_nothing_global() -> None:
    prepare, of = adversarial(), batch()
    first = noisy_half(prepare, of)
    state = torch.random.get_rng_state()
    torch.manual_seed(999)
    assert torch.equal(noisy_half(prepare, of), first)
    torch.random.set_rng_state(state)
    noisy_half(prepare, of)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(noisy_half(prepare, {**of, "sample_seed": of["sample_seed"] + 4}), first)


def test_other_names_of_the_keys() -> None:
    of = batch()
    renamed = {**of, "case": of["sample_id"] + 5, "draw": of["sample_seed"]}
    del renamed["sample_id"], renamed["sample_seed"]
    prepare = adversarial(radius=torch.full((9,), 1.5), id_key="case", seed_key="draw")
    assert torch.equal(noisy_half(prepare, renamed), noisy_half(adversarial(), of))
    assert last_of(prepare).ids.tolist() == [5, 6, 7, 8]


# ------------------------------------------------------------------ the network stays as it is


@pytest.mark.parametrize("acceptance", [None, Absolute({"total": 1.0})])
def test_batchnorm_is_untouched_by_attack_and_verdict(acceptance: Any) -> None:
    network = batch_net().train()
    network.body[0].requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    asked = [parameter.requires_grad for parameter in network.parameters()]
    prepare = adversarial(network, acceptance=acceptance)
    prepare(batch())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert [parameter.requires_grad for parameter in network.parameters()] == asked
    assert all(parameter.grad is None for parameter in network.parameters())


def test_with_batchnorm_too_a_samples_noise_is_its_own() -> None:
    prepare, of = adversarial(batch_net()), batch()
    whole = noisy_half(prepare, of)
    for row in range(4):
        torch.testing.assert_close(noisy_half(prepare, rows(of, [row]))[0], whole[row])


def test_with_batchnorm_the_verdict_is_measured_through_frozen() -> None:
    network, of = batch_net(), batch()
    prepare = adversarial(network, acceptance=Absolute({"total": 1.0}))
    inputs, target = prepare(of)
    last = last_of(prepare)
    with evaluating(network):
        expected = LOSS(network(inputs), target)
    torch.testing.assert_close(last.clean_measured.terms["total"], expected[:4])
    torch.testing.assert_close(last.noisy_measured.terms["total"], expected[4:])
    with torch.no_grad():
        otherwise = LOSS(network.train()(inputs), target)
    assert not torch.allclose(otherwise, expected, rtol=1e-2)


def test_dropout_does_not_blur_the_attack() -> None:
    network = Net(nn.Dropout(0.5))
    first = noisy_half(adversarial(network), batch())
    assert torch.equal(noisy_half(adversarial(network), batch()), first)
    torch.testing.assert_close(first, noisy_half(adversarial(Net()), batch()))
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("make", [instance_net, batch_net])
def test_forwards_are_only_spent_where_the_training_forward_will_not_do(make: Any) -> None:
    network = make()
    adversarial(network)(batch())
    assert network.forwards == [(True, 4)] * 3
    network.forwards.clear()
    prepare = adversarial(network, acceptance=Relative(0.1))
    prepare(batch())
    extra = 2 if make is batch_net else 0  # x and x̃
    assert network.forwards == [(True, 4)] * (3 + extra)
    assert (last_of(prepare).noisy_measured is None) == (extra == 0)


def test_the_attack_sees_the_heads_of_training_whatever_mode_it_finds() -> None:
    network = instance_net().eval()
    adversarial(network)(batch())
    assert {training for training, _ in network.forwards} == {True}


def test_the_network_may_be_wrapped() -> None:
    plain = noisy_half(adversarial(instance_net()), batch())
    compiled: Any = torch.compile(instance_net(), backend="eager")
    for wrapped in (nn.DataParallel(instance_net()), compiled):
        assert torch.equal(noisy_half(adversarial(wrapped), batch()), plain)


# ------------------------------------------------------------------ verdicts on the path


def path_judged(acceptance: Acceptance, radius: float = 1.5) -> AdaptiveMargins:
    return AdaptiveMargins(SampleMargins(4, radius), acceptance=acceptance, rule=PathRule(step=1.0))


@pytest.mark.parametrize("radius", [1.5, 0.0])
@pytest.mark.parametrize("xi", [-10.0, 10.0])
def test_a_judged_path_always_has_a_verdict(radius: float, xi: float) -> None:
    prepare = adversarial(radius=path_judged(Absolute({"total": xi}), radius))
    prepare(batch())
    result = last_of(prepare).result
    assert result.all_accepted.tolist() == [xi > 0] * 4
    assert result.accepted.tolist() == [xi > 0] * 4


@pytest.mark.parametrize("make", [instance_net, batch_net])
def test_a_path_can_be_judged_relative_to_the_clean_sample(make: Any) -> None:
    network, of = make(), batch()
    prepare = adversarial(network, radius=path_judged(Relative(0.0)))
    prepare(of)
    assert last_of(prepare).result.all_accepted.tolist() == [False] * 4  # the attack raises the loss
    prepare = adversarial(network, radius=path_judged(Relative(5.0)))
    prepare(of)
    assert last_of(prepare).result.all_accepted.tolist() == [True] * 4


def test_boundary_attacks_follow_the_acceptance() -> None:
    network, of = instance_net(), batch()
    with frozen(network), torch.no_grad():
        clean = LOSS(network(of["image"]), of["label"])
    xi = float(clean.sort().values[2] + 1e-3)  # three samples start accepted
    prepare = adversarial(network, attack=BoundaryPGD(floor=0.25), radius=20.0, acceptance=Absolute({"total": xi}))
    prepare(of)
    last = last_of(prepare)
    easy = clean < xi
    with torch.no_grad():
        noisy = LOSS(network(last.noisy), of["label"])
    assert bool((noisy[easy] < xi + 1e-4).all())
    torch.testing.assert_close(last.noise_norm[~easy], torch.tensor([0.25]))
    assert not last.result.all_accepted.any()
