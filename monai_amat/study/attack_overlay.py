"""The overlay that attacks a trained network of any bundle at several noise levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_amat.study.foreign import check_path, component, imports, output_folder, reference, required

__all__ = ["attack_overlay", "prediction_of", "weights_value"]

_NOISE = "noise level ε (L2 norm over the whole image)"


def prediction_of(parser: ConfigParser, trainer: str) -> str:
    """`sigmoid` where the trainer's loss takes each channel for itself, else `softmax`."""
    loss = _loss(parser, trainer)
    content = parser.get(loss[1:]) if isinstance(loss, str) and loss.startswith("@") else loss
    # Labels that the loss makes one-hot have a channel for the background: the largest channel is the class then.
    own = isinstance(content, dict) and content.get("sigmoid") is True and content.get("to_onehot_y") is not True
    return "sigmoid" if own else "softmax"


def weights_value(checkpoint: str | Path | None) -> str:
    """The file of the weights as a value of the configuration, or a reference to one."""
    if checkpoint is None:
        raise ValueError("robustness needs checkpoint: the file of the trained weights")
    text = str(checkpoint)
    if text.startswith("@") and not Path(text).is_file():
        return text
    check_path("checkpoint", text)
    if not Path(text).is_file():
        raise FileNotFoundError(f"checkpoint {text}: there is no such file; give the trained weights")
    # MONAI reads a value with one of these in front as a reference, an expression or a macro.
    return f"./{text}" if text.startswith(("@", "$", "%")) else text


def attack_overlay(
    parser: ConfigParser,
    evaluator: str,
    trainer: str,
    attack: dict[str, Any],
    noise_levels: list[float],
    metric: dict[str, Any],
    weights: str,
) -> dict[str, Any]:
    """The overlay, see `write_overlay`."""
    engine = component(parser, evaluator, "the evaluator")
    network = engine.get("network")
    if not isinstance(network, str) or not network.startswith("@"):
        raise ValueError(
            f"'{evaluator}::network' is {network!r}; the overlay needs a reference such as '@network' there"
        )
    loader = reference(engine, "val_data_loader", evaluator)
    own = component(parser, loader, "its data loader")
    return {
        "amat": {
            "checkpoint": weights,
            "curve": {
                "_target_": "monai_amat.robustness.RobustnessCurve",
                "network": f"$monai_amat.engines.load_weights({network}, @amat::checkpoint)",
                "data_loader": f"@{loader}",
                "loss": {"_target_": "monai_amat.losses.PerSample", "loss": _required_loss(parser, trainer)},
                "attack": attack,
                "noise_levels": noise_levels,
                "metric": metric,
                "report": {
                    "_target_": "monai_amat.robustness.Report",
                    "ylabel": "average Dice index",
                    "xlabel": _NOISE,
                },
                "output_dir": output_folder(parser, "robustness"),
                "group_key": "sample_id",
                "extra_keys": [],
                **{key: engine[key] for key in ("inferer", "prepare_batch", "postprocessing") if key in engine},
            },
        },
        f"{loader}::dataset": {
            "_target_": "monai_amat.data.IndexedDataset",
            "dataset": required(own, "dataset", loader),
        },
        **imports(parser),
        "run": ["$@amat::curve.run()"],
    }


def _required_loss(parser: ConfigParser, trainer: str) -> Any:
    return required({"loss_function": _loss(parser, trainer)}, "loss_function", trainer)


def _loss(parser: ConfigParser, trainer: str) -> Any:
    return component(parser, trainer, "the trainer, whose loss the attack raises,").get("loss_function")
