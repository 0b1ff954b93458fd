"""The first look: three arms on the phantom or on the user's own volumes, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from monai_amat.study.compare import Study
from monai_amat.study.foreign import check_path
from monai_amat.tasks.segmentation import write_phantom
from monai_amat.templates import paper_settings, write_bundle

__all__ = ["ARMS", "quickstart"]

ARMS = ("std", "sat:5", "amat")


def quickstart(
    output_dir: str | Path,
    *,
    dataset_dir: str | Path | None = None,
    bundle: str | Path | None = None,
    values: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Train STD, SAT and AMAT at a small scale, attack all three and compare them.

    Args:
        output_dir: where everything goes.
        dataset_dir: a Decathlon folder that fits the bundle; the built-in phantom by default, made beside the results.
        bundle: the bundle; by default the paper's hippocampus bundle, written to `output_dir/hippocampus_amat`.
        values: values for every run, by config ID.

    Returns:
        the table, see `compare`.

    Raises:
        FileExistsError: when `output_dir/hippocampus_amat` holds another bundle.
        FileNotFoundError: when there is no such bundle or data set.
    """
    output_dir = Path(output_dir)
    check_path("output_dir", output_dir.expanduser().resolve())
    if dataset_dir is not None and not Path(dataset_dir).expanduser().is_dir():
        raise FileNotFoundError(f"no data set at {Path(dataset_dir).expanduser().resolve()}")
    if bundle is None:
        bundle = write_bundle(paper_settings("hippocampus"), output_dir / "hippocampus_amat")
    if dataset_dir is None:
        dataset_dir = output_dir / "phantom"
        print(f"==> making the phantom data set in {dataset_dir}", flush=True)
        write_phantom(dataset_dir, volumes=30, seed=0)
    study = Study(
        bundle,
        ARMS,
        dataset_dir=dataset_dir,
        output_dir=output_dir,
        overlays=["small"],
        values=values,
        say=lambda text: print(text, flush=True),
    )
    return study.run()
