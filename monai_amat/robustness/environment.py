"""Versions and the class of machine that a result was computed with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["environment"]


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and the class of machine: what figures depend on, and no names of hosts or folders."""
    names = ("monai-amat", "torch", "monai", "pytorch-ignite", "numpy")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    machine: dict[str, Any] = {"device": device.type, "processor": _processor(), "cores": os.cpu_count()}
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return {"versions": versions, "machine": machine}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
