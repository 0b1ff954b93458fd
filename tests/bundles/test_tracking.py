"""`--tracking mlflow` in any bundle: losses, margins, noise and metrics, also under attack, reach MLflow."""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import monai.handlers.mlflow_handler
import pytest

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner


class Client:
    """What MONAI's handler calls of an MLflow client; metrics are noted."""

    noted: ClassVar[dict[str, dict[int, float]]] = {}

    def __init__(self, tracking_uri: str) -> None:
        assert tracking_uri.startswith("sqlite:///")

    def get_experiment_by_name(self, name: str) -> Any:
        return types.SimpleNamespace(experiment_id="0", lifecycle_stage="active")

    def create_run(self, **_: Any) -> Any:
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="0"))

    def log_batch(self, run_id: str, metrics: Any = (), **_: Any) -> None:
        for metric in metrics:
            self.noted.setdefault(metric.key, {})[metric.step] = metric.value

    def get_run(self, run_id: str) -> Any:
        return types.SimpleNamespace(data=types.SimpleNamespace(params={}))

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: []


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, float]]:
    """Metrics by name and step."""

    def metric(key: str, value: float, timestamp: int, step: int) -> Any:
        return types.SimpleNamespace(key=key, value=value, step=step)

    status = types.SimpleNamespace(FINISHED=1, FAILED=2, to_string=lambda number: "FINISHED")
    stage = types.SimpleNamespace(ACTIVE="active")
    entities = types.SimpleNamespace(RunStatus=status, Metric=metric, Param=lambda *parts: parts, LifecycleStage=stage)
    stub = types.SimpleNamespace(
        MlflowClient=Client, entities=entities, ActiveRun=lambda run: run, active_run=lambda: None
    )
    monkeypatch.setattr(monai.handlers.mlflow_handler, "mlflow", stub)
    monkeypatch.setattr(Client, "noted", {})
    return Client.noted


def test_losses_margins_noise_and_metrics_are_tracked(
    task_bundle: BundleRunner, noted: dict[str, dict[int, float]], tmp_path: Path
) -> None:
    made = task_bundle.untrained(tmp_path)
    task_bundle.run(
        "amat", output_dir=str(tmp_path / "out"), thresholds_file=made["thresholds_file"], tracking="mlflow"
    )
    assert {"train_loss", "margin_mean", "margin_accepted", "margin_noise_norm"} <= noted.keys()
    assert set(noted["margin_mean"]) == {1, 2}
    assert any(name.startswith("val_") for name in noted)


def test_metrics_under_attack_are_tracked(
    task_bundle: BundleRunner, noted: dict[str, dict[int, float]], tmp_path: Path
) -> None:
    made = task_bundle.untrained(tmp_path)
    values = {"checkpoint": made["checkpoint"], "epsilon": 1.0, "tracking": "mlflow"}
    task_bundle.run("evaluate", output_dir=str(tmp_path / "out"), **values)
    name = {"hippocampus": "val_adi", "cephalometric": "val_mre", "bccd": "val_iou"}[task_bundle.name]
    assert name in noted
