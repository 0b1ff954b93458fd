"""What importing ultralytics does to a process, in a process that is not pytest: there the package behaves itself."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from monai_amat.tasks.detection.network import quiet_import
from monai_amat.tasks.detection.network.quiet_import import SUPPORTED, from_ultralytics, quietly

REPOSITORY = Path(__file__).resolve().parents[4]

PROBE = """
import json, logging, os, random, socket, subprocess, sys, threading, warnings
import cv2, matplotlib, matplotlib.pyplot, numpy as np, PIL.Image, PIL.ImageFile, requests, torch
torch.set_num_threads(1)
import monai_amat.tasks.detection

called = []
def notice(module, name, real):
    def wrapper(*args, **kwargs):
        called.append(f"{module.__name__}.{name}")
        return real(*args, **kwargs)
    setattr(module, name, wrapper)
for module, names in ((socket, ["getaddrinfo", "create_connection", "gethostbyname"]),
                      (subprocess, ["run", "Popen", "check_output", "check_call"])):
    for name in names:
        notice(module, name, getattr(module, name))

def state():
    public = lambda module: {name: id(value) for name, value in vars(module).items() if callable(value)}
    return {
        "environment": dict(os.environ),
        "torch": public(torch), "nn": public(torch.nn), "functional": public(torch.nn.functional),
        "numpy": public(np), "cv2": public(cv2), "warn": public(warnings),
        "pillow": public(PIL.Image), "pillow files": public(PIL.ImageFile),
        "torch prints": str(vars(torch._tensor_str.PRINT_OPTS)), "numpy prints": repr(np.array([1 / 3, 1e-9, 7.0])),
        "threads": [cv2.getNumThreads(), torch.get_num_threads(), len(threading.enumerate())],
        "filters": [str(item) for item in warnings.filters],
        "levels": {name: logging.getLogger(name).level for name in ("coremltools", "sentry_sdk", "matplotlib")},
        "root": [logging.root.level, len(logging.root.handlers), logging.root.manager.disable],
        "random": [hash(random.getstate()), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()],
        "safe": sorted(map(str, torch.serialization.get_safe_globals())),
        "torch modes": [str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.backends.cudnn.benchmark,
                        torch.are_deterministic_algorithms_enabled()],
        "path": list(sys.path), "folder": os.getcwd(), "hook": id(sys.excepthook), "out": id(sys.stdout),
        "plots": str(dict(matplotlib.rcParams)), "finders": str(sys.meta_path),
    }

import monai_amat.tasks.detection as detection
from monai_amat.tasks.detection.network.quiet_import import _MODULES, from_ultralytics
image = torch.rand(2, 3, 64, 64)
target = torch.tensor([[[0.0, 8, 8, 40, 40]], [[-1.0, 0, 0, 0, 0]]])
before = state()
torch_state = torch.get_rng_state()
network = detection.YOLOv5(classes=3, size="n", weights=os.environ.get("PROBE_WEIGHTS"))
torch.set_rng_state(torch_state)  # weights are drawn from there, as documented
loss = detection.DetectionLoss(network)
loss(network.train()(image), target).sum().backward()
detection.decode_detections(network.eval()(image), conf=0.0)
for name in _MODULES:
    from_ultralytics(name)
after = state()
changed = {name: [before[name], after[name]] for name in after if after[name] != before[name]}
told = {name: str(pair)[:400] if not isinstance(pair[0], dict) else
        str({k: (pair[0].get(k), pair[1].get(k)) for k in {**pair[0], **pair[1]} if pair[0].get(k) != pair[1].get(k)})
        for name, pair in changed.items()}
with open(os.environ["PROBE_ANSWER"], "w") as stream:
    json.dump({"changed": told, "called": called, "torchvision": "torchvision" in sys.modules,
               "pytest": "pytest" in sys.modules, "version": sys.modules["ultralytics"].__version__}, stream)
