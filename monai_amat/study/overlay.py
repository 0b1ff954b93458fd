"""An overlay that makes any MONAI bundle adversarially trained, or attacks it: what a static file cannot know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

__all__ = ["next_step", "write_overlay"]

KINDS = ("sat", "amat", "robustness")
# The paper's margins end at four to six times Δ.
_CAP = 5
_NOISE = "noise level ε (L2 norm over the whole image)"


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
    trainer: str = "train#trainer",
    evaluator: str = "validate#evaluator",
) -> dict[str, Any]:
    """Read a bundle's configuration and write the overlay that fits it.

    The overlay wraps the data set so that samples have IDs, makes the loss per sample, and puts the attack into
    `prepare_batch`; everything else stays the bundle's, but for the folders of its `CheckpointSaver`: weights go
    into one named `kind` within, so that the network that is there stays. ξ is kept while training
    (`RunningThresholds`), so that no clean network is needed first; margins wait for a tenth of the training and end
    at 5 Δ. What is in the overlay's `amat` can be set at the start of a run, as `--amat#max_margin 20`.

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
            `sigmoid` where the trainer's loss says so, as MONAI's do, of labels that it takes as they are.
        checkpoint: the trained weights, or a reference such as `@ckpt`; needed for `robustness`.
        trainer: id of the trainer.
        evaluator: id of the evaluator, for `robustness`.

    Returns:
        what was written.

    Raises:
        FileNotFoundError: for a checkpoint that is not there.
        ValueError: for another kind, or a configuration without the parts that are needed, named.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
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
            "prediction": prediction or _prediction(parser, trainer),
        }
        overlay = _curve(parser, evaluator, trainer, attack, list(noise_levels), metric, _weights(checkpoint))
    else:
        overlay = _training(kind, parser, trainer, epsilon, attack)
    ConfigParser.export_config_file(overlay, str(output), indent=4)
    return overlay


def next_step(config_files: Sequence[str | Path], output: str | Path, overlay: dict[str, Any]) -> str:
    """What to do with an overlay, in words: the command, and where its results go."""
    files = ",".join(f"'{file}'" for file in (*config_files, output))
    parts = overlay["amat"]
    if "curve" in parts:
        where = f"the curve goes to {parts['curve']['output_dir']}; one folder a network: --amat#curve#output_dir"
    else:
        savers = [str(value) for key, value in overlay.items() if key.endswith("#save_dir")]
        where = f"weights go to {', '.join(savers) or 'where the bundle writes them'}"
        where += f"; to go on after a kill: {parts['resume']['save_dir']}"
    return (
        f'{output} is laid over the configuration:\n  python -m monai.bundle run --config_file "[{files}]"\n'
        f"with what else the bundle is run with; {where}."
    )


def _prediction(parser: ConfigParser, trainer: str) -> str:
    loss = _loss(parser, trainer)
    told = parser.get(loss[1:]) if isinstance(loss, str) and loss.startswith("@") else loss
    # Labels that the loss makes one-hot have a channel for the background: the largest channel is the class then.
    own = isinstance(told, dict) and told.get("sigmoid") is True and told.get("to_onehot_y") is not True
    return "sigmoid" if own else "softmax"


def _weights(checkpoint: str | Path | None) -> str:
    if checkpoint is None:
        raise ValueError("robustness needs checkpoint: the file of the trained weights")
    text = str(checkpoint)
    if text.startswith("@"):
        return text
    if not Path(text).is_file():
        raise FileNotFoundError(f"checkpoint {text}: there is no such file; give the trained weights")
    return repr(text)


def _training(kind: str, parser: ConfigParser, trainer: str, epsilon: float, attack: dict[str, Any]) -> dict[str, Any]:
    engine = _part(parser, trainer, "the trainer")
    loader = _reference(engine, "train_data_loader", trainer)
    own = _part(parser, loader, "its data loader")
    dataset = f"{loader}#dataset"
    prepare = f"{trainer}#prepare_batch"
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
            "_target_": "monai_amat.handlers.ResumeHandler",
            "save_dir": _output(parser, f"{kind}_resume"),
            "objects": {},
            "settings": {
                "kind": kind,
                "epsilon": "@amat#epsilon",
                "steps": "@amat#attack#steps",
                "clip_range": "@amat#attack#clip_range",
            },
        },
    }
    handlers = ["handler", "epoch_seed", "resume"]
    if kind == "sat":
        parts["handler"] = {
            "_target_": "monai_amat.handlers.AdversarialOutputHandler",
            "prepare_batch": f"@{prepare}",
        }
    else:
        attack["random_start"] = {"_target_": "monai_amat.attacks.InnerStart", "step": "@amat#epsilon"}
        length = f"(@{trainer}#epoch_length or len(@{loader}))" if "epoch_length" in engine else f"len(@{loader})"
        warmup = f"$max(1, @{trainer}#max_epochs * {length} // 10)"
        _adapt(parts, trainer, loader, warmup, table=_output(parser, f"{kind}_resume/margins.csv"))
        handlers.insert(1, "margin_stats")
    return {
        "amat": parts,
        dataset: {"_target_": "monai_amat.data.IndexedDataset", "dataset": _required(own, "dataset", loader)},
        f"{trainer}#loss_function": "@amat#loss",
        prepare: "@amat#prepare_batch",
        **{f"{saver}#save_dir": _within(parser, own_folder, kind) for saver, own_folder in _savers(parser.get(), "")},
        # Attached by initialize, not through the list of handlers: bundles slice that list by rank.
        ("+initialize" if "initialize" in parser else "initialize"): [
            f"$@amat#{name}.attach(@{trainer})" for name in handlers
        ],
    }


