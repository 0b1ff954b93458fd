"""`monai-amat`, or `python -m monai_amat`: whole studies from the command line."""

from __future__ import annotations

import argparse
import io
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
        prog="monai-amat",
        description="Measure how easily MONAI models are fooled by adversarial noise, and train models that resist.",
        epilog="Start with: monai-amat quickstart. Options of a command: monai-amat COMMAND --help",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_studies(commands)
    _add_overlay(commands)
    _add_bundles(commands)
    _add_phantoms(commands)
    for command in commands.choices.values():
        command.allow_abbrev = False
    return parser


def _add_studies(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    more = "Further --id value pairs set any id of the bundle's configuration in every run, for example --max_epochs 5."
    quick = commands.add_parser(
        "quickstart",
        help="train a small network in three ways, attack all, compare",
        description="Train a small network with STD, SAT 5 and AMAT, attack all three with rising noise, and compare "
        "them. Takes minutes on a CPU. Repeat the command to continue after an interruption.",
        epilog=more,
    )
    quick.add_argument("--output_dir", default="runs/quickstart", help="folder for the results (default: %(default)s)")
    quick.add_argument("--dataset_dir", help="Decathlon folder (default: synthetic volumes)")
    quick.add_argument("--bundle", help="bundle folder (default: the hippocampus bundle, written into OUTPUT_DIR)")

    compare = commands.add_parser(
        "compare",
        help="a whole study: train every arm, attack all networks, compare",
        description="Train every arm with every seed, attack all networks alike, and write one table and one figure. "
        "Repeat the command to continue after an interruption.",
        epilog=more,
    )
    compare.add_argument("--bundle", required=True, help="bundle folder")
    compare.add_argument("--dataset_dir", required=True, help="data set folder")
    compare.add_argument("--output_dir", required=True, help="folder for the results")
    compare.add_argument(
        "--arms",
        nargs="+",
        required=True,
        metavar="ARM",
        help="ways of training: std, sat:5 (epsilon 5), amat, or overlays of the bundle with values, such as "
        "amat_balanced+amat_shuffled or amat:max_margin=10; with initial_weights=std training starts from the std "
        "network of the same seed",
    )
    compare.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="seeds (default: 0)")
    compare.add_argument(
        "--overlays",
        nargs="*",
        default=[],
        metavar="NAME",
        help="files of the bundle's configs that come last in every run, for example small",
    )
    compare.add_argument(
        "--evaluation",
        default="robustness",
        metavar="NAME",
        help="name of the evaluation; give another name and other values to attack the same networks in another way "
        "(default: %(default)s)",
    )
    compare.add_argument("--reference", metavar="ARM", help="arm to compare all others with (default: the first)")
    compare.add_argument(
        "--strength", action="store_true", help="also try stronger attacks on the networks of the first seed"
    )
    compare.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="number of steps that run at once (default: %(default)s)"
    )


def _add_overlay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    overlay = commands.add_parser(
        "overlay",
        help="adversarial training or attack for any MONAI bundle",
        description="Write a JSON file to lay over the configuration of any MONAI bundle: adversarial training (sat, "
        "amat), or the robustness curve of its trained network (robustness). Prints the next command.",
    )
    overlay.add_argument("kind", choices=("sat", "amat", "robustness"), help="what the overlay does")
    overlay.add_argument(
        "--config_file", nargs="+", required=True, metavar="FILE", help="configuration files of the bundle, in order"
    )
    overlay.add_argument("--output", required=True, metavar="FILE", help="JSON file to write")
    overlay.add_argument(
        "--epsilon",
        type=float,
        default=5.0,
        help="noise size of sat, step of the margins of amat: L2 norm over an image or patch as the network receives "
        "it (default: %(default)s)",
    )
    overlay.add_argument("--steps", type=int, default=20, help="attack steps (default: %(default)s)")
    overlay.add_argument(
        "--clip_range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="range of the image values as the network receives them; noise stays within (default: no limits)",
    )
    overlay.add_argument(
        "--noise_levels",
        nargs="+",
        type=float,
        default=[0.0, 1.0, 2.0, 5.0],
        metavar="EPSILON",
        help="noise levels of the curve, L2 norms like --epsilon (default: 0 1 2 5)",
    )
    overlay.add_argument(
        "--num_classes",
        type=int,
        help="for robustness: output channels of the network, with softmax including the background",
    )
    overlay.add_argument(
        "--prediction",
        choices=("softmax", "sigmoid"),
        help="sigmoid if each output channel is a class of its own, without a background (default: as the loss is set)",
    )
    overlay.add_argument("--checkpoint", metavar="FILE", help="for robustness: the trained weights")
    overlay.add_argument("--trainer", default="train::trainer", help="id of the trainer (default: %(default)s)")
    overlay.add_argument(
        "--evaluator", default="validate::evaluator", help="id of the evaluator (default: %(default)s)"
    )


def _add_bundles(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    init = commands.add_parser(
        "init",
        help="write a segmentation bundle for your own data",
        description="Read a Decathlon folder, plan the network as nnU-Net does, and write a bundle for it.",
    )
    init.add_argument("--dataset_dir", help="Decathlon folder; not needed with --settings")
    init.add_argument("--bundle_dir", required=True, help="folder for the bundle, new or empty")
    init.add_argument(
        "--plans", metavar="FILE", help="nnUNetPlans.json of nnU-Net version 2, instead of a plan made here"
    )
    init.add_argument(
        "--settings",
        help="hippocampus, heart or prostate (the paper's settings), or a JSON file, instead of a plan made here",
    )

    bundles = commands.add_parser(
        "bundles",
        help="write the five bundles of the paper's data sets",
        description="Write the bundles hippocampus_amat, heart_amat, prostate_amat, cephalometric_amat and bccd_amat.",
    )
    bundles.add_argument("folder", help="folder for the five bundle folders")


def _add_phantoms(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    phantom = commands.add_parser("phantom", help="write synthetic volumes as a Decathlon folder")
    phantom.add_argument("--volumes", type=int, default=25, metavar="N", help="how many (default: %(default)s)")
    phantom.add_argument("--channels", type=int, default=1, help="image channels, 1 or 2 (default: %(default)s)")
    phantom.add_argument("--classes", type=int, default=2, help="foreground classes, 1 or 2 (default: %(default)s)")
    skulls = commands.add_parser("phantom-cephalograms", help="write synthetic cephalograms as an ISBI 2015 folder")
    cells = commands.add_parser("phantom-cells", help="write synthetic blood smears as a BCCD folder")
    for command in (skulls, cells):
        command.add_argument(
            "--images",
            type=int,
            default=24,
            metavar="N",
            help="how many (default: %(default)s)",
        )
    for command in (phantom, skulls, cells):
        command.add_argument("root", help="folder to write")
        command.add_argument("--seed", type=int, default=0, help="seed of the random shapes (default: %(default)s)")


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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where the locale has no ε, its escape is written
            stream.reconfigure(errors="backslashreplace")
    # SIGTERM, as from `timeout` or a queue, and SIGHUP, of a terminal that is closed, stop the processes of a study as
    # Ctrl-C does; what is ignored, as under nohup, stays ignored.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())


if __name__ == "__main__":
    command()
