"""An overlay that makes any MONAI bundle adversarially trained, or attacks it, made from the bundle's configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_amat.study.attack_overlay import attack_overlay, prediction_of, weights_value
from monai_amat.study.foreign import check_path, component, components, imports, output_folder, reference, required

__all__ = ["write_overlay"]

KINDS = ("sat", "amat", "robustness")
# The paper's margins end at four to six times Δ.
_CAP = 5


def write_overlay(
    kind: str,
    config_files: Sequence[str | Path],
    output: str | Path,
    *,
    epsilon: float = 5.0,
    steps: int = 20,
    clip_range: Sequence[float] | None = None,
    noise_levels: Sequence[float] = (0.0, 1.0, 2.0, 5.0),
    num_classes: int | None = None,
    prediction: str | None = None,
    checkpoint: str | Path | None = None,
    trainer: str = "train::trainer",
    evaluator: str = "validate::evaluator",
) -> dict[str, Any]:
    """Read a bundle's configuration and write the overlay that fits it.

    The overlay wraps the data set so that samples have IDs, makes the loss per sample, and puts the attack into
    `prepare_batch`; everything else stays the bundle's, but for the folders of its `CheckpointSaver`: weights go
    into one named `kind` within, so that the network that is there stays. ξ is kept while training
    (`RunningThresholds`), so that no clean network is needed first; margins wait for a tenth of the training and end
    at 5 Δ. What is in the overlay's `amat` can be set at the start of a run, as `--amat::max_margin 20`.

    Args:
        kind: `sat` or `amat` for training, `robustness` for the curve of a trained network.
        config_files: the configuration the overlay will lie on, in order.
        output: JSON file to write.
        epsilon: noise level of SAT, Δ of AMAT: L2 over an image or patch as the network gets it, in its units.
        steps: attack steps.
        clip_range: lowest and highest value of an image as the network gets it, which noise does not leave; None where
            there is no such range, for instance after normalisation by mean and standard deviation.
        noise_levels: levels of the curve, measured as `epsilon`.
        num_classes: output channels of the network, background among them with `softmax`; needed for
            `robustness`.
        prediction: `softmax` where channels exclude each other, `sigmoid` where each stands for itself; by default
            `sigmoid` where the trainer's loss has `sigmoid=True`, as MONAI's can, of labels that it takes as they are.
        checkpoint: the trained weights, or a reference such as `@ckpt`; needed for `robustness`.
        trainer: id of the trainer.
        evaluator: id of the evaluator, for `robustness`.

    Returns:
        what was written.

    Raises:
        FileNotFoundError: for a checkpoint that is not there.
        ValueError: for another kind, a path with `#`, numbers out of range, or a configuration without the parts that
            are needed, named.
    """
    trainer, evaluator = (key.replace("#", "::") for key in (trainer, evaluator))
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    for name, path in (("output", output), *(("config_file", file) for file in config_files)):
        check_path(name, path)
    _check_numbers(epsilon, steps, clip_range, noise_levels)
    parser = ConfigParser()
    parser.read_config([str(file) for file in config_files])
    attack: dict[str, Any] = {
        "_target_": "monai_amat.attacks.ProjectedGradientDescent",
        "steps": steps,
        "rel_step": (5 if kind == "robustness" else 4) / steps,
        "clip_range": None if clip_range is None else list(clip_range),
    }
    if kind == "robustness":
        if num_classes is None:
            raise ValueError(
                "robustness needs num_classes: how many channels the network puts out, background among them; with "
                "prediction='sigmoid' there is none"
            )
        metric = {
            "_target_": "monai_amat.tasks.segmentation.DiceIndexMetric",
            "num_classes": num_classes,
            "prediction": prediction or prediction_of(parser, trainer),
        }
        overlay = attack_overlay(
            parser, evaluator, trainer, attack, list(noise_levels), metric, weights_value(checkpoint)
        )
    else:
        overlay = _training(kind, parser, trainer, epsilon, attack)
    ConfigParser.export_config_file(overlay, str(output), indent=4)
    return overlay


def _check_numbers(
    epsilon: float, steps: int, clip_range: Sequence[float] | None, noise_levels: Sequence[float]
) -> None:
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be positive and finite, got {epsilon:g}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if clip_range is not None and not clip_range[0] < clip_range[1]:
        raise ValueError(f"clip_range must rise, got {list(clip_range)}")
    levels = list(noise_levels)
    if not levels or len(set(levels)) < len(levels) or not all(0 <= level < math.inf for level in levels):
        raise ValueError(f"noise_levels must be different finite numbers, none negative, at least one; got {levels}")


def _training(kind: str, parser: ConfigParser, trainer: str, epsilon: float, attack: dict[str, Any]) -> dict[str, Any]:
    engine = component(parser, trainer, "the trainer")
    loader = reference(engine, "train_data_loader", trainer)
    own = component(parser, loader, "its data loader")
    dataset = f"{loader}::dataset"
    prepare = f"{trainer}::prepare_batch"
    parts: dict[str, Any] = {
        "epsilon": epsilon,
        "loss": {"_target_": "monai_amat.losses.PerSample", "loss": required(engine, "loss_function", trainer)},
        "attack": attack,
        "prepare_batch": {
            "_target_": "monai_amat.engines.PrepareBatchAdversarial",
            "network": required(engine, "network", trainer),
            "loss": "@amat::loss",
            "attack": "@amat::attack",
            "radius": "@amat::epsilon",
            **({"prepare_batch": engine["prepare_batch"]} if "prepare_batch" in engine else {}),
        },
        "epoch_seed": {"_target_": "monai_amat.handlers.EpochSeedHandler"},
        "resume": {
            "_target_": "monai_amat.handlers.ResumeHandler",
            "save_dir": output_folder(parser, f"{kind}_resume"),
            "objects": _objects(parser),
            "settings": {
                "kind": kind,
                "epsilon": "@amat::epsilon",
                "steps": "@amat::attack::steps",
                "clip_range": "@amat::attack::clip_range",
            },
        },
    }
    savers = [(key, saver) for key, saver in components(parser.get(), "CheckpointSaver") if _folder(saver)]
    parts["production"] = [saver["save_dir"] for _, saver in savers]
    handlers = ["handler", "epoch_seed", "resume"]
    if kind == "sat":
        parts["handler"] = {
            "_target_": "monai_amat.handlers.AdversarialOutputHandler",
            "prepare_batch": f"@{prepare}",
        }
    else:
        attack["random_start"] = {"_target_": "monai_amat.attacks.InnerStart", "step": "@amat::epsilon"}
        length = f"(@{trainer}::epoch_length or len(@{loader}))" if "epoch_length" in engine else f"len(@{loader})"
        warmup = f"$max(1, @{trainer}::max_epochs * {length} // 10)"
        _adapt(parts, trainer, loader, warmup, table=output_folder(parser, f"{kind}_resume/margins.csv"))
        handlers.insert(1, "margin_stats")
    return {
        "amat": parts,
        dataset: {"_target_": "monai_amat.data.IndexedDataset", "dataset": required(own, "dataset", loader)},
        f"{trainer}::loss_function": "@amat::loss",
        prepare: "@amat::prepare_batch",
        **{f"{key}::save_dir": _within(parser, saver["save_dir"], kind) for key, saver in savers},
        **imports(parser),
        # Attached by initialize, not through the list of handlers: bundles slice that list by rank.
        ("+initialize" if "initialize" in parser else "initialize"): [
            f"$monai_amat.handlers.keep_apart([{', '.join(f'@{key}' for key, _ in savers)}], @amat::production)",
            *(f"$@amat::{name}.attach(@{trainer})" for name in handlers),
        ],
    }


def _folder(saver: dict[str, Any]) -> bool:
    return isinstance(saver.get("save_dir"), str)


def _objects(parser: ConfigParser) -> dict[str, Any]:
    """What the bundle's own training has beside network and optimiser, and what must not start afresh on a resume."""
    found: dict[str, Any] = {}
    for key, handler in components(parser.get(), "LrScheduleHandler"):
        own = handler.get("lr_scheduler")
        name = f"lr_scheduler_{len(found) + 1}" if found else "lr_scheduler"
        found[name] = own if isinstance(own, str) and own.startswith("@") else f"@{key}::lr_scheduler"
    for key, _ in components(parser.get(), "Evaluator"):
        savers = [
            f"@{saver}"
            for saver, content in components(parser.get(), "CheckpointSaver")
            if saver.split("::")[0] == key.split("::")[0] and content.get("save_key_metric")
        ]
        found[f"best of {key.replace('::', ' ')}"] = {
            "_target_": "monai_amat.handlers.BestMetric",
            "evaluator": f"@{key}",
            "savers": savers,
        }
    return found


