"""Versions and machine beside results."""

from __future__ import annotations

import json
import platform

import torch

from monai_amat.robustness.environment import environment


def test_environment_names_no_host() -> None:
    told = environment(torch.device("cpu"))
    assert told["versions"]["torch"] == torch.__version__
    assert told["machine"]["device"] == "cpu"
    assert told["machine"]["cores"] >= 1
    host = platform.node()
    assert not host or len(host) < 4 or host not in json.dumps(told)
