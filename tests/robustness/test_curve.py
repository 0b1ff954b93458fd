"""The robustness curve: its numbers, its files, and that a stopped run goes on to the same end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from monai.transforms import AsDiscreted, Compose, Lambdad
from torch import nn
from torch.utils.data import DataLoader, Subset

from monai_amat.attacks import ProjectedGradientDescent, Restarts
from monai_amat.data.indexed import IndexedDataset
from monai_amat.losses import PerSampleLoss
from monai_amat.robustness import Report, RobustnessCurve, merge_rows
from monai_amat.robustness.store import RowStore
from monai_amat.tasks.segmentation import DiceCELoss, DiceIndexMetric

MakeCurve = Callable[..., RobustnessCurve]


def first_rows(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["noise_level"] == rows["noise_level"].min()]


def another_network(seed: int = 1) -> nn.Sequential:
    """A network for the same slices, such as noise may be made on."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Conv2d(4, 3, 3, padding=1)
        )


def test_rows_hold_what_every_sample_scored(make_curve: MakeCurve, network: Any) -> None:
    network.train()
    curve = make_curve()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    rows = curve.run()
    assert list(rows.columns) == [
        *("noise_level", "sample_id", "case", "slice", "loss", "noise_norm", "noise_rms", "stalled"),
        *("tp_1", "fp_1", "fn_1", "tp_2", "fp_2", "fn_2"),
    ]
    assert rows["sample_id"].tolist() == [*range(10)] * 3
    assert rows["noise_level"].tolist() == [0.0] * 10 + [1.0] * 10 + [2.5] * 10
    np.testing.assert_allclose(rows["noise_norm"], rows["noise_level"], atol=1e-5)
    np.testing.assert_allclose(rows["noise_rms"], rows["noise_level"] / 8, atol=1e-5)  # of 8×8 values
    assert first_rows(rows)["case"].tolist() == [f"00{i % 3}" for i in range(10)]
    assert first_rows(rows)["slice"].tolist() == [i // 3 for i in range(10)]
    # The network is as it was: running statistics, modes, gradients.
    assert all(bool((value == network.state_dict()[name]).all()) for name, value in state.items())
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_level_zero_is_a_plain_evaluation_and_noise_hurts(make_curve: MakeCurve, network: Any, tmp_path: Path) -> None:
    curve = make_curve()
    rows = curve.run()
    clean = first_rows(rows)
    images = torch.stack([curve.data[i]["image"] for i in range(10)])
    labels = torch.stack([curve.data[i]["label"] for i in range(10)])
    with torch.no_grad():
        pred = network.eval()(images)
        np.testing.assert_allclose(clean["loss"], DiceCELoss()(pred, labels), rtol=1e-5)
    metric = DiceIndexMetric(num_classes=3)
    expected = metric.summary(pd.DataFrame(metric.columns(pred, labels)))["adi"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["levels"]["0"]["adi"]["value"] == pytest.approx(expected)
    losses = rows.groupby("noise_level")["loss"].mean()
    assert losses.is_monotonic_increasing
    assert losses[2.5] > losses[0.0] + 0.05


def test_files_say_what_they_are_of(make_curve: MakeCurve, tmp_path: Path) -> None:
    rows = make_curve(settings={"transforms": "plain"}).run()
    folder = tmp_path / "run"
    assert sorted(file.name for file in folder.iterdir()) == [
        *("curve.png", "robustness.csv", "rows.sqlite", "summary.json", "table.md")
    ]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "robustness.csv", dtype={"case": str}), rows)
    text = (folder / "summary.json").read_text()
    summary = json.loads(text)
    level = summary["levels"]["2.5"]
    assert (level["samples"], level["groups"]) == (10, 3)
    assert level["noise_norm"] == pytest.approx(2.5, abs=1e-4)
    assert level["adi"]["low"] <= level["adi"]["value"] <= level["adi"]["high"]
    values = [summary["levels"][name]["tvdi"]["value"] for name in ("0", "1", "2.5")]
    assert summary["levels"]["Avg"]["tvdi"]["value"] == pytest.approx(np.mean(values))
    assert summary["attack"]["steps"] == 3
    assert (summary["seed"], summary["settings"]) == (3, {"transforms": "plain"})
    assert summary["seconds"] > 0
    assert summary["versions"]["torch"] == torch.__version__
    assert str(tmp_path) not in text
    assert matplotlib.image.imread(folder / "curve.png").std() > 0.02


