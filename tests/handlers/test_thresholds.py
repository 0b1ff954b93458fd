from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from monai_amat.engines import FrozenInferer, network_fingerprint
from monai_amat.handlers.thresholds import ThresholdHandler
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import MeanStd, Thresholds
from monai_amat.tasks.segmentation import DiceCELoss

LOSS = DiceCELoss(smooth=1.0)


class Deep(nn.Module):
    """Two heads in training mode, with BatchNorm and dropout before them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.full, self.low = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.body[1].running_mean = torch.tensor([0.3, -0.2, 0.1, 0.5])

    def forward(self, image: Tensor) -> Any:
        features = self.body(image)
        return torch.stack([self.full(features), self.low(features)], dim=1) if self.training else self.full(features)


def loader() -> list[dict[str, Tensor]]:
    source = torch.Generator().manual_seed(4)
    return [
        {
            "image": torch.randn(count, 1, 8, 8, generator=source),
            "label": torch.randint(0, 2, (count, 1, 8, 8), generator=source).float(),
        }
        for count in (4, 4, 1)
    ]


def fit(handler: ThresholdHandler, network: nn.Module, data: Any = None, **settings: Any) -> ThresholdHandler:
    given: dict[str, Any] = {"mode": "train", "inferer": FrozenInferer(), **settings}
    SupervisedEvaluator(
        torch.device("cpu"), loader() if data is None else data, network, val_handlers=[handler], **given
    ).run()
    return handler


def by_hand(network: Deep) -> Tensor:
    """Losses of all samples, one by one, over both heads, with everything else in evaluation mode."""
    network.train()
    network.body.eval()
    with torch.no_grad():
        losses = [
            LOSS(network(batch["image"][row : row + 1]), batch["label"][row : row + 1])
            for batch in loader()
            for row in range(len(batch["image"]))
        ]
    network.train()
    return torch.cat(losses)


def test_the_thresholds_are_those_of_the_training_form_at_rest(tmp_path: Path) -> None:
    network = Deep()
    expected = by_hand(network)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    handler = fit(ThresholdHandler(LOSS, tmp_path / "thresholds.json"), network)
    assert handler.thresholds is not None
    assert handler.thresholds.values == {"total": pytest.approx(float(expected.mean()), rel=1e-5)}
    assert handler.thresholds.provenance["std"]["total"] == pytest.approx(float(expected.std(correction=0)), rel=1e-4)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.requires_grad for parameter in network.parameters())
    # One head in evaluation mode would have given something else.
    with torch.no_grad():
        single = torch.cat([LOSS(network.eval()(batch["image"]), batch["label"]) for batch in loader()])
    assert float(single.mean()) != pytest.approx(float(expected.mean()), rel=1e-3)


def test_the_file_says_where_the_thresholds_come_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network, path = Deep(), tmp_path / "new" / "thresholds.json"
    handler = ThresholdHandler(LOSS, path, statistic=MeanStd(0.5), provenance={"data": "phantom"})
    with caplog.at_level(logging.INFO, logger="monai_amat.handlers.thresholds"):
        fit(handler, network)
    losses = by_hand(network)
    xi = float(losses.mean() + 0.5 * losses.std(correction=0))
    content = json.loads(path.read_text())
    assert content["thresholds"] == {"total": pytest.approx(xi, rel=1e-5)}
    provenance = content["provenance"]
    assert provenance["data"] == "phantom"
    assert provenance["samples"] == 9
    assert provenance["statistic"] == "MeanStd(k=0.5)"
    assert provenance["clean_accepted"] == pytest.approx(float((losses < xi).double().mean()))
    assert provenance["network"] == network_fingerprint(network)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(provenance["date"])) < timedelta(minutes=5)
    assert handler.thresholds == Thresholds.load(path)
    assert f"of 9 clean samples; saved to {path}" in caplog.text


def test_each_judged_term_has_its_own(tmp_path: Path) -> None:
    class Two(PerSampleLoss):
        def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
            flat = pred.flatten(1)
            return {"mean": flat.mean(1), "size": flat.abs().mean(1), "unjudged": flat.sum(1)}

    network = nn.Conv2d(1, 1, 1)
    handler = fit(ThresholdHandler(Two(judged=("mean", "size")), tmp_path / "xi.json"), network)
    assert handler.thresholds is not None
    with torch.no_grad():
        flat = torch.cat([network(batch["image"]) for batch in loader()]).flatten(1)
    assert handler.thresholds.values == pytest.approx(
        {"mean": float(flat.mean(1).mean()), "size": float(flat.abs().mean(1).mean())}, rel=1e-5
    )


def test_metadata_makes_no_difference_and_a_second_run_starts_anew(tmp_path: Path) -> None:
    network = Deep()
    first = fit(ThresholdHandler(LOSS, tmp_path / "a.json"), network).thresholds
    with_meta = [{name: MetaTensor(value) for name, value in batch.items()} for batch in loader()]
    handler = ThresholdHandler(LOSS, tmp_path / "b.json")
    fit(handler, network, data=with_meta)
    second = handler.thresholds
    assert first is not None
    assert second is not None
    assert second.values == first.values
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), loader()[:2], network, mode="train", inferer=FrozenInferer(), val_handlers=[handler]
    )
    evaluator.run()
    evaluator.run()
    assert handler.thresholds is not None
    assert handler.thresholds.provenance["samples"] == 8


def test_a_handler_may_also_be_attached_later(tmp_path: Path) -> None:
    evaluator = SupervisedEvaluator(torch.device("cpu"), loader(), Deep(), mode="train", inferer=FrozenInferer())
    handler = ThresholdHandler(LOSS, tmp_path / "xi.json")
    handler.attach(evaluator)
    evaluator.run()
    assert handler.thresholds is not None


def test_another_inferer_or_mode_is_refused(tmp_path: Path) -> None:
    handler = ThresholdHandler(LOSS, tmp_path / "xi.json")
    with pytest.raises(TypeError, match=r"FrozenInferer\(\) and mode='train', not SimpleInferer"):
        fit(handler, Deep(), inferer=SimpleInferer())
    with pytest.raises(ValueError, match="give the evaluator mode='train'"):
        fit(handler, Deep(), mode="eval")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_found_out_before_the_run(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    evaluator = SupervisedEvaluator(torch.device("cpu"), loader(), Deep(), mode="train", inferer=FrozenInferer())
    for path, message in ((blocked / "xi.json", "file"), (tmp_path, "is a folder; name a file in it")):
        with pytest.raises(OSError, match=message):
            ThresholdHandler(LOSS, path).attach(evaluator)
    assert list(tmp_path.iterdir()) == [blocked]


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    data = loader()
    data[1]["image"][2] = float("inf")
    with pytest.raises(
        ValueError, match=r"clean losses must be finite, got NaN or infinity in 'total' for samples \[6\]"
    ):
        fit(ThresholdHandler(LOSS, tmp_path / "xi.json"), Deep(), data=data)
    assert not (tmp_path / "xi.json").exists()
