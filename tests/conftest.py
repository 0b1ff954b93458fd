"""What every test shares: where data lies, what is skipped without it, and randomness that repeats."""

from __future__ import annotations

import os
import random
from pathlib import Path

# Before torch and matplotlib are imported: one thread for each of pytest's workers, and no window.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
DATA_VARIABLE = "MONAI_AMAT_DATA"
DATA_BESIDE = REPOSITORY.parent / "shared" / "data"

torch.set_num_threads(1)

# No deadline: the first call of an operator, or a busy machine, says nothing about correctness.
hypothesis.settings.register_profile(
    "monai_amat",
    deadline=None,
    max_examples=25,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("monai_amat")


def _find_data(folders: tuple[str, ...] = ()) -> tuple[Path | None, str]:
    """The data folder that holds all `folders`, and, where there is none, why."""
    tried = []
    for root in (os.environ.get(DATA_VARIABLE), DATA_BESIDE):
        if not root:
            continue
        missing = [folder for folder in folders if not Path(root, folder).is_dir()]
        if Path(root).is_dir() and not missing:
            return Path(root).resolve(), ""
        tried.append(f"{root} has no {', '.join(missing)}" if Path(root).is_dir() else f"{root} is not a folder")
    return None, f"no real data: {'; '.join(tried)}; set {DATA_VARIABLE} to a folder that holds the data sets"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what this machine cannot run."""
    marker = item.get_closest_marker("real_data")
    if marker is not None:
        root, why = _find_data(marker.args)
        if root is None:
            pytest.skip(why)
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; torch.cuda.is_available() is False")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets in their original layouts: MONAI_AMAT_DATA, else shared/data beside the repository.

    A test names the folders it needs in its marker, `@pytest.mark.real_data("Task04_Hippocampus")`, and skips where one
    is missing.
    """
    root, why = _find_data()
    if root is None:
        pytest.skip(why)
    return root


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon-style data set of phantom volumes, written once a session; to be read, never changed.

    Fifteen are the fewest that the paper's five folds can split.
    """
    from monai_amat.tasks.segmentation.phantom import write_phantom

    return write_phantom(tmp_path_factory.mktemp("data") / "phantom", volumes=15, seed=0)


@pytest.fixture(autouse=True)
def _same_randomness() -> None:
    """Every test starts from the same global random state, whatever ran before it and on whichever worker."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
