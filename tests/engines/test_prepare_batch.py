from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.engines import SupervisedEvaluator
from monai.engines.utils import PrepareBatch, PrepareBatchExtraInput
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from monai_amat.attacks import BoundaryPGD, Linf, ProjectedGradientDescent, Restarts
from monai_amat.engines import PrepareBatchAdversarial, PrepareBatchNoisy, evaluating, frozen
from monai_amat.losses import DiceCELoss, PerSample, PerSampleLoss
from monai_amat.margins import Absolute, Relative, SampleMargins

LOSS = DiceCELoss(smooth=1.0)
PGD = ProjectedGradientDescent(steps=3, rel_step=0.5)


class Net(nn.Module):
    """A small segmentation network that counts its forwards."""

    def __init__(self, *layers: nn.Module, channels: int = 1, spatial: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        conv: Any = nn.Conv2d if spatial == 2 else nn.Conv3d
        self.body = nn.Sequential(conv(channels, 4, 3, padding=1), *layers, nn.LeakyReLU(), conv(4, 2, 1))
        self.forwards: list[tuple[bool, int]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.forwards.append((self.training, len(image)))
        return self.body(image)


def instance_net() -> Net:
    return Net(nn.InstanceNorm2d(4, affine=True))


def batch_net() -> Net:
    """Its running statistics are far from any batch's, so that the two modes differ."""
    network = Net(nn.BatchNorm2d(4))
    norm = network.body[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = torch.tensor([0.3, -0.2, 0.1, 0.5])
    norm.running_var = torch.tensor([0.5, 2.0, 1.5, 0.7])
    return network


def batch(count: int = 4, shape: tuple[int, ...] = (8, 8), **extra: Any) -> dict[str, Any]:
    source = torch.Generator().manual_seed(3)
    return {
        "image": torch.randn(count, 1, *shape, generator=source),
        "label": torch.randint(0, 2, (count, 1, *shape), generator=source).float(),
        "sample_id": torch.arange(count),
        "sample_seed": 1000 + torch.arange(count),
        **extra,
    }


def rows(of: dict[str, Any], chosen: list[int]) -> dict[str, Any]:
    return {key: value[chosen] for key, value in of.items()}


def adversarial(network: nn.Module | None = None, **settings: Any) -> PrepareBatchAdversarial:
    given: dict[str, Any] = {"loss": LOSS, "attack": PGD, "radius": 1.5, **settings}
    return PrepareBatchAdversarial(network=instance_net() if network is None else network, **given)


def noisy_half(prepare: PrepareBatchAdversarial, of: dict[str, Any]) -> Tensor:
    inputs = prepare(of)[0]
    return inputs[len(inputs) // 2 :]


def last_of(prepare: Any) -> Any:
    assert prepare.last is not None
    return prepare.last


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
    prepare = adversarial(radius=SampleMargins(9, 2.0))
    prepare.radius.values[1] = 0.5  # type: ignore[union-attr]
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


class Gained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, image: Tensor, gain: Tensor, shift: Tensor | None = None) -> Tensor:
        value = self.layer(image) * gain[:, None, None, None]
        return value if shift is None else value + shift[:, None, None, None]


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

    with pytest.raises(TypeError, match="one leaf is a str"):
        adversarial(prepare_batch=Inner())(batch())
    with pytest.raises(TypeError, match="one leaf is a str"):
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
    prepare = adversarial(radius=SampleMargins(9, 1.5), id_key="case", seed_key="draw")
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


@pytest.mark.parametrize("radius", [1.5, 0.0])
@pytest.mark.parametrize("xi", [-10.0, 10.0])
def test_a_judged_path_always_has_a_verdict(radius: float, xi: float) -> None:
    prepare = adversarial(radius=radius, acceptance=Absolute({"total": xi}))
    prepare.judge_path = True
    prepare(batch())
    result = last_of(prepare).result
    assert result.all_accepted.tolist() == [xi > 0] * 4
    assert result.accepted.tolist() == [xi > 0] * 4


@pytest.mark.parametrize("make", [instance_net, batch_net])
def test_a_path_can_be_judged_relative_to_the_clean_sample(make: Any) -> None:
    network, of = make(), batch()
    prepare = adversarial(network, acceptance=Relative(0.0))
    prepare.judge_path = True
    prepare(of)
    assert last_of(prepare).result.all_accepted.tolist() == [False] * 4  # the attack raises the loss
    prepare.acceptance = Relative(5.0)
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


# ------------------------------------------------------------------ evaluation under attack


def noisy(network: nn.Module, epsilon: float = 1.5, **settings: Any) -> PrepareBatchNoisy:
    return PrepareBatchNoisy(**{"network": network, "loss": LOSS, "attack": PGD, "epsilon": epsilon, **settings})


def test_an_evaluator_sees_only_the_noisy_image() -> None:
    network, of = batch_net().train(), batch()
    prepare = noisy(network)
    seen: list[Tensor] = []
    evaluator = SupervisedEvaluator(torch.device("cpu"), [of], network, prepare_batch=prepare, decollate=False)
    evaluator.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output["image"]))
    with torch.no_grad():
        evaluator.run()
    (image,) = seen
    assert torch.equal(image, last_of(prepare).noisy)
    torch.testing.assert_close((image - of["image"]).flatten(1).norm(dim=1), torch.full((4,), 1.5))
    with evaluating(network), torch.no_grad():
        assert bool((LOSS(network(image), of["label"]) > LOSS(network(of["image"]), of["label"])).all())
    assert last_of(prepare).ids.tolist() == [0, 1, 2, 3]


def test_the_attack_is_on_the_network_in_eval_mode_and_leaves_its_modes() -> None:
    network, of = batch_net().train(), batch()
    network.body[2].eval()
    network.body[0].requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    asked = [parameter.requires_grad for parameter in network.parameters()]
    noisy(network)(of)
    assert {training for training, _ in network.forwards} == {False}
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == asked
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_modes_are_back_after_an_error_in_the_attack() -> None:
    network = batch_net().train()
    of = batch()
    of["image"][0, 0, 0, 0] = float("nan")
    for prepare in (noisy(network), adversarial(network)):
        with pytest.raises(ValueError, match="samples \\[0\\] of the batch hold NaN"):
            prepare(of)
        assert all(module.training for module in network.modules())
        assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("make", [instance_net, batch_net])
def test_no_noise_is_the_clean_image_and_costs_nothing(make: Any) -> None:
    network, of = make(), batch()
    inputs, target = noisy(network, epsilon=0.0)(of)
    assert torch.equal(inputs, of["image"])
    assert target is of["label"]
    assert network.forwards == []


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_are_on_inside_whatever_is_off_outside(around: Any) -> None:
    network = Net()
    loss = DiceCELoss(activation="sigmoid", smooth=1.0)  # its backward needs the target itself
    expected, _ = noisy(network, loss=loss)({**batch(), "label": batch()["label"].repeat(1, 2, 1, 1)})
    with around():
        of = {**batch(), "label": batch()["label"].repeat(1, 2, 1, 1)}  # as a loader inside would make it
        inputs, target = noisy(network, loss=loss)(of)
    assert target is of["label"]
    torch.testing.assert_close(inputs, expected)


def test_metadata_is_kept_sample_by_sample() -> None:
    items = [
        {
            "image": MetaTensor(
                torch.randn(1, 8, 8), affine=torch.eye(4) * (number + 1), meta={"name": f"case_{number}"}
            ),
            "label": MetaTensor(torch.ones(1, 8, 8)),
        }
        for number in range(3)
    ]
    of = list_data_collate(items)
    inputs, target = noisy(instance_net())(of)
    assert isinstance(inputs, MetaTensor)
    assert isinstance(target, MetaTensor)
    assert inputs.is_batch
    for number in range(3):
        one: Any = inputs[number]
        assert one.meta["name"] == f"case_{number}"
        torch.testing.assert_close(one.affine, torch.eye(4, dtype=torch.float64) * (number + 1))
    assert not torch.equal(inputs.as_tensor(), of["image"].as_tensor())


def test_evaluation_noise_follows_from_the_image_where_nothing_else_is_given() -> None:
    of = {key: value for key, value in batch(5).items() if not key.startswith("sample")}
    prepare = noisy(instance_net())
    whole = prepare(of)[0]
    assert last_of(prepare).ids is None
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(prepare(rows(of, order))[0], whole[order])
    torch.testing.assert_close(torch.cat([prepare(rows(of, [row]))[0] for row in range(5)]), whole)
    start = noisy(instance_net(), attack=ProjectedGradientDescent(steps=0))(of)[0] - of["image"]
    assert len({tuple(noise.flatten().tolist()) for noise in start}) == 5


def test_extra_inputs_stay_as_they_are_under_evaluation() -> None:
    of = batch(gain=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    inputs, target, args, kwargs = noisy(Gained(), prepare_batch=PrepareBatchExtraInput("gain"))(of)
    assert inputs.shape == (4, 1, 8, 8)
    assert target is of["label"]
    assert len(args) == 1
    assert args[0] is of["gain"]
    assert kwargs == {}


def test_the_inferer_of_the_workflow_serves_the_attack() -> None:
    network = Net()
    inferer = SlidingWindowInferer(roi_size=(8, 8), sw_batch_size=4, overlap=0.0)
    inputs, _ = noisy(network, inferer=inferer)(batch(2, (8, 16)))
    assert {count for _, count in network.forwards} == {4}  # two windows of two images
    assert not torch.equal(inputs, batch(2, (8, 16))["image"])


# ------------------------------------------------------------------ what is refused


def test_losses_that_are_not_per_sample_are_refused() -> None:
    for make in (adversarial, lambda **settings: noisy(instance_net(), **settings)):
        with pytest.raises(TypeError, match=r"CrossEntropyLoss is not a PerSampleLoss.*PerSample\(loss\)"):
            make(loss=nn.CrossEntropyLoss())
        make(loss=PerSample(nn.MSELoss()))


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_impossible_radii_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="radius must be finite and not negative"):
        adversarial(radius=wrong)
    with pytest.raises(ValueError, match="epsilon must be finite and not negative"):
        noisy(instance_net(), epsilon=wrong)


@pytest.mark.parametrize("wrong", ["2.5", None, object()])
def test_a_radius_is_a_number_or_goes_by_id(wrong: Any) -> None:
    with pytest.raises(TypeError, match="radius must be a number or an object with a radius by sample ID"):
        adversarial(radius=wrong)


def test_numbers_of_any_kind_are_radii() -> None:
    expected = adversarial(radius=2)(batch())[0]
    for radius in (2.0, np.float32(2.0), np.int64(2)):
        assert torch.equal(adversarial(radius=radius)(batch())[0], expected)


def test_attacks_that_follow_a_boundary_need_one_and_are_not_for_evaluation() -> None:
    for attack in (BoundaryPGD(), Restarts(BoundaryPGD(), 2)):
        with pytest.raises(ValueError, match="follows the acceptance boundary: give acceptance="):
            adversarial(attack=attack)
    with pytest.raises(ValueError, match="BoundaryPGD stops at a boundary and cannot be used for evaluation"):
        noisy(instance_net(), attack=BoundaryPGD())


def test_thresholds_must_be_for_the_judged_terms() -> None:
    with pytest.raises(ValueError, match=r"for the terms \['dice'\], but DiceCELoss is judged on \['total'\]"):
        adversarial(acceptance=Absolute({"dice": 1.0, "total": 1.0}))


def test_margins_need_ids() -> None:
    of = batch()
    prepare = adversarial(radius=SampleMargins(4, 1.0))
    with pytest.raises(KeyError, match=r"no 'sample_id'.*IndexedDataset"):
        prepare({key: of[key] for key in ("image", "label")})
    with pytest.raises(KeyError, match="no 'sample_id'"):
        prepare((of["image"], of["label"]))
    with pytest.raises(ValueError, match="4 samples but 3 values under 'sample_id'"):
        prepare({**of, "sample_id": torch.arange(3)})
    with pytest.raises(IndexError, match=r"0 … 3, got 1 … 4"):
        prepare({**of, "sample_id": torch.arange(1, 5)})


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((torch.zeros(2, 1, 8, 8), None), ValueError, r"must return \(inputs, targets"),
        (torch.zeros(2, 1, 8, 8), ValueError, r"must return \(inputs, targets"),
        ((torch.zeros(2, 1, 8, 8),) * 3, ValueError, r"must return \(inputs, targets"),
        (([torch.zeros(2)], torch.zeros(2)), TypeError, "one input tensor, got list"),
        ((torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 8, 8)), ValueError, r"first sizes are \[2, 3\]"),
        ((torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 8, 8)), ValueError, "the batch holds no sample"),
        ((torch.zeros(2, 1, 8, 8).long(), torch.zeros(2, 1, 8, 8)), TypeError, "floating-point inputs"),
    ],
)
def test_what_an_attack_cannot_use_is_named(given: Any, error: type[Exception], message: str) -> None:
    class Inner(PrepareBatch):
        def __call__(self, batchdata: Any, *_: Any, **__: Any) -> Any:
            return given

    for prepare in (adversarial(prepare_batch=Inner()), noisy(instance_net(), prepare_batch=Inner())):
        with pytest.raises(error, match=message):
            prepare({})


def test_as_many_seeds_as_samples() -> None:
    with pytest.raises(ValueError, match="4 samples need as many seeds, got 3"):
        adversarial()({**batch(), "sample_seed": torch.arange(3)})
