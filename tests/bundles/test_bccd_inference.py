"""Pictures in, boxes out: in pixels of the image as it is stored, whatever its size."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from PIL import Image

from monai_amat.engines import save_weights
from monai_amat.tasks.detection import Letterboxd, YOLOv5, decode_detections
from monai_amat.tasks.detection.transforms.rgb_image import LoadRGBImage

ROOT = Path(__file__).resolve().parents[2] / "bundles" / "bccd_amat"
FRAME = (64, 96)
# Height and width: of the frame's form, wide, high, smaller than the frame.
SIZES = {"as_the_frame.png": (128, 192), "wide.jpg": (70, 300), "high.bmp": (250, 90), "small.jpeg": (33, 40)}

Infer = Callable[..., Path]


@pytest.fixture(scope="module")
def network() -> YOLOv5:
    """One that finds many objects; where is of no account."""
    torch.manual_seed(3)
    made = YOLOv5(3, "n").train()
    for layer in made.modules():  # statistics of its own activations: else it would hardly see its image
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        made(torch.rand(4, 3, *FRAME))
    made.eval()
    for name, value in made.model.model[-1].named_parameters():
        if name.startswith("cv3") and name.endswith("2.bias"):
            torch.nn.init.constant_(value, 0.0)  # scores about one half
    return made


@pytest.fixture(scope="module")
def infer(network: YOLOv5, tmp_path_factory: pytest.TempPathFactory) -> Infer:
    weights = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(network, weights, {"image_size": list(FRAME)})

    def run(folder: Path, **changes: Any) -> Path:
        output = tmp_path_factory.mktemp("predictions")
        settings: dict[str, Any] = {"checkpoint": str(weights), "size": "n", "image_size": list(FRAME)}
        settings |= {"bundle_root": str(ROOT), "dataset_dir": str(folder), "output_dir": str(output), **changes}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="monai")
            config = str(ROOT / "configs" / "inference.json")
            monai.bundle.run(config_file=config, logging_file=False, **settings)  # type: ignore[arg-type]
        return output

    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        values = draw.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        Image.fromarray(values).resize((width, height)).save(folder / name)
    return folder


def by_hand(file: Path, network: YOLOv5) -> list[list[float]]:
    """Boxes and scores, brought back with the numbers of the letterbox."""
    item = Letterboxd(FRAME)({"image": LoadRGBImage()(file)})
    with torch.no_grad():
        found = decode_detections(network(item["image"][None]), conf=0.25, iou=0.6)[0]
    gain, left, top = item["letterbox"].tolist()
    width, height = Image.open(file).size
    rows = []
    for x1, y1, x2, y2, score, label in found.tolist():
        x = [min(max((value - left) / gain, 0), width) for value in (x1, x2)]
        y = [min(max((value - top) / gain, 0), height) for value in (y1, y2)]
        if x[0] < x[1] and y[0] < y[1]:
            rows.append([label, *(round(side, 2) for side in (x[0], y[0], x[1], y[1])), score])
    return sorted(rows)


def test_boxes_are_in_pixels_of_the_stored_image(images: Path, infer: Infer, network: YOLOv5) -> None:
    output = infer(images)
    with (output / "detections.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    total = 0
    for name in SIZES:
        told = json.loads((output / f"{Path(name).stem}_pred.json").read_text())
        assert (told["height"], told["width"]) == SIZES[name]
        names = ["RBC", "WBC", "Platelets"]
        found = sorted([names.index(o["class"]), *o["box"], o["score"]] for o in told["objects"])
        expected = by_hand(images / name, network)
        assert len({tuple(row[1:5]) for row in found}) > 3
        np.testing.assert_allclose(found, expected, atol=0.01)
        total += len(found)
        assert sum(row["image"] == name for row in table) == len(found)
        with Image.open(output / f"{Path(name).stem}_pred.png") as picture:
            assert picture.size == SIZES[name][::-1]
    assert len(table) == total
    assert len(list(output.iterdir())) == 2 * len(SIZES) + 1


def test_scores_decide_what_is_kept(images: Path, infer: Infer) -> None:
    output = infer(images, min_score=0.999)
    assert (output / "detections.csv").read_text() == "image,class,score,x1,y1,x2,y2\n"


def messages(error: BaseException | None) -> str:
    return "" if error is None else f"{error}\n{messages(error.__cause__ or error.__context__)}"


def test_what_cannot_be_looked_at_is_named(images: Path, infer: Infer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "cell.png").write_bytes((images / "as_the_frame.png").read_bytes()[:100])
    for folder, changes, expected in (
        (tmp_path / "absent", {}, f"no folder {tmp_path / 'absent'}"),
        (tmp_path / "empty", {}, "holds no image"),
        (broken, {}, "cell.png: cannot be read as an image"),
        (images, {"checkpoint": str(tmp_path / "absent.pt")}, f"no checkpoint at {tmp_path / 'absent.pt'}"),
        (images, {"size": "s"}, "is of another architecture"),
        (images, {"image_size": [96, 96]}, f'image_size {list(FRAME)}, but this run has [96, 96]: give --image_size "'),
        (images, {"classes": ["RBC", "WBC"]}, "is of another architecture"),
        (images, {"output_dir": str(images)}, "must differ from the folder of the images"),
    ):
        with pytest.raises(Exception) as caught:
            infer(folder, **changes)
        assert expected in messages(caught.value)
