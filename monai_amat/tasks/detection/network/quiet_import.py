"""The only module that imports ultralytics, and undoes what the import changes in the process."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import platform
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import torch

__all__ = ["SUPPORTED", "from_ultralytics", "moved", "opencv_in_one_thread", "quietly", "torchvision_left_out"]

SUPPORTED = ">=8.4.130,<8.5"
"""Versions of ultralytics that the tests passed with (the extra `detection`)."""

_MODULES = {
    "DEFAULT_CFG": "ultralytics.utils",
    "ROOT": "ultralytics.utils",
    "YAML": "ultralytics.utils",
    "Detect": "ultralytics.nn.modules.head",
    "DetectionModel": "ultralytics.nn.tasks",
    "torch_safe_load": "ultralytics.nn.tasks",
    "bbox_iou": "ultralytics.utils.metrics",
    "bbox2dist": "ultralytics.utils.tal",
    "make_anchors": "ultralytics.utils.tal",
    "non_max_suppression": "ultralytics.utils.nms",
    "TorchNMS": "ultralytics.utils.nms",
    "DetectionTrainer": "ultralytics.models.yolo.detect",
    "unwrap_model": "ultralytics.utils.torch_utils",
}
_LOGGERS = ("coremltools", "sentry_sdk")  # ultralytics sets their levels
_IMPORTING = threading.RLock()


def from_ultralytics(name: str) -> Any:
    """Return one of the classes or functions of ultralytics that this package uses.

    Importing ultralytics writes a settings file, replaces `torch.save` and `PIL.Image.open`, sets
    `OMP_NUM_THREADS` and other variables, the print options of torch and numpy, the threads of OpenCV and filters for
    warnings, looks up hosts, prints, and may install packages with pip. This function imports it without a network and
    without pip, and restores all of this afterwards; an existing settings file is read, a missing one is not created.
    If the user has imported ultralytics before, nothing is repeated or undone. torchvision, which ultralytics requires,
    is not imported.

    Until the process ends, ultralytics then treats itself as offline and installs nothing. To use it unchanged, import
    it before monai_amat.

    Args:
        name: for example `"DetectionModel"`.

    Raises:
        ModuleNotFoundError: if ultralytics is not installed; the message names the extra that installs it.
        ImportError: if it cannot be imported, or its interface has changed; the message names the versions that work.

    Example:
        >>> from_ultralytics("DetectionModel").__name__
        'DetectionModel'
    """
    module = _imported(_MODULES[name])
    if not hasattr(module, name):
        raise ImportError(moved(f"{_MODULES[name]} has no {name}"))
    return getattr(module, name)


def moved(what: str) -> str:
    """Return the message for a version with another interface."""
    return (
        f"ultralytics {_version()} has another interface ({what}); monai_amat works with versions {SUPPORTED}: "
        f"pip install 'ultralytics{SUPPORTED}'"
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the logger of ultralytics inside the block."""
    logger = logging.getLogger("ultralytics")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def opencv_in_one_thread() -> None:
    """Set OpenCV to one thread, as the training loop of ultralytics needs: its threads disturb loader workers."""
    importlib.import_module("cv2").setNumThreads(0)


@contextmanager
def torchvision_left_out() -> Iterator[None]:
    """Replace torchvision inside the block by a module that holds only the non-maximum suppression of ultralytics.

    The validator of ultralytics imports torchvision for this function alone, and has its own where torchvision is not
    imported.
    """
    stand_in: Any = ModuleType("torchvision")
    stand_in.ops = SimpleNamespace(nms=from_ultralytics("TorchNMS").nms)
    sys.modules["torchvision"] = stand_in
    try:
        yield
    finally:
        del sys.modules["torchvision"]


def _imported(name: str) -> ModuleType:
    if importlib.util.find_spec("ultralytics") is None:
        raise ModuleNotFoundError(
            "YOLO networks need the package ultralytics, which is not installed; pip install 'monai-amat[detection]' "
            "(its licence is AGPL-3.0)",
            name="ultralytics",
        )
    if name in sys.modules:
        return sys.modules[name]
    with _IMPORTING, _process_as_it_was():
        try:
            return importlib.import_module(name)
        except Exception as error:  # any of its many requirements can be missing or broken
            if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("ultralytics"):
                raise ImportError(moved(f"there is no {error.name}")) from error
            hint = (
                "OpenCV lacks a system library: install opencv-python-headless instead of opencv-python"
                if "libGL" in str(error) or "libgthread" in str(error)
                else "install it with its requirements: pip install 'monai-amat[detection]'"
            )
            raise ImportError(
                f"ultralytics {_version()} cannot be imported ({type(error).__name__}: {error}); {hint}"
            ) from error


def _version() -> str:
    try:
        return metadata.version("ultralytics")
    except metadata.PackageNotFoundError:
        return "(no version)"


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Import ultralytics inside the block; afterwards undo what it changes outside itself."""
    with ExitStack() as stack:
        stack.enter_context(quietly())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(_environment())
        stack.enter_context(_settings())
        stack.callback(setattr, torch, "save", torch.save)
        # The replacement installs a plug-in with pip if a file is not an image.
        stack.callback(setattr, PIL.Image, "open", PIL.Image.open)
        stack.callback(np.set_printoptions, **np.get_printoptions())
        # torch has no public function that reads its print options.
        stack.callback(vars(torch._tensor_str.PRINT_OPTS).update, dict(vars(torch._tensor_str.PRINT_OPTS)))
        for logger in map(logging.getLogger, _LOGGERS):
            stack.callback(logger.setLevel, logger.level)
        if importlib.util.find_spec("cv2") is not None:
            stack.enter_context(_opencv_threads())
        yield


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _settings() -> Iterator[None]:
    """Let ultralytics find its settings: the existing file, or a temporary folder."""
    file = _settings_file()
    try:
        content = file.read_bytes()
    except OSError:
        with tempfile.TemporaryDirectory(prefix="ultralytics-", ignore_cleanup_errors=True) as folder:
            os.environ["YOLO_CONFIG_DIR"] = folder
            yield
        return
    try:
        yield
    finally:
        if file.read_bytes() != content:  # ultralytics rewrites the settings of another version
            file.write_bytes(content)


def _settings_file() -> Path:
    """Path of the settings file of ultralytics."""
    given = os.environ.get("YOLO_CONFIG_DIR")
    if given:
        folder = Path(given).expanduser()
    elif platform.system() == "Darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    return folder / "Ultralytics" / "settings.json"


@contextmanager
def _opencv_threads() -> Iterator[None]:
    try:
        cv2 = importlib.import_module("cv2")
    except Exception:  # the import of ultralytics fails in the same way, and that error is reported
        yield
        return
    threads = cv2.getNumThreads()
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
