"""BatchNorm over a doubled batch in its three ways, each against forwards written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import OwnStatisticsInferer, PrepareBatchAdversarial, SeparateForwardsInferer, frozen
from monai_amat.handlers import NonFiniteGuardHandler
from monai_amat.losses import PerSample

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Net(nn.Module):
    """Two normalised layers, heads as a list, and inputs of all kinds."""

    def __init__(self, *norms: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.norms = nn.ModuleList(norms)
        self.double()

    def forward(self, image: Tensor, shift: Tensor | None = None, *, scale: float = 1.0) -> list[Tensor]:
        value = torch.relu(self.norms[0](self.first(image)))
        value = value if shift is None else value + shift
        value = scale * self.norms[1](self.second(value))
        return [value, value[..., ::2, ::2]]


def batch_net(**settings: Any) -> Net:
    return Net(nn.BatchNorm2d(4, **settings), nn.BatchNorm2d(2, **settings))


def doubled(count: int = 3, seed: int = 0) -> Tensor:
    """The noisy half is on another level than the clean one, so that statistics differ."""
    clean = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([clean, 2 * clean + 3])


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if name.rpartition(".")[2] in STATISTICS}


def equal(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def inferer(kind: Any, network: nn.Module) -> Inferer:
    return OwnStatisticsInferer(network) if kind is OwnStatisticsInferer else kind()


@pytest.mark.parametrize("kind", [SeparateForwardsInferer, OwnStatisticsInferer])
def test_without_batchnorm_all_three_are_one(kind: Any) -> None:
    network = Net(nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(1, 2)).train()
    expected = SimpleInferer()(doubled(), network)
    for found, head in zip(inferer(kind, network)(doubled(), network), expected, strict=True):
        assert torch.equal(found, head)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_separate_forwards_are_two_forwards(momentum: float | None) -> None:
    network, reference = batch_net(momentum=momentum), batch_net(momentum=momentum)
    for seed in (0, 1):
        both = doubled(seed=seed)
        heads = SeparateForwardsInferer()(both, network)
        expected = [torch.cat(pair) for pair in zip(reference(both[:3]), reference(both[3:]), strict=True)]
        for head, other in zip(heads, expected, strict=True):
            torch.testing.assert_close(head, other)
        heads[0].square().sum().backward()
        expected[0].square().sum().backward()
    for parameter, other in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    for name, value in statistics(network).items():
        torch.testing.assert_close(value, statistics(reference)[name], msg=name)
    assert statistics(network)["norms.0.num_batches_tracked"] == 4


@pytest.mark.parametrize("momentum", [0.1, None])
def test_own_statistics_are_two_networks_with_one_set_of_weights(momentum: float | None) -> None:
    network, clean, noisy = (batch_net(momentum=momentum) for _ in range(3))
    start = doubled(seed=9)
    for each in (network, clean, noisy):  # a trained network: its statistics are not the initial ones
        each(start)
    halves = OwnStatisticsInferer(network)
    assert equal(halves.state_dict(), statistics(network))
    for seed in (0, 1):
        both = doubled(seed=seed)
        heads = halves(both, network)
        expected = [torch.cat(pair) for pair in zip(clean(both[:3]), noisy(both[3:]), strict=True)]
        for head, other in zip(heads, expected, strict=True):
            torch.testing.assert_close(head, other)
        heads[0].square().sum().backward()
        expected[0].square().sum().backward()
    for parameter, first, second in zip(network.parameters(), clean.parameters(), noisy.parameters(), strict=True):
        assert parameter.grad is not None and first.grad is not None and second.grad is not None
        torch.testing.assert_close(parameter.grad, first.grad + second.grad)
    for name, value in statistics(network).items():
        torch.testing.assert_close(value, statistics(clean)[name], msg=name)
        torch.testing.assert_close(halves.state_dict()[name], statistics(noisy)[name], msg=name)
    # Evaluation is by what the clean half left.
    image = doubled(seed=5)
    torch.testing.assert_close(halves(image, network.eval())[0], clean.eval()(image)[0])
    assert not torch.allclose(noisy.eval()(image)[0], network(image)[0])


def test_running_statistics_after_a_step_by_hand() -> None:
    both = torch.tensor([[1.0], [3.0], [10.0], [30.0]])
    expected = {  # 0.9 · start (0 and 1) + 0.1 · mean, variance with n - 1
        SimpleInferer: (0.1 * 11.0, 0.9 + 0.1 * (100 + 64 + 1 + 361) / 3, 1),
        SeparateForwardsInferer: (0.9 * 0.1 * 2.0 + 0.1 * 20.0, 0.9 * (0.9 + 0.1 * 2.0) + 0.1 * 200.0, 2),
        OwnStatisticsInferer: (0.1 * 2.0, 0.9 + 0.1 * 2.0, 1),
    }
    for kind, (mean, variance, tracked) in expected.items():
        network = nn.BatchNorm1d(1)
        halves = inferer(kind, network)
        halves(both, network)
        assert network.running_mean is not None and network.running_var is not None
        assert network.running_mean.item() == pytest.approx(mean)
        assert network.running_var.item() == pytest.approx(variance)
        assert network.num_batches_tracked == tracked
        if isinstance(halves, OwnStatisticsInferer):
            state = {name: value.item() for name, value in halves.state_dict().items()}
            assert state == pytest.approx({"running_mean": 2.0, "running_var": 0.9 + 20.0, "num_batches_tracked": 1})


@pytest.mark.parametrize("kind", [SeparateForwardsInferer, OwnStatisticsInferer])
@pytest.mark.parametrize("rest", ["eval", "frozen"])
def test_a_network_at_rest_takes_any_batch_whole(kind: Any, rest: str) -> None:
    network = batch_net().train()
    halves, before, image = inferer(kind, network), copy.deepcopy(statistics(network)), doubled()[:5]
    if rest == "eval":
        found, expected = halves(image, network.eval()), network(image)
    else:
        with frozen(network) as still:
            found, expected = halves(image, still), still(image)
    assert torch.equal(found[0], expected[0])
    assert equal(statistics(network), before)
    if isinstance(halves, OwnStatisticsInferer):
        assert equal(halves.state_dict(), before)


@pytest.mark.parametrize("kind", [SeparateForwardsInferer, OwnStatisticsInferer])
def test_arguments_reach_the_network_and_nothing_stays_behind(kind: Any) -> None:
    network, both, shift = batch_net(), doubled(), torch.ones(6, 1, 1, 1, dtype=torch.float64)
    found = inferer(kind, network)(both, network, shift, scale=3.0)[0]
    other = batch_net()
    expected = torch.cat([3 * other(half, shift[:3])[0] for half in both.chunk(2)])
    torch.testing.assert_close(found, expected)
    assert not any("forward" in vars(module) for module in network.modules())


@pytest.mark.parametrize("kind", [SeparateForwardsInferer, OwnStatisticsInferer])
def test_a_batch_that_is_not_doubled_is_refused_and_nothing_stays_behind(kind: Any) -> None:
    network = batch_net()
    halves = inferer(kind, network)
    with pytest.raises(ValueError, match=rf"{kind.__name__} is for the doubled batch.*'norms\.0' got 5 samples"):
        halves(doubled()[:5], network)
    assert not any("forward" in vars(module) for module in network.modules())
    with pytest.raises(TypeError, match="needs a torch"):
        halves(doubled(), lambda image: image)


def test_a_layers_own_forward_comes_back() -> None:
    network = batch_net()
    layer: Any = network.norms[0]
    layer.forward = mine = lambda value: value * 2
    halves = SeparateForwardsInferer()(doubled(), network)[0]
    assert layer.forward is mine
    assert torch.isfinite(halves).all()


def test_only_what_is_in_training_mode_is_split() -> None:
    network, reference = batch_net(), batch_net()
    for each in (network, reference):
        each.norms[0].eval()
    both = doubled()
    torch.testing.assert_close(
        SeparateForwardsInferer()(both, network)[0], torch.cat([reference(both[:3])[0], reference(both[3:])[0]])
    )
    assert statistics(network)["norms.0.num_batches_tracked"] == 0


def test_layers_without_running_statistics() -> None:
    network, reference = (batch_net(track_running_stats=False) for _ in range(2))
    halves, both = OwnStatisticsInferer(network), doubled()
    assert halves.state_dict() == {}
    expected = torch.cat([reference(both[:3])[0], reference(both[3:])[0]])
    torch.testing.assert_close(halves(both, network)[0], expected)


# ------------------------------------------------------------------ the state of the noisy half


def test_state_is_kept_out_of_the_networks_files_and_comes_back() -> None:
    network = batch_net()
    names = list(network.state_dict())
    halves = OwnStatisticsInferer(network)
    halves(doubled(), network)
    assert list(network.state_dict()) == names
    state = halves.state_dict()
    resumed = batch_net()
    resumed.load_state_dict(network.state_dict())
    other = OwnStatisticsInferer(resumed)
    assert not equal(other.state_dict(), state)
    other.load_state_dict(state)
    assert equal(other.state_dict(), state)
    # It is a copy, and both go on to the same numbers.
    for each, of in ((halves, network), (other, resumed)):
        each(doubled(seed=3), of)
    assert equal(other.state_dict(), halves.state_dict())
    assert not equal(state, halves.state_dict())


def test_state_of_another_network_is_refused() -> None:
    halves = OwnStatisticsInferer(batch_net())
    state = halves.state_dict()
    with pytest.raises(ValueError, match=r"1 names or shapes differ, such as 'norms\.1\.running_var'"):
        halves.load_state_dict({name: value for name, value in state.items() if name != "norms.1.running_var"})
    with pytest.raises(ValueError, match=r"'norms\.0\.running_mean'"):
        halves.load_state_dict({**state, "norms.0.running_mean": torch.zeros(7)})


def test_another_network_is_refused() -> None:
    halves, other = OwnStatisticsInferer(batch_net()), batch_net()
    with pytest.raises(TypeError, match="made for another network"):
        halves(doubled(), other)


def test_noisy_statistics_move_with_the_network() -> None:
    network = batch_net()
    halves = OwnStatisticsInferer(network)
    network.float().to("meta")
    assert {value.device.type for value in halves.state_dict().values()} == {"meta"}
    assert halves.state_dict()["norms.0.running_mean"].dtype == torch.float32


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def check_wrapped(kind: Any, network: nn.Module, wrapped: nn.Module) -> None:
    """Outputs, gradients and statistics are those of the network without its wrapper."""
    plain, both = batch_net(), doubled()
    halves, reference = inferer(kind, network), inferer(kind, plain)
    found, expected = halves(both, wrapped)[0], reference(both, plain)[0]
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for parameter, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    for name, value in statistics(plain).items():
        torch.testing.assert_close(statistics(network)[name], value)
    if isinstance(halves, OwnStatisticsInferer) and isinstance(reference, OwnStatisticsInferer):
        torch.testing.assert_close(halves.state_dict(), reference.state_dict())


@pytest.mark.parametrize("kind", [SeparateForwardsInferer, OwnStatisticsInferer])
@pytest.mark.usefixtures("one_rank")
def test_ddp_is_looked_through(kind: Any) -> None:
    network = batch_net()
    check_wrapped(kind, network, nn.parallel.DistributedDataParallel(network))


@pytest.mark.slow
def test_compiled_networks_too() -> None:
    network = batch_net()
    compiled: Any = torch.compile(network, backend="eager")
    check_wrapped(OwnStatisticsInferer, network, compiled)


# ------------------------------------------------------------------ in MONAI's engines


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image)


def train(kind: Any, *batches: dict[str, Tensor]) -> tuple[Head, Inferer]:
    network, loss = Head(), PerSample(nn.MSELoss())
    halves = inferer(kind, network)
    prepare = PrepareBatchAdversarial(
        network=network, loss=loss, attack=ProjectedGradientDescent(steps=2, rel_step=0.5), radius=1.0
    )
    trainer = SupervisedTrainer(
        "cpu", 1, list(batches), network, torch.optim.SGD(network.parameters(), 0.01), loss,
        prepare_batch=prepare, inferer=halves, train_handlers=[NonFiniteGuardHandler()],
    )  # fmt: skip
    trainer.run()
    return network, halves


def batch(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"image": torch.randn(3, 1, 8, 8, generator=draw), "label": torch.randn(3, 1, 8, 8, generator=draw)}


def test_the_three_ways_train_apart() -> None:
    trained = {
        kind: train(kind, batch(0), batch(1))[0]
        for kind in (SimpleInferer, SeparateForwardsInferer, OwnStatisticsInferer)
    }
    tracked = {kind: int(network.state_dict()["body.1.num_batches_tracked"]) for kind, network in trained.items()}
    assert tracked == {SimpleInferer: 2, SeparateForwardsInferer: 4, OwnStatisticsInferer: 2}
    means = [network.state_dict()["body.1.running_mean"] for network in trained.values()]
    assert not torch.allclose(means[0], means[1])
    assert not torch.allclose(means[1], means[2])


def test_the_last_two_normalise_alike_in_training() -> None:
    # One step: after it the attack sees other running statistics.
    first, second = (train(kind, batch(0))[0] for kind in (SeparateForwardsInferer, OwnStatisticsInferer))
    for value, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(value, other)
    assert not torch.allclose(first.state_dict()["body.1.running_mean"], second.state_dict()["body.1.running_mean"])


def test_a_skipped_step_leaves_the_noisy_statistics_too() -> None:
    broken = {**batch(1), "label": torch.full((3, 1, 8, 8), torch.nan)}
    _, kept = train(OwnStatisticsInferer, batch(0))
    _, skipped = train(OwnStatisticsInferer, batch(0), broken)
    assert isinstance(kept, OwnStatisticsInferer) and isinstance(skipped, OwnStatisticsInferer)
    assert equal(kept.state_dict(), skipped.state_dict())


@pytest.mark.parametrize("kind", [SeparateForwardsInferer, OwnStatisticsInferer])
def test_an_evaluator_may_share_the_inferer(kind: Any) -> None:
    network, halves = train(kind, batch(0))
    evaluator = SupervisedEvaluator(torch.device("cpu"), [batch(4)], network, inferer=halves, decollate=False)
    before = copy.deepcopy(statistics(network))
    evaluator.run()
    with torch.no_grad():
        assert torch.equal(evaluator.state.output["pred"], network.eval()(batch(4)["image"]))
    assert equal(statistics(network), before)
