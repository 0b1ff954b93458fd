"""`monai-amat`, or `python -m monai_amat`: whole studies from the command line."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

__all__ = ["command", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run it.

    Args:
        arguments: as from `sys.argv[1:]`.

    Returns:
        the exit code: 0, 1 after an error that the user can mend, which is printed without a traceback, or 130 after an
        interruption.
    """
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    try:
        values = _values(rest)
    except ValueError as error:
        parser.error(str(error))
    # Here, because they load torch and MONAI: --help should not wait for that.
    from monai_amat.study import StepError, Study, next_step, quickstart, write_overlay
    from monai_amat.tasks.detection import write_cells_phantom
    from monai_amat.tasks.landmarks import write_cephalogram_phantom
    from monai_amat.tasks.segmentation import write_phantom
    from monai_amat.templates import new_bundle, write_bundles

    try:
        if known.command == "quickstart":
            quickstart(known.output_dir, dataset_dir=known.dataset_dir, bundle=known.bundle, values=values)
        elif known.command == "compare":
            Study(
                known.bundle,
                known.arms,
                dataset_dir=known.dataset_dir,
                output_dir=known.output_dir,
                seeds=known.seeds,
                overlays=known.overlays,
                values=values,
                evaluation=known.evaluation,
                strength=known.strength,
                reference=known.reference,
                jobs=known.jobs,
                say=lambda text: print(text, flush=True),
            ).run()
        elif values:
            parser.error(f"{known.command} takes no {sorted(values)}")
        elif known.command == "overlay":
            overlay = write_overlay(
                known.kind,
                known.config_file,
                known.output,
                epsilon=known.epsilon,
                steps=known.steps,
                clip_range=known.clip_range,
                noise_levels=known.noise_levels,
                num_classes=known.num_classes,
                prediction=known.prediction,
                checkpoint=known.checkpoint,
                trainer=known.trainer,
                evaluator=known.evaluator,
            )
            print(next_step(known.config_file, known.output, overlay))
        elif known.command == "bundles":
            print("\n".join(str(root) for root in write_bundles(known.folder)))
        elif known.command == "init":
            print(
                new_bundle(known.bundle_dir, dataset_dir=known.dataset_dir, plans=known.plans, settings=known.settings)
            )
        elif known.command in ("phantom-cephalograms", "phantom-cells"):
            write = write_cells_phantom if known.command == "phantom-cells" else write_cephalogram_phantom
            print(write(known.root, images=known.images, seed=known.seed))
        else:
            print(
                write_phantom(
                    known.root,
                    volumes=known.volumes,
                    channels=known.channels,
                    classes=known.classes,
                    seed=known.seed,
                )
            )
    except (StepError, OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="monai-amat", description="Adversarial robustness of MONAI models.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    more = "further --id value pairs are set in every bundle run, for example --max_epochs 5"

    quick = commands.add_parser("quickstart", help="three arms at a small scale, in minutes", epilog=more)
    quick.add_argument("--output_dir", default="runs/quickstart", help="where results go (%(default)s)")
    quick.add_argument("--dataset_dir", help="Decathlon folder; the built-in phantom by default")
    quick.add_argument("--bundle", help="bundle folder; by default the hippocampus bundle is written into OUTPUT_DIR")

    compare = commands.add_parser("compare", help="a whole study: train, calibrate, attack, compare", epilog=more)
    compare.add_argument("--bundle", required=True, help="bundle folder")
    compare.add_argument(
        "--arms",
        nargs="+",
        required=True,
        help="std, sat:ε, amat, overlay+overlay:key=value …; initial_weights=std lets training start from that network",
    )
    compare.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of training (0)")
    compare.add_argument("--overlays", nargs="*", default=[], help="config files over all others, for example small")
    compare.add_argument(
        "--evaluation",
        default="robustness",
        metavar="NAME",
        help="another name attacks the same networks with other values, beside the first (%(default)s)",
    )
    compare.add_argument("--reference", help="arm that all others are compared with (the first)")
    compare.add_argument(
        "--strength", action="store_true", help="try stronger attacks too, on the first seed's networks"
    )
    compare.add_argument("--jobs", type=int, default=1, metavar="N", help="steps that may run at once (%(default)s)")
    compare.add_argument("--dataset_dir", required=True, help="data set folder")
    compare.add_argument("--output_dir", required=True, help="where results go; a run that stopped goes on from there")

    overlay = commands.add_parser("overlay", help="make any MONAI bundle adversarial, or attack it")
    overlay.add_argument("kind", choices=("sat", "amat", "robustness"))
    overlay.add_argument("--config_file", nargs="+", required=True, help="the bundle's configuration, in order")
    overlay.add_argument("--output", required=True, help="JSON file to write")
    overlay.add_argument(
        "--epsilon",
        type=float,
        default=5.0,
        help="ε of SAT, Δ of AMAT: L2 over an image or patch as the network gets it (%(default)s)",
    )
    overlay.add_argument("--steps", type=int, default=20, help="attack steps (%(default)s)")
    overlay.add_argument(
        "--clip_range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="range of an image's values as the network gets them, which noise does not leave; none by default",
    )
    overlay.add_argument(
        "--noise_levels",
        nargs="+",
        type=float,
        default=[0.0, 1.0, 2.0, 5.0],
        help="of the curve, measured as ε (%(default)s)",
    )
    overlay.add_argument(
        "--num_classes",
        type=int,
        help="output channels of the network, for robustness; with softmax the background too",
    )
    overlay.add_argument(
        "--prediction",
        choices=("softmax", "sigmoid"),
        help="sigmoid where each channel stands for itself; by default as the loss says",
    )
    overlay.add_argument("--checkpoint", help="trained weights, for robustness")
    overlay.add_argument("--trainer", default="train#trainer", help="id of the trainer (%(default)s)")
    overlay.add_argument("--evaluator", default="validate#evaluator", help="id of the evaluator (%(default)s)")

    init = commands.add_parser("init", help="write a segmentation bundle for a Decathlon folder")
    init.add_argument("--dataset_dir", help="Decathlon folder; looked at, unless --settings says what there is")
    init.add_argument("--bundle_dir", required=True, help="the bundle's folder, new or empty")
    init.add_argument("--plans", help="nnUNetPlans.json of nnU-Net version 2, instead of planning the network here")
    init.add_argument(
        "--settings", help="hippocampus, heart or prostate, as in the paper; or a JSON file, instead of planning"
    )

    bundles = commands.add_parser("bundles", help="write the five bundles of the paper's data sets")
    bundles.add_argument("folder", help="where their folders go")

    phantom = commands.add_parser("phantom", help="write the built-in data set of volumes")
    phantom.add_argument("--volumes", type=int, default=25)
    phantom.add_argument("--channels", type=int, default=1, help="1 or 2 (%(default)s)")
    phantom.add_argument("--classes", type=int, default=2, help="1 or 2, without the background (%(default)s)")
    skulls = commands.add_parser("phantom-cephalograms", help="write the built-in data set of cephalograms")
    cells = commands.add_parser("phantom-cells", help="write the built-in data set of blood smears")
    for command in (skulls, cells):
        command.add_argument("--images", type=int, default=24, help="for training, validation and test (%(default)s)")
    for command in (phantom, skulls, cells):
        command.add_argument("root", help="folder to make")
        command.add_argument("--seed", type=int, default=0)
    for command in commands.choices.values():
        command.allow_abbrev = False
    return parser


def _values(rest: Sequence[str]) -> dict[str, str]:
    """`--id value` pairs that the bundle is to have."""
    values: dict[str, str] = {}
    words = list(rest)
    while words:
        key = words.pop(0)
        if not key.startswith("--") or len(key) < 3:
            raise ValueError(f"cannot read {key!r}: config values are set by --id value")
        name, equals, value = key[2:].partition("=")
        if not equals:
            if not words:
                raise ValueError(f"--{name} needs a value")
            value = words.pop(0)
        values[name] = value
    return values


def command() -> None:
    """Run the command line of this process and exit: the entry point of `monai-amat`."""
    # SIGTERM, as from `timeout` or a queue, stops the processes of a study, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())


if __name__ == "__main__":
    command()
