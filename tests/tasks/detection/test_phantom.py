"""The phantom of blood smears: its layout, boxes that fit its cells, determinism, and what it refuses to overwrite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_amat.tasks.detection import load_voc, write_cells_phantom
from monai_amat.tasks.detection.phantom import _smear

SMALL: dict[str, Any] = {"images": 3, "size": (48, 64)}


def files(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_is_a_voc_folder(tmp_path: Path) -> None:
    root = write_cells_phantom(tmp_path / "cells", images=5, size=(60, 90))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.iterdir()) == ["cells"]
    for split in ("paper", "imagesets"):
        parts = [load_voc(root, section, split=split) for section in ("train", "validation", "test")]
        assert [len(part) for part in parts] == [3, 1, 1]
    for item in load_voc(root, "all"):  # without a warning: nothing outside, nothing without area
        with Image.open(item["image"]) as image:
            assert (image.size, image.mode) == ((90, 60), "RGB")
        assert len(item["boxes"]) >= 3


@pytest.mark.parametrize("size", [(48, 64), (96, 128), (200, 150)])
def test_boxes_are_tight_and_inside(size: tuple[int, int]) -> None:
    kinds = set()
    for seed in range(12):
        pixels, cells = _smear(np.random.default_rng(seed), size)
        assert pixels.shape == (*size, 3)
        assert pixels.dtype == np.uint8
        for kind, (x1, y1, x2, y2) in cells:
            assert 0 <= x1 < x2 - 1 < x2 <= size[1]
            assert 0 <= y1 < y2 - 1 < y2 <= size[0]
            kinds.add(kind)
    assert kinds == {"RBC", "WBC", "Platelets"}


def test_kinds_can_be_told_apart_by_colour_and_size() -> None:
    """What a detector is to learn is there: cells differ from the plasma, and from each other."""
    darkest: dict[str, list[float]] = {"RBC": [], "WBC": [], "Platelets": []}
    sides: dict[str, list[float]] = {"RBC": [], "WBC": [], "Platelets": []}
    contrast = []
    for seed in range(12):
        pixels, cells = _smear(np.random.default_rng(seed), (240, 320))
        plasma = np.percentile(pixels[..., 1], 90)
        for kind, (x1, y1, x2, y2) in cells:
            inside = pixels[y1:y2, x1:x2, 1]
            contrast.append(plasma - inside.mean())
            if x1 > 0 and y1 > 0 and x2 < 320 and y2 < 240:  # whole
                darkest[kind].append(float(np.percentile(inside, 10)))
                sides[kind].append(max(x2 - x1, y2 - y1))
    assert min(contrast) > 10
    assert max(sides["Platelets"]) < min(sides["RBC"]) < max(sides["RBC"]) < min(sides["WBC"])
    assert max(darkest["WBC"]) < min(darkest["RBC"])
    assert max(darkest["Platelets"]) < min(darkest["RBC"])


def test_the_seed_decides_and_more_images_begin_alike(tmp_path: Path) -> None:
    first, again = (files(write_cells_phantom(tmp_path / name, **SMALL)) for name in ("a", "b"))
    assert first == again
    other = files(write_cells_phantom(tmp_path / "c", **SMALL, seed=1))
    assert other["JPEGImages/cells_000.jpg"] != first["JPEGImages/cells_000.jpg"]
    more = files(write_cells_phantom(tmp_path / "d", **SMALL | {"images": 4}))
    assert all(more[name] == content for name, content in first.items() if name.startswith(("JPEG", "Annot")))


def test_writing_again_does_nothing_and_nothing_else_is_overwritten(tmp_path: Path) -> None:
    root = write_cells_phantom(tmp_path / "cells", **SMALL)
    stamps = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    write_cells_phantom(root, **SMALL)
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == stamps
    with pytest.raises(FileExistsError, match="a phantom with the settings"):
        write_cells_phantom(root, **SMALL, seed=1)
    (root / "Annotations" / "cells_001.xml").unlink()
    with pytest.raises(FileExistsError, match=r"Annotations/cells_001\.xml is missing"):
        write_cells_phantom(root, **SMALL)
    (root / "phantom.json").write_text(json.dumps([]))
    with pytest.raises(FileExistsError, match="expected a phantom with the settings"):
        write_cells_phantom(root, **SMALL)
    (root / "phantom.json").unlink()
    with pytest.raises(FileExistsError, match="got other files"):
        write_cells_phantom(root, **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells"]


@pytest.mark.parametrize("setting", [{"images": 2}, {"size": (47, 64)}, {"size": (64, 64, 64)}])
def test_settings_out_of_range(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="3 images and a size"):
        write_cells_phantom(tmp_path / "cells", **SMALL | setting)
