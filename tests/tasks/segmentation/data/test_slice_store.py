"""Slices in memory or in files: the same values, and what they need is known before they are loaded."""

from __future__ import annotations

import logging
import pickle
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from monai_amat.data import IndexedDataset
from monai_amat.tasks.segmentation import Decathlon, load_slices, write_phantom
from monai_amat.tasks.segmentation.data import slice_store
from monai_amat.tasks.segmentation.data.slice_store import available_memory, needed_memory


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("store") / "phantom", volumes=3, shape=(15, 17, 13), channels=2)


@pytest.mark.parametrize("settings", [{}, {"slice_step": 3}, {"spacing": (0.8, 1.3)}])
def test_what_slices_need_is_known_from_the_headers(root: Path, settings: dict[str, object]) -> None:
    slices = load_slices(root, "all", progress=False, **settings)  # type: ignore[arg-type]
    found = sum(item[key].numel() * item[key].element_size() for item in slices for key in ("image", "label"))
    step, spacing = settings.get("slice_step", 1), settings.get("spacing")
    cases = Decathlon(root).cases
    assert needed_memory(cases, channels=2, slice_step=step, spacing=spacing) == found  # type: ignore[arg-type]


def test_slices_in_files_are_the_same_and_leave_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    inside = load_slices(root, "all", progress=False)
    with caplog.at_level(logging.WARNING):
        mapped = load_slices(root, "all", memory_limit=0, progress=False)
    assert "the slices need 0.0 GB, more than the limit of 0.0 GB of memory; they are read from files" in caplog.text
    assert not list(tmp_path.iterdir())
    assert len(inside) == len(mapped)
    for one, other in zip(inside, mapped, strict=True):
        assert one.keys() == other.keys()
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])
        assert (one["image"].dtype, one["label"].dtype) == (other["image"].dtype, other["label"].dtype)
        assert one["classes"] == other["classes"]
        assert other["image"].untyped_storage().nbytes() == other["image"].numel() * 4
    assert IndexedDataset(inside).fingerprint == IndexedDataset(mapped).fingerprint


def test_slices_in_files_can_be_changed_sent_and_loaded_by_workers(root: Path) -> None:
    slices = load_slices(root, "all", memory_limit=0, progress=False)
    before = slices[5]["image"].clone()
    slices[4]["image"].zero_()
    assert torch.equal(slices[5]["image"], before)
    assert len(pickle.dumps(slices[5])) < 8 * before.numel() + 5000
    data: Any = slices
    loader: Any = DataLoader(data, batch_size=None, num_workers=1)
    assert torch.equal(list(loader)[5]["image"], before)


def test_a_folder_without_room_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OSError, match=r"phantom all: the slices need 0\.0 GB, .* has 0\.0 GB left .* set TMPDIR"):
        load_slices(root, "all", memory_limit=0, progress=False)


def test_the_limit_is_half_of_what_is_available(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = needed_memory(Decathlon(root).cases, channels=2, slice_step=1, spacing=None)
    for available, mapped in ((2 * needed - 2, True), (2 * needed, False), (None, False)):
        monkeypatch.setattr(slice_store, "available_memory", lambda available=available: available)
        assert slice_store.SliceStore(needed, limit=None, what="x").mapped is mapped


def test_available_memory_is_plausible() -> None:
    found = available_memory()
    assert found is None or 0 <= found < 1e15
