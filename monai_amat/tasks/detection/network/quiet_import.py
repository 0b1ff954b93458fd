"""The one module that imports ultralytics: what the package does to a process when it is imported is kept away."""

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
"""Versions of ultralytics that the tests have passed with (the extra `detection`)."""

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
_LOGGERS = ("coremltools", "sentry_sdk")  # whose levels it sets
_IMPORTING = threading.RLock()


def from_ultralytics(name: str) -> Any:
    """One of the package's classes or functions that this project builds on.

    Importing ultralytics writes a settings file, replaces `torch.save` and `PIL.Image.open`, sets
    `OMP_NUM_THREADS` and other variables, the print options of torch and numpy, OpenCV's threads and filters for
    warnings, looks hosts up, prints, and may install packages with pip. Here it is imported without a network and
    without pip, and afterwards all that is as it was before; a settings file that exists is read, one that does not is
    not made. Where the user has imported the package, nothing is done again or undone. torchvision, which it asks for,
    is not imported.

    For the life of the process the package then takes itself for offline and installs nothing. Who wants it as it comes
    imports it before this project does.

    Args:
        name: such as `"DetectionModel"`.

    Raises:
        ModuleNotFoundError: when it is not installed; says which extra brings it.
        ImportError: when it cannot be imported, or its interface has moved; says which versions work.

    Example:
        >>> from_ultralytics("DetectionModel").__name__
        'DetectionModel'
    """
    module = _imported(_MODULES[name])
    if not hasattr(module, name):
        raise ImportError(moved(f"{_MODULES[name]} has no {name}"))
    return getattr(module, name)


def moved(what: str) -> str:
    """The message for a version whose interface is another one."""
    return (
        f"ultralytics {_version()}: {what}, so its interface has moved. monai_amat works with versions {SUPPORTED}: "
        f"pip install 'ultralytics{SUPPORTED}'"
    )


@contextmanager
def quietly() -> Iterator[None]:
    """What the package logs inside is not heard."""
    logger = logging.getLogger("ultralytics")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def opencv_in_one_thread() -> None:
    """What the package sets at import, for its own training loop: OpenCV's threads and loader workers do not mix."""
    importlib.import_module("cv2").setNumThreads(0)


@contextmanager
def torchvision_left_out() -> Iterator[None]:
    """Inside, importing torchvision gives a module with nothing but the package's own non-maximum suppression.

    The package's validator imports torchvision for that alone, and has one of its own for where it is not imported.
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
            "YOLO networks need the package ultralytics, which is not installed: pip install 'monai-amat[detection]'. "
            "Mind its licence, AGPL-3.0.",
            name="ultralytics",
        )
    if name in sys.modules:
        return sys.modules[name]
    with _IMPORTING, _process_as_it_was():
        try:
            return importlib.import_module(name)
        except Exception as error:  # anything: of its many requirements each can be missing or broken
            if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("ultralytics"):
                raise ImportError(moved(f"there is no {error.name}")) from error
            hint = (
                "where OpenCV lacks a system library, put opencv-python-headless in the place of opencv-python"
                if "libGL" in str(error) or "libgthread" in str(error)
                else "install it with all it needs: pip install 'monai-amat[detection]'"
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
    """Import the package inside; what it changes outside itself is undone."""
    with ExitStack() as stack:
        stack.enter_context(quietly())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(_environment())
        stack.enter_context(_settings())
        stack.callback(setattr, torch, "save", torch.save)
        # Theirs asks pip for a plug-in where a file is no image.
        stack.callback(setattr, PIL.Image, "open", PIL.Image.open)
        stack.callback(np.set_printoptions, **np.get_printoptions())
        # torch has no public way to ask for its print options.
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
    """Where the package finds its settings: where they are, or in a folder that is gone afterwards."""
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
        if file.read_bytes() != content:  # those of another version are rewritten
            file.write_bytes(content)


def _settings_file() -> Path:
    """Where the package keeps its settings."""
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
    except Exception:  # the package will fail likewise, and that is where it is told
        yield
        return
    threads = cv2.getNumThreads()
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