def test_a_run_ends_with_its_table_and_where_it_lies(
    make_curve: MakeCurve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = Report(ylabel="ADI", further={"tvdi": "Dice over all voxels"})
    with caplog.at_level(logging.INFO):
        make_curve(report=report).run()
    told = (tmp_path / "run" / "table.md").read_text()
    assert told.startswith("| adi at noise") and "| tvdi at noise" in told
    # Nothing of ignite's between the lines of the bar.
    (message,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.INFO)
    assert message.startswith(f"robustness, 10 samples: {tmp_path / 'run'}")
    assert told.split("\n\n")[0] in message
    for text in (told, message):
        assert (
            "ε is the L2 norm over all values of an image; root mean square of the noise per value: ε 1: 0.12" in text
        )
        assert "The intervals rest on 3 groups: so few" in text
    assert (tmp_path / "run" / "curve_tvdi.png").is_file()


def test_the_loss_itself_as_what_the_attack_raises_is_no_other_attack(make_curve: MakeCurve, tmp_path: Path) -> None:
    loss = DiceCELoss()
    make_curve(loss=loss).run()
    make_curve(loss=loss, attack_loss=loss).run()  # else what is kept would be refused
    assert "attack_loss" not in json.loads((tmp_path / "run" / "summary.json").read_text())


def test_what_training_left_the_data_set_at_does_not_matter(make_curve: MakeCurve, tmp_path: Path) -> None:
    fresh = make_curve().run()
    trained = make_curve(output_dir=tmp_path / "other")
    trained.data.set_epoch(7)
    pd.testing.assert_frame_equal(trained.run(), fresh, check_exact=True)


def test_an_interrupted_run_goes_on_to_the_same_end(make_curve: MakeCurve, network: Any, tmp_path: Path) -> None:
    whole = make_curve(output_dir=tmp_path / "whole").run()
    full_cost = network.seen
    network.fail_after(full_cost + full_cost // 2)
    with pytest.raises(KeyboardInterrupt):
        make_curve().run()
    network.fail_after(None)
    with RowStore(tmp_path / "run") as store:
        kept = store.read()
    assert 0 < len(kept) < len(whole)
    assert not (tmp_path / "run" / "robustness.csv").exists()
    before = network.seen
    resumed = make_curve().run()
    # Only what was not finished is computed: less than the whole, and the kept rows are as they were.
    assert 0 < network.seen - before < full_cost
    with RowStore(tmp_path / "run") as store:
        pd.testing.assert_frame_equal(store.read().iloc[: len(kept)], kept, check_exact=True)
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    first, second = ((tmp_path / name / "robustness.csv").read_bytes() for name in ("whole", "run"))
    assert first == second
    before = network.seen
    make_curve().run()
    assert network.seen == before


def test_neighbours_in_the_batch_do_not_matter(make_curve: MakeCurve, tmp_path: Path) -> None:
    by_four = make_curve().run()
    by_three = make_curve(batch_size=3, output_dir=tmp_path / "other").run()
    pd.testing.assert_frame_equal(by_four, by_three, check_exact=False, rtol=1e-4, atol=1e-5)


def test_levels_and_samples_can_be_added(make_curve: MakeCurve, network: Any, tmp_path: Path) -> None:
    data = IndexedDataset(make_curve().data.dataset, seed=3)
    part = make_curve(dataset=Subset(data, [8, 2, 5]), noise_levels=[1]).run()
    assert part["sample_id"].tolist() == [2, 5, 8]
    before = network.seen
    again = make_curve(dataset=Subset(data, [8, 2, 5, 0]), noise_levels=[0, 1]).run()
    assert again["sample_id"].tolist() == [0, 2, 5, 8] * 2
    # Four clean forwards; one sample more at level 1: three gradients and the evaluation.
    assert network.seen - before == 4 + 1 * (3 + 1)
    whole = make_curve(output_dir=tmp_path / "whole", noise_levels=[1]).run()
    expected = whole[whole["sample_id"].isin([2, 5, 8])].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected, rtol=1e-4, atol=1e-5)
    assert len(make_curve(dataset=Subset(data, [0]), noise_levels=[1]).run()) == 1


def test_samples_of_an_inner_subset_keep_their_source_ids(make_curve: MakeCurve) -> None:
    source = make_curve().data.dataset
    rows = make_curve(dataset=IndexedDataset(Subset(source, [7, 1]), seed=3), noise_levels=[1]).run()
    assert rows["sample_id"].tolist() == [1, 7]
    assert rows["case"].tolist() == ["001", "001"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attack": ProjectedGradientDescent(steps=4, rel_step=0.5)}, "attack.steps 3, but this run has 4"),
        ({"loss": DiceCELoss(dice_over="present")}, "loss.dice_over all, but this run has present"),
        ({"settings": {"transforms": "other"}}, "without settings.transforms, but this run has other"),
        ({"dataset": IndexedDataset([{"image": torch.zeros(1)}], seed=3)}, "made with data "),
        ({"source": another_network()}, "made without source, but this run has [0-9a-f]{16}"),
        ({"attack_loss": DiceCELoss()}, "made without attack_loss, but this run has"),
    ],
)
def test_rows_made_otherwise_are_refused(make_curve: MakeCurve, change: dict[str, Any], message: str) -> None:
    make_curve(noise_levels=[0]).run()
    with pytest.raises(RuntimeError, match=f"{message}.*[Gg]ive another output_dir, or delete"):
        make_curve(noise_levels=[0], **change).run()


