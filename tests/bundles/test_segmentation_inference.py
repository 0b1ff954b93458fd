"""NIfTI of one and of several channels in, label maps on the same grids out, resampled on the way or not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from monai_amat.networks import save_weights

REPOSITORY = Path(__file__).resolve().parents[2]
PATCH = [32, 32]


def oblique(*spacing: float) -> np.ndarray:
    cosine, sine = np.cos(0.4), np.sin(0.4)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag(spacing)
    matrix[:3, 3] = (-9.0, 4.25, 30.5)
    return matrix


# Shape and affine; slices are cut along the axis of largest spacing.
GEOMETRIES: dict[str, tuple[tuple[int, int, int], np.ndarray]] = {
    "plain": ((24, 30, 6), np.diag([1.0, 1.0, 2.0, 1.0])),
    "sagittal_mirrored": ((5, 28, 25), np.diag([-3.0, 0.8, -0.8, 1.0])),
    "oblique": ((23, 26, 5), oblique(0.9, 1.1, 2.5)),
    "oblique_mirrored": ((21, 6, 29), oblique(-1.0, 4.0, 1.2)),
    "larger_than_the_patch": ((40, 50, 3), np.diag([0.9, 0.9, 2.5, 1.0])),
}


def blob(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """A smooth volume, bright around a point off the middle."""
    index = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), axis=-1)
    away = (index - np.array(shape) * (0.4, 0.6, 0.5)) @ affine[:3, :3].T
    return np.round(1000 * np.exp(-(away**2).sum(-1) / 2 / 6.0**2)).astype(np.int16)


Infer = Callable[..., Path]


@pytest.fixture
def infer(tmp_path: Path) -> Infer:
    """Apply a network that calls a pixel class 1 where its last channel is above the mean, class 0 elsewhere."""

    def run(images: Path, *, channels: int, **values: Any) -> Path:
        network = torch.nn.Conv2d(channels, 3, 1)
        with torch.no_grad():
            network.weight.zero_()
            network.weight[1, -1, 0, 0] = 1.0
            network.bias.copy_(torch.tensor([0.0, 0.0, -99.0]))  # type: ignore[union-attr]
        save_weights(network, tmp_path / "model.pt")
        output = Path(tmp_path / f"predictions_{len(list(tmp_path.iterdir()))}")
        root = REPOSITORY / "bundles" / "prostate_amat"
        given: dict[str, Any] = {
            "bundle_root": str(root),
            "dataset_dir": str(images),
            "output_dir": str(output),
            "checkpoint": str(tmp_path / "model.pt"),
            "in_channels": channels,
            "patch_size": PATCH,
            "network_def": {
                "_target_": "torch.nn.Conv2d",
                "in_channels": channels,
                "out_channels": 3,
                "kernel_size": 1,
            },
            **values,
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="monai")
            settings: dict[str, Any] = {"logging_file": False, **given}
            monai.bundle.run(config_file=str(root / "configs" / "inference.json"), **settings)
        return output

    return run


def write(folder: Path, channels: int) -> dict[str, np.ndarray]:
    """Every geometry as a file; the voxels of the last channel by name."""
    folder.mkdir()
    written = {}
    for name, (shape, affine) in GEOMETRIES.items():
        voxels = blob(shape, affine)
        # The other channels are of no use, so that channels in another order would be noticed.
        others = [np.random.default_rng(i).integers(0, 900, shape, dtype=np.int16) for i in range(channels - 1)]
        stored = voxels if channels == 1 else np.stack([*others, voxels], axis=-1)
        image = nib.Nifti1Image(stored, affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{name}.nii.gz")
        written[name] = voxels
    return written


def read(output: Path, name: str) -> Any:
    """nibabel's own reading; Any, because its declared type knows neither voxels nor affine."""
    return nib.load(output / f"{name}_pred.nii.gz")


@pytest.mark.parametrize("channels", [1, 2])
def test_label_maps_are_right_voxel_by_voxel_on_their_volumes_grids(
    infer: Infer, tmp_path: Path, channels: int
) -> None:
    written = write(tmp_path / "images", channels)
    output = infer(tmp_path / "images", channels=channels, spacing="$None")
    assert sorted(path.name for path in output.iterdir()) == sorted(f"{name}_pred.nii.gz" for name in GEOMETRIES)
    for name, (shape, affine) in GEOMETRIES.items():
        pred = read(output, name)
        assert pred.shape == shape
        for matrix in (pred.affine, pred.header.get_sform(), pred.header.get_qform()):
            np.testing.assert_allclose(matrix, affine, atol=1e-4)
        np.testing.assert_allclose(pred.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-4)
        assert pred.header["sform_code"] > 0
        assert pred.get_data_dtype() == np.uint8
        expected = written[name] > written[name].mean()
        assert 0.01 < expected.mean() < 0.6
        sure = np.abs(written[name] - written[name].mean()) > 0.5  # rounding decides the others
        assert sure.mean() > 0.9
        np.testing.assert_array_equal(np.asanyarray(pred.dataobj)[sure], expected[sure])


@pytest.mark.parametrize("spacing", [[0.6, 0.45], [1.6, 1.4]], ids=["finer", "coarser"])
def test_resampled_on_the_way_they_lie_where_they_lay(infer: Infer, tmp_path: Path, spacing: list[float]) -> None:
    written = write(tmp_path / "images", 2)
    output = infer(tmp_path / "images", channels=2, spacing=spacing)
    for name, (shape, affine) in GEOMETRIES.items():
        pred = read(output, name)
        assert pred.shape == shape
        np.testing.assert_allclose(pred.affine, affine, atol=1e-4)
        found, expected = np.asanyarray(pred.dataobj) > 0, written[name] > written[name].mean()
        dice = 2 * (found & expected).sum() / (found.sum() + expected.sum())
        assert dice > (0.97 if spacing[0] < 1 else 0.9), f"{name}: {dice}"
        # Half a pixel of shift would be half a coarse pixel's worth of centre of mass.
        centres = [np.argwhere(mask).mean(axis=0) for mask in (found, expected)]
        np.testing.assert_allclose(centres[0], centres[1], atol=0.35)


def test_a_volume_of_other_channels_is_named(infer: Infer, tmp_path: Path) -> None:
    write(tmp_path / "images", 1)
    with pytest.raises(Exception) as caught:
        infer(tmp_path / "images", channels=2, spacing="$None")
    messages, error = "", caught.value
    while error is not None:
        messages, error = messages + str(error), error.__cause__ or error.__context__  # type: ignore[assignment]
    assert "larger_than_the_patch.nii.gz: expected 2 channel(s) of three dimensions, found (1, 40, 50, 3)" in messages
