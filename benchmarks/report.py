"""What every benchmark shares with the others: its options, its table and its JSON file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from monai_amat.files import write_text_whole
from monai_amat.markdown import markdown_table

__all__ = ["command_line", "markdown", "parse", "publish"]


def command_line(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark.

    Args:
        name: the benchmark's name, which its JSON file is called after.
        description: the script's docstring.
    """
    parser = argparse.ArgumentParser(prog=f"python benchmarks/{name}.py", description=description, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks") / f"{name}.json", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and noise (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="the smallest scale, to see that it runs; no figures")
    return parser


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, quick: Mapping[str, Any]
) -> argparse.Namespace:
    """The options; `--quick` puts other defaults in place, over which what is given still wins.

    Example:
        >>> parser = command_line("example", None)
        >>> _ = parser.add_argument("--pairs", type=int, default=10)
        >>> [parse(parser, words.split(), {"pairs": 1}).pairs for words in ("", "--quick", "--quick --pairs 3")]
        [10, 1, 3]
    """
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(**quick)
        options = parser.parse_args(arguments)
    return options


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table; the first row names the columns.

    Example:
        >>> print(markdown([{"width": 8, "ratio": "1.01"}]))
        | width | ratio |
        |-------|-------|
        | 8     | 1.01  |
    """
    names = list(rows[0])
    return markdown_table([names, *([str(row[name]) for name in names] for row in rows)])


def publish(
    name: str,
    options: argparse.Namespace,
    results: Any,
    table: Sequence[Mapping[str, object]],
    *,
    device: torch.device | None = None,
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """Print the table and write settings, machine, versions and results as JSON.

    Args:
        name: the benchmark's name.
        options: what `parse` gave.
        results: what was measured; dataclasses, dictionaries, lists, numbers.
        table: the rows to print.
        device: where it ran; the CPU by default.
        packages: further packages whose versions matter.

    Returns:
        what the file holds.
    """
    # Here: processes that only measure should not wait for all that it loads.
    from monai_amat.robustness.environment import environment

    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    del settings["output"]
    described = environment(device or torch.device("cpu"))
    described["versions"] |= {package: metadata.version(package) for package in packages}
    described["machine"] |= {
        "threads": torch.get_num_threads(),
        # Of the last minute, this benchmark included: how busy the machine was.
        "load": round(os.getloadavg()[0], 2),
    }
    content = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        **described,
        "results": results,
    }
    text = json.dumps(content, indent=2, default=dataclasses.asdict)
    write_text_whole(options.output, text + "\n")
    print(markdown(table))
    print(f"\n{options.output}: settings, versions, machine and all figures", flush=True)
    loaded: dict[str, Any] = json.loads(text)
    return loaded
