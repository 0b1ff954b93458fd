"""A folder of radiographs in, landmarks out: in native pixels and in mm, whatever size an image is stored at."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import monai.bundle
import numpy as np
import pytest
import torch
from PIL import Image

from monai_amat.engines import save_weights
from monai_amat.tasks.landmarks import LANDMARK_NAMES, MultiTaskUNet

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

Infer = Callable[..., Path]
SIZE = (50, 40)
# Landmark l is where the image is brightest, shifted by so many network pixels (y, x); the last is never found.
SHIFTS = [(0.0, 0.0), (2.0, -3.0), (-4.0, 1.0)]


class BrightestSpot(torch.nn.Module):
    """Finds a white spot, for what is tested is all that lies around the network.

    The heat map is the image, moved; offsets are 0; the last landmark's heat map is flat.
    """

    def __init__(self, landmarks: int = 4) -> None:
        super().__init__()
        self.landmarks = landmarks
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        grey = self.scale * image[:, :1]
        moved = [torch.roll(grey, (int(y), int(x)), dims=(2, 3)) for y, x in SHIFTS]
        heat = torch.cat([*moved, torch.zeros_like(grey)], dim=1)
        return torch.cat([heat, torch.zeros_like(heat), torch.zeros_like(heat)], dim=1)


@pytest.fixture(scope="module")
def infer(cephalometric: BundleRunner, tmp_path_factory: pytest.TempPathFactory) -> Infer:
    """Run inference.json on a folder and return the folder of results."""
    weights = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(BrightestSpot(), weights)

    def run(folder: Path, **changes: Any) -> Path:
        output = tmp_path_factory.mktemp("landmarks")
        settings: dict[str, Any] = {
            "bundle_root": str(cephalometric.root),
            "dataset_dir": str(folder),
            "output_dir": str(output),
            "checkpoint": str(weights),
            "image_size": list(SIZE),
            "landmarks": 4,
            "landmark_names": ["a", "b", "c", "d"],
            "network_def": BrightestSpot(),
            # The disc of the votes is that of the spot.
            "relative_radius": 0.03,
            **changes,
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="monai")
            warnings.filterwarnings("ignore", message=".* heat maps have no peak")
            monai.bundle.run(config_file=str(cephalometric.config("inference")), **{"logging_file": False, **settings})
        return output

    return run


def radiograph(path: Path, size: tuple[int, int], spot: tuple[float, float], **settings: Any) -> None:
    """Dark, but for a soft white spot at `(y, x)`, given as shares of height and width."""
    y, x = np.mgrid[: size[0], : size[1]]
    # Centres of pixels, in the pixels of the network.
    down, right = (y + 0.5) / size[0] * SIZE[0], (x + 0.5) / size[1] * SIZE[1]
    distance = (down - spot[0] * SIZE[0]) ** 2 + (right - spot[1] * SIZE[1]) ** 2
    Image.fromarray(np.round(250 * np.exp(-distance / 4)).astype(np.uint8)).save(path, **settings)


# Stored size (H, W) and place of the spot, the middle of a network pixel.
IMAGES: dict[str, tuple[tuple[int, int], tuple[float, float]]] = {
    "tall.png": ((300, 120), (20.5 / 50, 30.5 / 40)),
    "wide.jpg": ((110, 250), (31.5 / 50, 12.5 / 40)),
    "small.BMP": ((40, 36), (25.5 / 50, 20.5 / 40)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("radiographs")
    for name, (size, spot) in IMAGES.items():
        radiograph(made / name, size, spot)
    (made / "notes.txt").write_text("passed over")
    return made


@pytest.fixture(scope="module")
def results(folder: Path, infer: Infer) -> Path:
    return infer(folder, spacing=0.2)


def test_every_image_has_its_files_and_all_have_a_table(results: Path) -> None:
    stems = [name.partition(".")[0] for name in IMAGES]
    assert {path.name for path in results.iterdir()} == {
        "landmarks.csv",
        *(f"{stem}.{ending}" for stem in stems for ending in ("json", "png")),
    }
    with (results / "landmarks.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == [stem for stem in sorted(stems) for _ in range(4)]
    for stem in stems:
        content = json.loads((results / f"{stem}.json").read_text())
        mine = [row for row in rows if row["case"] == stem]
        assert [row["name"] for row in mine] == ["a", "b", "c", "d"]
        for row, landmark in zip(mine, content["landmarks"], strict=True):
            for key in ("x_px", "y_px", "x_mm", "y_mm"):
                assert (float(row[key]) if row[key] else None) == landmark[key]
        picture = matplotlib.image.imread(results / f"{stem}.png")
        assert picture.std() > 0.01


@pytest.mark.parametrize("name", IMAGES)
def test_landmarks_are_where_they_are_in_the_stored_image(results: Path, name: str) -> None:
    (height, width), (down, right) = IMAGES[name]
    found = json.loads((results / f"{name.partition('.')[0]}.json").read_text())["landmarks"]
    for landmark, (y, x) in zip(found, SHIFTS, strict=False):
        # Edges on edges: the middle of network pixel i is at (i + 1/2)/size of the image.
        expected_y, expected_x = (down + y / SIZE[0]) * height, (right + x / SIZE[1]) * width
        # Half a network pixel, in native ones.
        within = {"y": 0.5 * height / SIZE[0] + 0.5, "x": 0.5 * width / SIZE[1] + 0.5}
        assert landmark["y_px"] == pytest.approx(expected_y - 0.5, abs=within["y"])
        assert landmark["x_px"] == pytest.approx(expected_x - 0.5, abs=within["x"])
        assert landmark["y_mm"] == pytest.approx(0.2 * (landmark["y_px"] + 0.5), abs=2e-3)
        assert landmark["x_mm"] == pytest.approx(0.2 * (landmark["x_px"] + 0.5), abs=2e-3)
    assert {found[3][key] for key in ("x_px", "y_px", "x_mm", "y_mm")} == {None}


def test_reduced_images_give_landmarks_of_what_they_were(infer: Infer, tmp_path: Path) -> None:
    """The same radiograph at native size and at a third, with an info.json: the same landmarks."""
    spot = (20.5 / 50, 30.5 / 40)
    for name, size in (("native", (300, 240)), ("reduced", (100, 80))):
        (tmp_path / name).mkdir()
        radiograph(tmp_path / name / "a.png", size, spot)
    (tmp_path / "reduced" / "info.json").write_text('{"native_size_xy": [240, 300], "pixel_spacing_mm": 0.1}')
    native, reduced = (
        json.loads((infer(tmp_path / name, **more) / "a.json").read_text())
        for name, more in (("native", {"spacing": 0.1}), ("reduced", {}))
    )
    for first, second in zip(native["landmarks"][:3], reduced["landmarks"][:3], strict=True):
        for key in ("x_px", "y_px"):
            assert first[key] == pytest.approx(second[key], abs=3.0)
        for key in ("x_mm", "y_mm"):
            assert first[key] == pytest.approx(second[key], abs=0.3)


def test_the_bundles_own_network_names_all_nineteen(
    cephalometric: BundleRunner, cephalometric_std: Path, infer: Infer, tmp_path: Path
) -> None:
    """And what it says is what it says of the data set's own item."""
    image = cephalometric.dataset_dir / "RawImage" / "Test1Data" / "201.png"
    (tmp_path / "201.png").write_bytes(image.read_bytes())
    (tmp_path / "info.json").write_bytes((cephalometric.dataset_dir / "info.json").read_bytes())
    output = infer(
        tmp_path,
        checkpoint=str(cephalometric_std / "models" / "model.pt"),
        landmarks=19,
        landmark_names=list(LANDMARK_NAMES),
        network_def=MultiTaskUNet(width=1 / 32),
        relative_radius=0.05,
    )
    found = json.loads((output / "201.json").read_text())
    assert tuple(landmark["name"] for landmark in found["landmarks"]) == LANDMARK_NAMES
    assert found["spacing_mm"] == [0.1, 0.1]