"""


def probe(folder: Path, code: str = PROBE, **environment: str) -> tuple[subprocess.CompletedProcess[str], Any, Path]:
    """Run code where home, working and temporary folder are empty; what it answered, and where they are."""
    places = {name: folder / name for name in ("home", "work", "temporary")}
    for place in places.values():
        place.mkdir()
    drop = ("YOLO_", "XDG_", "PYTEST", "GITHUB_", "RUNNER_", "COV_", "COVERAGE", "OMP_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=places["work"],
        env={
            **kept,
            "HOME": str(places["home"]),
            "TMPDIR": str(places["temporary"]),
            "MPLCONFIGDIR": str(folder / "matplotlib"),
            "MPLBACKEND": "Agg",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PROBE_ANSWER": str(folder / "answer.json"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    answer = folder / "answer.json"
    return finished, json.loads(answer.read_text()) if answer.exists() else None, places["home"]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_process_is_left_as_it_was_found(tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    save_checkpoint(weights)
    finished, answer, _ = probe(tmp_path, PROBE_WEIGHTS=str(weights))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    assert answer["changed"] == {}
    assert answer["called"] == []  # no host looked up, nothing installed
    assert not answer["torchvision"]
    assert not answer["pytest"]
    for place in ("home", "work", "temporary"):
        assert files(tmp_path / place) == []


def save_checkpoint(path: Path) -> None:
    """A checkpoint as the package writes it."""
    import copy

    import torch

    from monai_amat.tasks.detection import YOLOv5

    torch.save({"ema": copy.deepcopy(YOLOv5(3, "n").model).half(), "model": None, "epoch": 3}, path)


OLD = {"settings_version": "0.0.1", "runs_dir": "/somewhere", "sync": False}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["home", "variable"])
def test_settings_of_the_user_are_read_and_not_written(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".config" if place == "home" else tmp_path / "elsewhere"
    file = folder / "Ultralytics" / "settings.json"
    answer = tmp_path / "answer.json"
    code = (
        f"import pathlib; file = pathlib.Path({str(file)!r}); file.parent.mkdir(parents=True)\n"
        f"file.write_text({json.dumps(OLD)!r})\n"
        "from monai_amat.tasks.detection.network.quiet_import import from_ultralytics\n"
        "from_ultralytics('YAML')\n"
        "import json, sys; settings = sys.modules['ultralytics'].settings\n"
        f"pathlib.Path({str(answer)!r}).write_text(json.dumps([settings['runs_dir'], settings['sync']]))"
    )
    extra = {} if place == "home" else {"YOLO_CONFIG_DIR": str(folder)}
    finished, told, _ = probe(tmp_path, code, **extra)
    assert finished.returncode == 0, finished.stderr
    assert told == ["/somewhere", False]
    assert json.loads(file.read_text()) == OLD
    assert files(tmp_path / "temporary") == []


def test_a_missing_package_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ultralytics" else real(name, *rest)
    )
    from monai_amat.tasks.detection import YOLOv5

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'monai-amat\[detection\]'.*AGPL"):
        YOLOv5(3)


def test_a_moved_interface_says_which_versions_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quiet_import._MODULES, "bbox_iou", "ultralytics.utils")
    with pytest.raises(
        ImportError, match=rf"ultralytics \d.*ultralytics\.utils has no bbox_iou.*{re.escape(SUPPORTED)}"
    ):
        from_ultralytics("bbox_iou")
    monkeypatch.setitem(quiet_import._MODULES, "bbox_iou", "ultralytics.utils.elsewhere")
    with pytest.raises(ImportError, match=rf"there is no ultralytics\.utils\.elsewhere.*{re.escape(SUPPORTED)}"):
        from_ultralytics("bbox_iou")


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("libGL.so.1: cannot open shared object file", "install opencv-python-headless"),
        ("anything", "with its requirements"),
    ],
)
def test_a_package_that_does_not_import_says_why(reason: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError(reason)

    monkeypatch.setitem(quiet_import._MODULES, "YAML", "ultralytics.not_imported_yet")
    monkeypatch.setattr(quiet_import.importlib, "import_module", fail)
    with pytest.raises(ImportError, match=rf"cannot be imported \(OSError: {reason}.*{advice}"):
        from_ultralytics("YAML")


def test_the_package_is_unheard_and_then_heard_again(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ultralytics")
    logger.addHandler(caplog.handler)
    try:
        with quietly():
            logger.error("inside")
        logger.error("outside")
    finally:
        logger.removeHandler(caplog.handler)
    assert len(caplog.messages) == 1  # the package puts a word of its own in front
    assert caplog.messages[0].endswith("outside")


def test_the_versions_are_those_of_the_extra() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"ultralytics{SUPPORTED}" in declared["project"]["optional-dependencies"]["detection"]
