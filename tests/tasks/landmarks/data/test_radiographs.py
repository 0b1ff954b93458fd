"""Which files of a folder are radiographs, how large their pixels are, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monai_amat.tasks.landmarks import LoadCephalogramd, list_radiographs


def picture(path: Path, width: int = 60, height: int = 80, **settings: Any) -> Path:
    Image.fromarray(np.full((height, width), 90, dtype=np.uint8)).save(path, **settings)
    return path


def test_images_are_listed_by_name_and_other_files_passed_over(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.bmp", "d.jpeg", ".hidden.png"):
        picture(tmp_path / name, format={"a": "JPEG", "d": "JPEG", "c": "BMP"}.get(name[0], "PNG"))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "sub").mkdir()
    items = list_radiographs(tmp_path, spacing=0.25)
    assert [Path(item["image"]).name for item in items] == ["a.JPG", "b.png", "c.bmp", "d.jpeg"]
    assert [item["case"] for item in items] == ["a", "b", "c", "d"]
    for item in items:
        assert item["native_size"].tolist() == [80, 60]
        torch.testing.assert_close(item["spacing"], torch.tensor([0.25, 0.25]))
        assert LoadCephalogramd("image")(item)["image"].shape == (1, 80, 60)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_the_resolution_stored_in_a_file_is_taken(tmp_path: Path, ending: str) -> None:
    picture(tmp_path / f"a.{ending}", dpi=(254, 127))
    spacing = list_radiographs(tmp_path)[0]["spacing"]
    # (y, x), while a file has x first; PNG and BMP store whole pixels a metre.
    torch.testing.assert_close(spacing, torch.tensor([0.2, 0.1]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dpi", [None, (72, 72), (96, 96), (96.012, 96.012), (0, 0)])
def test_a_resolution_that_says_nothing_is_not_believed(tmp_path: Path, dpi: tuple[float, float] | None) -> None:
    settings: dict[str, Any] = {} if dpi is None else {"dpi": dpi}
    path = picture(tmp_path / "a.png", **settings)
    with pytest.raises(ValueError, match="the pixel size is unknown") as caught:
        list_radiographs(tmp_path)
    assert str(path) in str(caught.value)
    # What the message proposes works.
    assert list_radiographs(tmp_path, spacing=0.1)
    start = str(caught.value).index('{"native')
    (tmp_path / "info.json").write_text(str(caught.value)[start:].rstrip("."))
    assert list_radiographs(tmp_path)[0]["native_size"].tolist() == [80, 60]


def test_info_json_says_size_and_spacing_and_a_value_goes_before_it(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", dpi=(254, 254))
    (tmp_path / "info.json").write_text(json.dumps({"native_size_xy": [600, 800], "pixel_spacing_mm": 0.5}))
    item = list_radiographs(tmp_path)[0]
    assert item["native_size"].tolist() == [800, 600]
    torch.testing.assert_close(item["spacing"], torch.tensor([0.5, 0.5]))
    item = list_radiographs(tmp_path, spacing=0.125)[0]
    assert item["native_size"].tolist() == [800, 600]
    torch.testing.assert_close(item["spacing"], torch.tensor([0.125, 0.125]))
    image = LoadCephalogramd("image")(item)["image"]
    assert float(image.affine[0, 0]) == 10.0


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path / 'absent'}"):
        list_radiographs(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="holds no radiograph"):
        list_radiographs(tmp_path)
    first = picture(tmp_path / "a.png")
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="spacing must be a positive number"):
            list_radiographs(tmp_path, spacing=wrong)
    second = picture(tmp_path / "a.bmp")
    with pytest.raises(ValueError, match=r"a\.png: results are named after .* a\.bmp has the same name"):
        list_radiographs(tmp_path, spacing=0.1)
    second.unlink()
    (tmp_path / "info.json").write_text(json.dumps({"native_size_xy": [800, 600], "pixel_spacing_mm": 0.5}))
    with pytest.raises(ValueError, match=r"aspect ratio of 800x600.*got 60x80"):
        list_radiographs(tmp_path)
    (tmp_path / "info.json").unlink()
    first.write_bytes(b"BM no picture")
    with pytest.raises(ValueError, match=r"a\.png: cannot be opened as an image"):
        list_radiographs(tmp_path, spacing=0.1)
