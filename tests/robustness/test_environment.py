"""Versions and machine beside results."""

from __future__ import annotations

import json
import platform

import torch

from monai_amat.robustness.environment import environment


def test_environment_names_no_host() -> None:
    found = environment(torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["cores"] >= 1
    host = platform.node()
    assert not host or len(host) < 4 or host not in json.dumps(found)