def test_rows_of_other_weights_are_refused(make_curve: MakeCurve, network: Any) -> None:
    make_curve(noise_levels=[0]).run()
    with torch.no_grad():
        network[0].bias[0] += 1e-6
    with pytest.raises(RuntimeError, match="made with network "):
        make_curve(noise_levels=[0]).run()


def test_rows_of_another_source_or_attack_loss_are_refused(make_curve: MakeCurve) -> None:
    first, second = another_network(), another_network(seed=2)
    make_curve(noise_levels=[1], source=first, attack_loss=DiceCELoss()).run()
    make_curve(noise_levels=[1], source=first, attack_loss=DiceCELoss()).run()
    with pytest.raises(RuntimeError, match=r"made with source .*, but this run has"):
        make_curve(noise_levels=[1], source=second, attack_loss=DiceCELoss()).run()
    with pytest.raises(RuntimeError, match=r"made with attack_loss\.smooth 1e-05"):
        make_curve(noise_levels=[1], source=first, attack_loss=DiceCELoss(smooth=1.0)).run()
    with pytest.raises(RuntimeError, match=r"made with source "):
        make_curve(noise_levels=[1], attack_loss=DiceCELoss()).run()


def test_noise_may_be_made_on_another_network_and_raise_another_loss(
    make_curve: MakeCurve, network: Any, tmp_path: Path
) -> None:
    source, dice_alone = another_network(), DiceCELoss(weights={"ce": 0.0})
    before = {name: value.clone() for name, value in source.state_dict().items()}
    curve = make_curve(noise_levels=[2.5], source=source, attack_loss=dice_alone)
    rows = curve.run()
    # The same noise by hand: on the source in eval mode, one sample at a time.
    source.eval()
    items = [curve.data[i] for i in range(10)]
    images, labels = (torch.stack([item[key] for item in items]) for key in ("image", "label"))
    noisy = curve.attack(
        lambda noise, rows: dice_alone(source(noise), labels[rows]),
        images,
        2.5,
        seeds=[item["sample_seed"] for item in items],
    ).noisy
    with torch.no_grad():
        # What is recorded is the whole loss of the network that is attacked.
        expected = DiceCELoss()(network.eval()(noisy), labels)
    np.testing.assert_allclose(rows["loss"], expected, rtol=1e-4)
    others: list[dict[str, Any]] = [{}, {"source": source}, {"attack_loss": dice_alone}]
    for number, other in enumerate(others):
        again = make_curve(noise_levels=[2.5], output_dir=tmp_path / str(number), **other)
        assert np.abs(again.run()["loss"] - expected.numpy()).max() > 1e-3
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in before.items())