def _adapt(parts: dict[str, Any], trainer: str, loader: str, warmup: str, table: str) -> None:
    """Every sample's own margin in the place of ε."""
    parts |= {
        "max_margin": f"${_CAP} * @amat#epsilon",
        "warmup": warmup,
        "margins": {
            "_target_": "monai_amat.margins.SampleMargins",
            "size": f"$len(@{loader}#dataset)",
            "initial": "@amat#epsilon",
            "fingerprint": f"$@{loader}#dataset.fingerprint",
        },
        "thresholds": {"_target_": "monai_amat.margins.RunningThresholds", "warmup": "@amat#warmup"},
        "acceptance": {"_target_": "monai_amat.margins.Absolute", "thresholds": "@amat#thresholds"},
        "adaptive_margins": {
            "_target_": "monai_amat.margins.AdaptiveMargins",
            "margins": "@amat#margins",
            "acceptance": "@amat#acceptance",
            "rule": {
                "_target_": "monai_amat.margins.PaperRule",
                "step": "@amat#epsilon",
                "max_margin": "@amat#max_margin",
            },
        },
        "handler": {
            "_target_": "monai_amat.handlers.AdaptiveMarginHandler",
            "prepare_batch": f"@{trainer}#prepare_batch",
        },
        "margin_stats": {
            "_target_": "monai_amat.handlers.MarginStatsHandler",
            "margins": "@amat#handler",
            "path": table,
        },
    }
    parts["prepare_batch"]["radius"] = "@amat#adaptive_margins"
    parts["resume"]["objects"] = {"margins": "@amat#adaptive_margins"}
    parts["resume"]["settings"] |= {"max_margin": "@amat#max_margin", "warmup": "@amat#warmup"}


def _savers(content: Any, key: str) -> Iterator[tuple[str, str]]:
    """IDs of the savers of checkpoints in a configuration, and their folders."""
    if isinstance(content, dict):
        folder = content.get("save_dir")
        if str(content.get("_target_", "")).endswith("CheckpointSaver") and isinstance(folder, str):
            yield key, folder
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, part in items:
        yield from _savers(part, f"{key}#{name}" if key else str(name))


def _output(parser: ConfigParser, name: str) -> str:
    """Where something of the overlay's own goes: in the bundle's folder of outputs, where it has one."""
    return f"$@output_dir + '/{name}'" if "output_dir" in parser else name


def _within(parser: ConfigParser, folder: str, name: str) -> str:
    """A folder of a configuration with one more name: a path, a reference, a macro or an expression."""
    while folder.startswith("%"):
        folder = str(parser.get(folder[1:].replace("::", "#")))
    if folder.startswith(("$", "@")):
        return f"$str({folder.removeprefix('$')}) + '/{name}'"
    return f"{folder}/{name}"


def _curve(
    parser: ConfigParser,
    evaluator: str,
    trainer: str,
    attack: dict[str, Any],
    noise_levels: list[float],
    metric: dict[str, Any],
    weights: str,
) -> dict[str, Any]:
    engine = _part(parser, evaluator, "the evaluator")
    network = engine.get("network")
    if not isinstance(network, str) or not network.startswith("@"):
        raise ValueError(
            f"'{evaluator}#network' is {network!r}; the overlay needs a reference such as '@network' there"
        )
    loader = _reference(engine, "val_data_loader", evaluator)
    own = _part(parser, loader, "its data loader")
    return {
        "amat": {
            "curve": {
                "_target_": "monai_amat.robustness.RobustnessCurve",
                "network": f"$monai_amat.engines.load_weights({network}, {weights})",
                "data_loader": f"@{loader}",
                "loss": {"_target_": "monai_amat.losses.PerSample", "loss": _loss(parser, trainer)},
                "attack": attack,
                "noise_levels": noise_levels,
                "metric": metric,
                "report": {
                    "_target_": "monai_amat.robustness.Report",
                    "ylabel": "average Dice index",
                    "xlabel": _NOISE,
                },
                "output_dir": _output(parser, "robustness"),
                "group_key": "sample_id",
                "extra_keys": [],
                **{key: engine[key] for key in ("inferer", "prepare_batch", "postprocessing") if key in engine},
            }
        },
        f"{loader}#dataset": {
            "_target_": "monai_amat.data.IndexedDataset",
            "dataset": _required(own, "dataset", loader),
        },
        ("+imports" if "imports" in parser else "imports"): ["$import monai_amat"],
        "run": ["$@amat#curve.run()"],
    }


def _loss(parser: ConfigParser, trainer: str) -> Any:
    return _part(parser, trainer, "the trainer, whose loss the attack raises,").get("loss_function")


def _part(parser: ConfigParser, key: str, what: str) -> dict[str, Any]:
    content = parser.get(key)
    if not isinstance(content, dict):
        raise ValueError(
            f"the configuration has no '{key}', where {what} is looked for; name its id, and give the configuration "
            "of the training"
        )
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
