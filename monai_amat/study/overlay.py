"""An overlay that makes any MONAI bundle adversarially trained, or attacks it: what a static file cannot know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

__all__ = ["write_overlay"]

KINDS = ("sat", "amat", "robustness")


def write_overlay(
    kind: str,
    config_files: Sequence[str | Path],
    output: str | Path,
    *,
    epsilon: float = 5.0,
    steps: int = 20,
    noise_levels: Sequence[float] = (0.0, 1.0, 2.0, 5.0),
    num_classes: int | None = None,
    checkpoint: str | Path | None = None,
    trainer: str = "train#trainer",
    evaluator: str = "validate#evaluator",
) -> dict[str, Any]:
    """Read a bundle's configuration and write the overlay that fits it.

    The overlay wraps the data set so that samples have IDs, makes the loss per sample, and puts the attack into
    ``prepare_batch``; everything else stays the bundle's. ξ is kept while training (``RunningThresholds``), so that no
    clean network is needed first. Give it last: ``--config_file "['train.json', 'overlay.json']"``.

    Args:
        kind: ``sat`` or ``amat`` for training, ``robustness`` for the curve of a trained network.
        config_files: the configuration the overlay will lie on, in order.
        output: JSON file to write.
        epsilon: noise level of SAT, Δ of AMAT, in the units of the network's input.
        steps: attack steps.
        noise_levels: levels of the curve.
        num_classes: output channels of the network, background among them; needed for ``robustness``.
        checkpoint: the trained weights; needed for ``robustness``.
        trainer: id of the trainer.
        evaluator: id of the evaluator, for ``robustness``.

    Returns:
        what was written.

    Raises:
        ValueError: for another kind, or a configuration without the parts that are needed, named.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    parser = ConfigParser()
    parser.read_config([str(file) for file in config_files])
    if kind == "robustness":
        overlay = _curve(parser, evaluator, trainer, steps, list(noise_levels), num_classes, checkpoint)
    else:
        overlay = _training(kind, parser, trainer, epsilon, steps)
    ConfigParser.export_config_file(overlay, str(output), indent=4)
    return overlay


def _training(kind: str, parser: ConfigParser, trainer: str, epsilon: float, steps: int) -> dict[str, Any]:
    engine = _part(parser, trainer, "the trainer")
    loader = _reference(engine, "train_data_loader", trainer)
    own = _part(parser, loader, "its data loader")
    dataset = f"{loader}#dataset"
    prepare = f"{trainer}#prepare_batch"
    attack: dict[str, Any] = {
        "_target_": "monai_amat.attacks.ProjectedGradientDescent",
        "steps": steps,
        "rel_step": 4 / steps,
    }
    parts: dict[str, Any] = {
        "epsilon": epsilon,
        "loss": {"_target_": "monai_amat.losses.PerSample", "loss": engine.get("loss_function")},
        "attack": attack,
        "prepare_batch": {
            "_target_": "monai_amat.engines.PrepareBatchAdversarial",
            "network": engine.get("network"),
            "loss": "@amat#loss",
            "attack": "@amat#attack",
            "radius": "@amat#epsilon",
            **({"prepare_batch": engine["prepare_batch"]} if "prepare_batch" in engine else {}),
        },
        "epoch_seed": {"_target_": "monai_amat.handlers.EpochSeedHandler"},
        "resume": {
            "_target_": "monai_amat.handlers.ResumeCheckpoint",
            "save_dir": f"$@output_dir + '/{kind}_resume'" if "output_dir" in parser else f"{kind}_resume",
            "objects": {},
            "settings": {"kind": kind, "epsilon": epsilon, "steps": steps},
        },
    }
    if kind == "sat":
        parts["handler"] = {
            "_target_": "monai_amat.handlers.AdversarialOutputHandler",
            "prepare_batch": f"@{prepare}",
        }
    else:
        attack["random_start"] = {"_target_": "monai_amat.attacks.InnerStart", "step": "@amat#epsilon"}
        parts["margins"] = {
            "_target_": "monai_amat.margins.SampleMargins",
            "size": f"$len(@{dataset})",
            "initial": "@amat#epsilon",
            "fingerprint": f"$@{dataset}.fingerprint",
        }
        parts["thresholds"] = {"_target_": "monai_amat.margins.RunningThresholds", "warmup": 100}
        parts["acceptance"] = {"_target_": "monai_amat.margins.Absolute", "thresholds": "@amat#thresholds"}
        parts["prepare_batch"] |= {"radius": "@amat#margins", "acceptance": "@amat#acceptance"}
        parts["handler"] = {
            "_target_": "monai_amat.handlers.AdaptiveMarginHandler",
            "prepare_batch": f"@{prepare}",
            "rule": {"_target_": "monai_amat.margins.PaperRule", "step": "@amat#epsilon"},
            "running": "@amat#thresholds",
        }
        parts["resume"]["objects"] = {"margins": "@amat#margins", "thresholds": "@amat#thresholds"}
    # Attached by initialize, not through the list of handlers: bundles slice that list by rank.
    attach = [f"$@amat#{name}.attach(@{trainer})" for name in ("handler", "epoch_seed", "resume")]
    return {
        "amat": parts,
        dataset: {"_target_": "monai_amat.data.IndexedDataset", "dataset": _required(own, "dataset", loader)},
        f"{trainer}#loss_function": "@amat#loss",
        prepare: "@amat#prepare_batch",
        ("+initialize" if "initialize" in parser else "initialize"): attach,
    }