def test_the_source_is_left_as_it_was_found(make_curve: MakeCurve) -> None:
    source = another_network().train()
    source[1].eval()
    make_curve(noise_levels=[1], source=source).run()
    assert source.training
    assert not source[1].training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in source.parameters())


def test_all_that_the_attack_needs_goes_to_the_device(
    make_curve: MakeCurve, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: dict[int, Any] = {}
    move = nn.Module.to

    def note(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        placed[id(self)] = args[0] if args else kwargs
        return move(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", note)
    modules = {"network": network, "loss": DiceCELoss(), "source": another_network(), "attack_loss": DiceCELoss()}
    make_curve(noise_levels=[1], device="cpu", **modules).run()
    assert {name: placed.get(id(module)) for name, module in modules.items()} == dict.fromkeys(
        modules, torch.device("cpu")
    )


def test_what_each_level_has_cost_is_kept_with_its_rows(make_curve: MakeCurve, tmp_path: Path) -> None:
    make_curve(attack=Restarts(ProjectedGradientDescent(steps=3, rel_step=0.5), 2)).run()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    costs = [summary["levels"][level]["gradient_evaluations"] for level in ("0", "1", "2.5")]
    assert costs == [0.0, 6.0, 6.0]
    seconds = [summary["levels"][level]["seconds"] for level in ("0", "1", "2.5")]
    assert min(seconds) > 0
    assert summary["seconds"] == pytest.approx(sum(seconds))


def test_a_number_that_is_not_finite_names_its_sample(make_curve: MakeCurve, network: Any, tmp_path: Path) -> None:
    class Broken(DiceCELoss):
        def forward(self, pred: Any, target: Any) -> torch.Tensor:
            return super().forward(pred, target).log()

    with pytest.raises(RuntimeError, match=r"sample \d+ \(case 00\d\) gave a number that is not finite"):
        make_curve(loss=Broken(weights={"ce": 0.0, "dice": 0.0})).run()
    with RowStore(tmp_path / "run") as store:
        assert store.read().empty


def test_an_undefined_metric_is_kept_as_such(make_curve: MakeCurve) -> None:
    class Partial(DiceIndexMetric):
        def columns(self, pred: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
            absent = target.flatten(1).sum(dim=1) == 0
            size = target.flatten(1).sum(dim=1).double().masked_fill(absent, torch.nan)
            return {**super().columns(pred, target), "size": size}

    rows = make_curve(metric=Partial(num_classes=3), noise_levels=[0]).run()
    assert rows["size"].isna().tolist() == [i % 4 == 3 for i in range(10)]


@pytest.mark.parametrize("levels", [[], [-1], [1, 1.0], [float("inf")], [float("nan")]])
def test_impossible_noise_levels_are_refused(make_curve: MakeCurve, levels: list[float]) -> None:
    with pytest.raises(ValueError, match="noise_levels must be different finite numbers"):
        make_curve(noise_levels=levels)


def test_loaders_that_will_not_do_are_refused(make_curve: MakeCurve) -> None:
    with pytest.raises(TypeError, match="must be an IndexedDataset"):
        make_curve(dataset=[{"image": torch.zeros(1)}])
    with pytest.raises(ValueError, match="needs a batch_size"):
        make_curve(data_loader=DataLoader(IndexedDataset([{"image": 0}]), batch_size=None))
    crops = [[{**item, "crop": i} for i in range(2)] for item in make_curve().data.dataset]
    loader = DataLoader(IndexedDataset(crops), batch_size=2, collate_fn=_flat)
    with pytest.raises(ValueError, match="without num_samples crops"):
        make_curve(data_loader=loader, noise_levels=[0]).run()


def _flat(batch: list[list[dict[str, Any]]]) -> Any:
    return torch.utils.data.default_collate([crop for item in batch for crop in item])


@pytest.mark.parametrize(("keys", "message"), [({"group_key": "volume"}, "'volume'"), ({"extra_keys": ["z"]}, "'z'")])
def test_missing_keys_are_named_before_anything_is_attacked(
    make_curve: MakeCurve, network: Any, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(KeyError, match=f"{message}, its keys are.*group_key, which may be 'sample_id'"):
        make_curve(**keys).run()
    assert network.seen == 0  # before anything is attacked


def test_a_distributed_run_is_refused(make_curve: MakeCurve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="one process"):
        make_curve().run()


def test_progress_is_one_line_per_noise_level(make_curve: MakeCurve, capsys: pytest.CaptureFixture[str]) -> None:
    curve = make_curve(progress=True)
    curve.run()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"{curve.output_dir.name}, noise level {level:g}" for level in curve.noise_levels
    ]
    assert all(": 3 batches in " in line for line in lines)


def test_identifiers_stay_text_and_stay_different(make_curve: MakeCurve, tmp_path: Path) -> None:
    names = ["001", "1", "1e3", "1000", "NA", "", "nan", "-0", "1.0", "1"]
    items = [{**make_curve().data.dataset[i], "patient": name} for i, name in enumerate(names)]
    for batch_size in (1, 4, 10):
        folder = tmp_path / str(batch_size)
        curve = make_curve(
            batch_size=batch_size,
            dataset=IndexedDataset(items, seed=3),
            output_dir=folder,
            noise_levels=[0],
            extra_keys=("patient",),
        )
        assert curve.run()["patient"].tolist() == names
        assert curve.run()["patient"].tolist() == names
        merged = merge_rows({"STD": folder})["patient"]
        assert merged[merged.notna()].tolist() == [name for name in names if name]
    again = make_curve(
        dataset=IndexedDataset(items, seed=3), output_dir=tmp_path / "p", group_key="patient", noise_levels=[0]
    ).run()
    assert again["patient"].nunique() == 9


class Blanked(PerSampleLoss):
    """Looks at the labels as they are stored, 0 and 255."""

    def terms(self, pred: Any, target: Any) -> dict[str, torch.Tensor]:
        return {"ce": (pred[:, 1] - pred[:, 0] - target[:, 0] / 255).pow(2).flatten(1).mean(1)}


def test_the_metric_sees_what_the_evaluators_postprocessing_makes(make_curve: MakeCurve, tmp_path: Path) -> None:
    """Labels stored as 0 and 255, which the validation transforms of some workflows leave to postprocessing."""
    source = make_curve().data.dataset
    items = [{**item, "label": (item["label"] > 0) * 255.0} for item in source]
    torch.manual_seed(0)
    network = nn.Conv2d(1, 2, 3, padding=1)
    options = {"network": network, "loss": Blanked(), "metric": DiceIndexMetric(num_classes=2), "noise_levels": [0, 1]}
    stored = IndexedDataset(items, seed=3)
    with pytest.raises(ValueError, match=r"from 0 to 1, got values from 0 to 255.*evaluator's postprocessing"):
        make_curve(dataset=stored, output_dir=tmp_path / "raw", **options).run()
    post = Compose([AsDiscreted("pred", argmax=True), Lambdad("label", lambda label: label / 255)])
    rows = make_curve(dataset=stored, output_dir=tmp_path / "post", postprocessing=post, **options).run()
    clean = first_rows(rows)
    with torch.no_grad():
        masks = network(torch.stack([item["image"] for item in items])).argmax(1).bool()
    truth = torch.stack([item["label"][0] > 0 for item in items])
    assert clean["tp_1"].tolist() == (masks & truth).flatten(1).sum(1).tolist()
    assert clean["fn_1"].tolist() == (~masks & truth).flatten(1).sum(1).tolist()
    with pytest.raises(RuntimeError, match="postprocessing"):
        make_curve(dataset=stored, output_dir=tmp_path / "post", **options).run()
