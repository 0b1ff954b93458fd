"""What to do with an overlay once it is written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_amat.study.foreign import changes_with_time, resolved, run_id

__all__ = ["next_step"]


def next_step(config_files: Sequence[str | Path], output: str | Path, overlay: dict[str, Any]) -> str:
    """What to do with an overlay, in words: the command, and where its results go."""
    files = [str(file) for file in (*config_files, output)]
    parser = ConfigParser()
    parser.read_config(files)
    parts = overlay["amat"]
    more = ""
    if "curve" in parts:
        named = None
        key = "amat::curve::output_dir"
        where = f"the curve goes to {resolved(parser, key)}; for another folder give --{key}"
    else:
        named = run_id(parser, _trainer(overlay))
        savers = [resolved(parser, key) for key in overlay if key.endswith("::save_dir")]
        where = f"weights go to {', '.join(savers) or 'where the bundle writes them'}; to go on after a kill: "
        if changes_with_time(parser, "amat::resume::save_dir"):
            kind = parts["resume"]["settings"]["kind"]
            more = f" --output_dir {shlex.quote(f'runs/{kind}')}"
            where += "output_dir of the configuration is another folder at every start, so give a fixed one, as above"
        else:
            where += resolved(parser, "amat::resume::save_dir")
    listed = shlex.quote(json.dumps(files, ensure_ascii=False))
    command = f"python -m monai.bundle run {f'{named} ' if named else ''}--config_file {listed}{more}"
    return f"{output} is laid over the configuration:\n  {command}\nwith what else the bundle is run with; {where}"


def _trainer(overlay: dict[str, Any]) -> str:
    return next(key for key in overlay if key.endswith("::prepare_batch")).removesuffix("::prepare_batch")