def _curve(
    parser: ConfigParser,
    evaluator: str,
    trainer: str,
    steps: int,
    noise_levels: list[float],
    num_classes: int | None,
    checkpoint: str | Path | None,
) -> dict[str, Any]:
    if num_classes is None:
        raise ValueError("robustness needs num_classes: how many channels the network puts out, background among them")
    if checkpoint is None:
        raise ValueError("robustness needs checkpoint: the file of the trained weights")
    engine = _part(parser, evaluator, "the evaluator")
    network = engine.get("network")
    if not isinstance(network, str) or not network.startswith("@"):
        raise ValueError(
            f"'{evaluator}#network' is {network!r}; the overlay needs a reference such as '@network' there"
        )
    loader = _reference(engine, "val_data_loader", evaluator)
    own = _part(parser, loader, "its data loader")
    loss = _part(parser, trainer, "the trainer, whose loss the attack raises,").get("loss_function")
    return {
        "amat": {
            "curve": {
                "_target_": "monai_amat.robustness.RobustnessCurve",
                "network": f"$monai_amat.networks.load_weights({network}, {str(checkpoint)!r})",
                "data_loader": f"@{loader}",
                "loss": {"_target_": "monai_amat.losses.PerSample", "loss": loss},
                "attack": {
                    "_target_": "monai_amat.attacks.ProjectedGradientDescent",
                    "steps": steps,
                    "rel_step": 5 / steps,
                },
                "noise_levels": noise_levels,
                "metric": {"_target_": "monai_amat.metrics.DiceIndices", "num_classes": num_classes},
                "output_dir": "$@output_dir + '/robustness'" if "output_dir" in parser else "robustness",
                "group_key": "sample_id",
                "extra_keys": [],
                **{key: engine[key] for key in ("inferer", "prepare_batch") if key in engine},
            }
        },
        f"{loader}#dataset": {
            "_target_": "monai_amat.data.IndexedDataset",
            "dataset": _required(own, "dataset", loader),
        },
        ("+imports" if "imports" in parser else "imports"): ["$import monai_amat"],
        "run": ["$@amat#curve.run()"],
    }


def _part(parser: ConfigParser, key: str, what: str) -> dict[str, Any]:
    content = parser.get(key)
    if not isinstance(content, dict):
        raise ValueError(f"the configuration has no '{key}', where {what} is looked for; name its id")
    return content


def _required(part: dict[str, Any], key: str, of: str) -> Any:
    if key not in part:
        raise ValueError(f"'{of}' has no '{key}' in the configuration, so the overlay cannot wrap it")
    return part[key]


def _reference(part: dict[str, Any], key: str, of: str) -> str:
    value = _required(part, key, of)
    if not isinstance(value, str) or not value.startswith("@"):
        raise ValueError(f"'{of}#{key}' is {value!r}; the overlay needs a reference such as '@train#dataloader' there")
    return value[1:].replace("::", "#")
