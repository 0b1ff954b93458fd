"""The rows of one attacked batch: which samples, their loss and noise, and the metric's columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.engines.utils import engine_apply_transform
from monai.transforms import Decollated
from monai.utils.enums import CommonKeys

from monai_amat.engines import AttackedBatch
from monai_amat.engines.trees import plain
from monai_amat.handlers.metric import Metric, batch_of_one, metric_rows
from monai_amat.losses.base import PerSampleLoss
from monai_amat.robustness.samples import batch_column

__all__ = ["attacked_rows", "check_keys"]


def attacked_rows(
    last: AttackedBatch,
    batch: Any,
    output: Mapping[str, Any],
    *,
    loss: PerSampleLoss,
    metric: Metric,
    keys: Sequence[str],
    postprocessing: Callable[[Any], Any] | None = None,
    attack_names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row per sample of an attacked batch.

    Args:
        last: what `PrepareBatchNoisy` made of the batch.
        batch: the batch as the evaluator has it.
        output: the evaluator's, with `pred` and `label`.
        loss: the loss that is recorded; it gets the network's own output.
        metric: the metric; with `postprocessing` it gets what that makes of each sample.
        keys: keys of the batch to keep, the group first; the group is kept as text.
        postprocessing: MONAI's, for one decollated sample.
        attack_names: names of the attacks of a suite; the rows then say in `attack` which one won.

    Raises:
        KeyError: when the batch lacks one of the keys.
        RuntimeError: when a loss, noise or column is not finite; a metric may leave a sample undefined (NaN).
        ValueError: when one data item has given several samples.
    """
    pred, target = output[CommonKeys.PRED], output[CommonKeys.LABEL]
    with torch.no_grad():
        losses = loss(pred, target)
        pred = loss.prediction(pred, target)
    if postprocessing is None:
        measured = metric_rows(metric, pred, target)
    else:
        changed = _postprocessed(batch, {**output, CommonKeys.PRED: pred}, postprocessing)
        parts = [
            metric_rows(metric, batch_of_one(one[CommonKeys.PRED]), batch_of_one(one[CommonKeys.LABEL]))
            for one in changed
        ]
        measured = pd.concat(parts, ignore_index=True)
    ids = [] if last.ids is None else last.ids.tolist()
    rows = pd.DataFrame({"sample_id": ids})
    for name in keys:
        if name not in rows:  # "sample_id" as the group: each sample is its own
            rows[name] = batch_column(batch, name, len(rows))
    group = keys[0]
    if group != "sample_id":
        rows[group] = rows[group].astype(str)
    rows["loss"] = losses.cpu().numpy()
    rows["noise_norm"] = last.noise_norm.cpu().numpy()
    rows["noise_rms"] = (last.result.noisy - plain(last.clean)).flatten(1).pow(2).mean(1).sqrt().cpu().numpy()
    rows["stalled"] = last.result.stalled.cpu().numpy()
    rows[measured.columns] = measured
    if last.result.winner is not None and attack_names is not None:
        rows["attack"] = [attack_names[number] for number in last.result.winner.tolist()]
    rows["gradient_evaluations"] = last.result.steps.cpu().numpy()
    gain = last.result.late_gain
    rows["late_gain"] = np.nan if gain is None else gain.float().cpu().numpy()
    if rows["sample_id"].duplicated().any():
        raise ValueError("one data item gave several samples; evaluate whole images, without num_samples crops")
    _check_finite(rows, list(measured.columns), group)
    return rows


def check_keys(batch: Any, keys: Sequence[str], id_key: str) -> None:
    """Refuse keys that a batch lacks, before anything is attacked.

    Raises:
        KeyError: naming the key, the keys that there are, and what to do.
    """
    if isinstance(batch, Mapping) and id_key in batch:
        for name in keys:
            batch_column(batch, name, len(batch[id_key]))


def _postprocessed(batch: Any, output: Mapping[str, Any], transform: Callable[[Any], Any]) -> list[Mapping[str, Any]]:
    """The outputs of each sample after the transform, as MONAI's evaluator applies it."""
    decollate = Decollated(keys=None, detach=True)
    outputs = decollate(dict(output))
    batches = decollate(dict(batch)) if isinstance(batch, Mapping) else [None] * len(outputs)
    return [engine_apply_transform(one, of_one, transform)[1] for one, of_one in zip(batches, outputs, strict=True)]


def _check_finite(rows: pd.DataFrame, metric_columns: Sequence[str], group: str) -> None:
    broken = ~np.isfinite(rows[["loss", "noise_norm"]].to_numpy(dtype=np.float64)).all(axis=1)
    numbers = rows[list(metric_columns)].select_dtypes("number")
    broken |= np.isinf(numbers.to_numpy(dtype=np.float64)).any(axis=1)
    if broken.any():
        row = rows[broken].iloc[0].to_dict()
        raise RuntimeError(
            f"sample {row['sample_id']} ({group} {row[group]}) gave a number that is not finite: {row}; look at its "
            "image and label, and at the network's weights"
        )
