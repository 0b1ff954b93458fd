"""NIfTI of one and of several channels in, label maps on the same grids out, resampled on the way or not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from monai_amat.engines import save_weights

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
    "one_slice": ((24, 20, 1), np.diag([1.0, 1.0, 3.0, 1.0])),
    "one_row_of_slices": ((1, 24, 20), np.diag([3.0, 1.0, 1.0, 1.0])),
}


def stored_as(shape: tuple[int, int, int], axes: str, *spacing: float) -> np.ndarray:
    """Affine of an unrotated volume whose voxel axes point where three of the letters R, L, A, P, S and I say."""
    orientation = nib.orientations.axcodes2ornt(tuple(axes))
    turn = np.linalg.inv(nib.orientations.inv_ornt_aff(orientation, shape))
    return np.asarray(turn @ np.diag([*spacing, 1.0]))


# As sagittal and coronal scanners store them: the first or second axis of the voxels runs along the body.
GEOMETRIES |= {
    axes: (shape, stored_as(shape, axes, 1.0, 1.0, 1.0))
    for axes, shape in {"PSR": (24, 26, 7), "RSA": (25, 24, 6), "SLA": (26, 24, 5), "LIP": (24, 22, 6)}.items()
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
        assert pred.header.get_xyzt_units() == ("mm", "unknown")
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


def reheaded(path: Path, voxels: np.ndarray, **changes: Any) -> Path:
    """A volume of 1 x 1 x 3 mm whose header says in places something of its own."""
    header: Any = nib.Nifti1Header()
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(np.float32)
    header.set_zooms((1.0, 1.0, 3.0))
    for name, values in changes.items():
        getattr(header, f"set_{name}")(*values)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), None, header), path)
    return path


def test_label_maps_have_the_place_in_the_world_that_their_files_headers_give(infer: Infer, tmp_path: Path) -> None:
    """Both matrices of a header, which may say different things, their codes, and the unit of length."""
    voxels = blob((24, 20, 6), np.diag([1.0, 1.0, 3.0, 1.0]))
    scanner, atlas = np.diag([1.0, 1.0, 3.0, 1.0]), np.diag([1.1, 1.1, 3.3, 1.0])
    scanner[:3, 3], atlas[:3, 3] = (10.0, -20.0, 30.0), (-90.0, -126.0, -72.0)
    headers: dict[str, dict[str, Any]] = {
        "neither": {},
        "scanner_alone": {"qform": (scanner, 1)},
        "atlas_alone": {"sform": (atlas, 4)},
        "at_odds": {"qform": (scanner, 1), "sform": (atlas, 4), "xyzt_units": ("mm", "sec")},
        "micron": {"qform": (scanner, 1), "xyzt_units": ("micron",)},
    }
    (tmp_path / "images").mkdir()
    for name, changes in headers.items():
        reheaded(tmp_path / "images" / f"{name}.nii", voxels, **changes)
    output = infer(tmp_path / "images", channels=1, spacing="$None")
    for name in headers:
        pred, image = read(output, name), nib.load(tmp_path / "images" / f"{name}.nii")
        assert isinstance(image, nib.Nifti1Image)
        np.testing.assert_array_equal(pred.affine, image.affine)
        for field in ("sform_code", "qform_code", "xyzt_units", "pixdim"):
            first, second = (np.ravel(header[field])[:4] for header in (pred.header, image.header))
            np.testing.assert_array_equal(first, second, err_msg=f"{name}: {field}")
        for form in ("get_sform", "get_qform"):
            np.testing.assert_allclose(getattr(pred.header, form)(), getattr(image.header, form)())
        expected = voxels > voxels.mean()
        np.testing.assert_array_equal(np.asanyarray(pred.dataobj) > 0, expected)


def messages_of(caught: pytest.ExceptionInfo[Exception]) -> str:
    messages, error = "", caught.value
    while error is not None:
        messages, error = messages + str(error), error.__cause__ or error.__context__  # type: ignore[assignment]
    return messages


def test_predictions_among_the_volumes_are_refused(infer: Infer, tmp_path: Path) -> None:
    """Else the next run would segment them."""
    write(tmp_path / "images", 1)
    before = sorted((tmp_path / "images").iterdir())
    with pytest.raises(Exception) as caught:
        infer(tmp_path / "images", channels=1, spacing="$None", output_dir=str(tmp_path / "images"))
    assert f"output_dir must differ from the folder of the volumes, got {tmp_path / 'images'}" in messages_of(caught)
    assert sorted((tmp_path / "images").iterdir()) == before


def test_two_files_of_one_name_are_refused(infer: Infer, tmp_path: Path) -> None:
    write(tmp_path / "images", 1)
    (tmp_path / "images" / "plain.nii").touch()
    with pytest.raises(Exception) as caught:
        infer(tmp_path / "images", channels=1, spacing="$None")
    assert "plain.nii has the same name; rename one of the two" in messages_of(caught)


def test_a_volume_of_other_channels_is_named(infer: Infer, tmp_path: Path) -> None:
    write(tmp_path / "images", 1)
    with pytest.raises(Exception) as caught:
        infer(tmp_path / "images", channels=2, spacing="$None")
    assert "LIP.nii.gz: expected 2 channel(s) of three dimensions, got (1, 24, 22, 6)" in (messages_of(caught))


def test_a_broken_run_goes_on_where_it_stopped(tmp_path: Path, infer: Infer) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    write(images, 1)
    in_the_way = output / "one_slice_pred.nii.gz"
    in_the_way.mkdir(parents=True)
    (in_the_way / "file").touch()
    with pytest.raises(RuntimeError):
        infer(images, channels=1, output_dir=str(output))
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz") if path.is_file()}
    assert 0 < len(before) < len(GEOMETRIES)
    assert len(json.loads((output / "inference.json").read_text())["volumes"]) == len(before)
    (in_the_way / "file").unlink()
    in_the_way.rmdir()
    infer(images, channels=1, output_dir=str(output))
    after = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert after.keys() == {f"{name}_pred.nii.gz" for name in GEOMETRIES}
    assert before.items() <= after.items()


def test_a_volume_that_cannot_be_read_is_found_before_any_is_segmented(tmp_path: Path, infer: Infer) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    write(images, 1)
    voxels = np.full((4, 4, 4), np.nan, np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), images / "zz.nii.gz")
    with pytest.raises(RuntimeError) as caught:
        infer(images, channels=1, output_dir=str(output))
    assert "1 of 12 volumes cannot be segmented" in messages_of(caught)
    assert not list(output.glob("*.nii.gz"))
