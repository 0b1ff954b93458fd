"""A bundle's configuration run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow


def workflow(*files: Path, **changed: Any) -> ConfigWorkflow:
    made = ConfigWorkflow([str(file) for file in files], workflow_type=None, logging_file=None, **changed)
    made.initialize()
    return made