# ------------------------------------------------------------------------------ bad input


def failure(cephalometric: BundleRunner, infer: Infer, folder: Path, **changes: Any) -> str:
    with pytest.raises(Exception) as caught:
        infer(folder, **changes)
    return cephalometric.messages(caught.value)


def test_a_folder_without_radiographs_is_named(cephalometric: BundleRunner, infer: Infer, tmp_path: Path) -> None:
    assert f"{tmp_path} holds no radiograph" in failure(cephalometric, infer, tmp_path)
    assert f"no folder {tmp_path / 'absent'}" in failure(cephalometric, infer, tmp_path / "absent")


def test_absent_weights_are_named(cephalometric: BundleRunner, infer: Infer, folder: Path, tmp_path: Path) -> None:
    message = failure(cephalometric, infer, folder, spacing=0.1, checkpoint=str(tmp_path / "absent.pt"))
    assert f"no checkpoint at {tmp_path / 'absent.pt'}" in message


def test_another_image_size_than_that_of_the_training_is_refused(
    cephalometric: BundleRunner, cephalometric_std: Path, infer: Infer, folder: Path
) -> None:
    """Nothing else would tell: the network takes any, and finds other landmarks."""
    weights = cephalometric_std / "models" / "model.pt"
    settings: dict[str, Any] = {"checkpoint": str(weights), "spacing": 0.1, "image_size": [100, 80]}
    settings |= {"network_def": MultiTaskUNet(width=1 / 32), "landmarks": 19, "landmark_names": list(LANDMARK_NAMES)}
    message = failure(cephalometric, infer, folder, **settings)
    assert (
        f'{weights} was made with image_size [50, 40], but this run has [100, 80]: give --image_size "[50, 40]"'
        in message
    )
    assert (infer(folder, **settings, trained_with={}) / "landmarks.csv").is_file()  # who means it


@pytest.mark.parametrize("kind", ["header", "truncated", "no size of a pixel"])
def test_an_image_that_cannot_be_used_is_named(
    cephalometric: BundleRunner, infer: Infer, tmp_path: Path, kind: str
) -> None:
    radiograph(tmp_path / "a.png", SIZE, (0.5, 0.5), dpi=(254, 254))
    radiograph(tmp_path / "b.png", (200, 160), (0.5, 0.5), **({} if "size" in kind else {"dpi": (254, 254)}))
    content = (tmp_path / "b.png").read_bytes()
    if kind != "no size of a pixel":
        (tmp_path / "b.png").write_bytes(b"no picture" if kind == "header" else content[: len(content) // 2])
    message = failure(cephalometric, infer, tmp_path)
    assert str(tmp_path / "b.png") in message
    expected = {"header": "cannot be opened", "truncated": "cannot be read", "no size of a pixel": "--spacing 0.1"}
    assert expected[kind] in message