def _adapt(parts: dict[str, Any], trainer: str, loader: str, warmup: str, table: str) -> None:
    """Every sample's own margin in the place of ε."""
    parts |= {
        "max_margin": f"${_CAP} * @amat::epsilon",
        "warmup": warmup,
        "margins": {
            "_target_": "monai_amat.margins.SampleMargins",
            "size": f"$len(@{loader}::dataset)",
            "initial": "@amat::epsilon",
            "fingerprint": f"$@{loader}::dataset.fingerprint",
        },
        "thresholds": {"_target_": "monai_amat.margins.RunningThresholds", "warmup": "@amat::warmup"},
        "acceptance": {"_target_": "monai_amat.margins.Absolute", "thresholds": "@amat::thresholds"},
        "adaptive_margins": {
            "_target_": "monai_amat.margins.AdaptiveMargins",
            "margins": "@amat::margins",
            "acceptance": "@amat::acceptance",
            "rule": {
                "_target_": "monai_amat.margins.PaperRule",
                "step": "@amat::epsilon",
                "max_margin": "@amat::max_margin",
            },
        },
        "handler": {
            "_target_": "monai_amat.handlers.AdaptiveMarginHandler",
            "prepare_batch": f"@{trainer}::prepare_batch",
        },
        "margin_stats": {
            "_target_": "monai_amat.handlers.MarginStatsHandler",
            "margins": "@amat::handler",
            "path": table,
        },
    }
    parts["prepare_batch"]["radius"] = "@amat::adaptive_margins"
    parts["resume"]["objects"] |= {"margins": "@amat::adaptive_margins"}
    parts["resume"]["settings"] |= {"max_margin": "@amat::max_margin", "warmup": "@amat::warmup"}


def _within(parser: ConfigParser, folder: str, name: str) -> str:
    """A folder of a configuration with one more name: a path, a reference, a macro or an expression."""
    while folder.startswith("%"):
        folder = str(parser.get(folder[1:].replace("#", "::")))
    if folder.startswith(("$", "@")):
        return f"$str({folder.removeprefix('$')}) + '/{name}'"
    return f"{folder}/{name}"
