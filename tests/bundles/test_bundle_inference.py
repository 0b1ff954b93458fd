"""NIfTI in, NIfTI out: predictions on the grid that the image is stored on, whatever its orientation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from monai_amat.engines import save_weights
from monai_amat.tasks.segmentation import nnunet_2d

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

PATCH = (32, 32)


def affine(
    *spacing: float, flip: tuple[int, int, int] = (1, 1, 1), angles: tuple[float, ...] = (0, 0, 0)
) -> np.ndarray:
    """Voxel to world, in mm: spacing, mirrored axes, then a rotation in degrees about x, y and z."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(np.multiply(spacing, flip))
    matrix[:3, 3] = (-31.5, 12.25, 7.0)
    return matrix


# Shape, affine, and which axis is cut into slices: that of the largest spacing, the last of equals.
GEOMETRIES: dict[str, tuple[tuple[int, int, int], np.ndarray, int]] = {
    "as_the_decathlon": ((14, 20, 9), affine(1, 1, 1), 2),
    "flipped": ((13, 20, 8), affine(1, 1, 1, flip=(-1, -1, 1)), 2),
    "sagittal_slices": ((6, 20, 15), affine(3.0, 0.8, 0.8), 0),
    "coronal_slices_mirrored": ((15, 7, 22), affine(0.9, 2.5, 0.9, flip=(1, -1, -1)), 1),
    "oblique": ((14, 16, 6), affine(1.0, 1.0, 2.0, angles=(12, -20, 33)), 2),
    "upside_down_oblique": ((5, 16, 14), affine(4.0, 1.0, 1.0, flip=(-1, 1, 1), angles=(170, 5, 80)), 0),
    "larger_than_the_patch": ((44, 50, 4), affine(1, 1, 1.5), 2),
}


def volume(shape: tuple[int, ...], seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.round(200 + 60 * draw.standard_normal(shape)).astype(np.int16)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """One that finds every class somewhere; where is of no account."""
    torch.manual_seed(9)
    made = nnunet_2d(in_channels=1, out_channels=3, patch_size=PATCH, base_features=4).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


Infer = Callable[..., Path]


@pytest.fixture(scope="module")
def infer(bundle: BundleRunner, network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Infer:
    """Run inference.json on a folder and return the folder of predictions."""
    weights = tmp_path_factory.mktemp("weights") / "model.pt"
    save_weights(network, weights)

    def run(folder: Path, **changes: Any) -> Path:
        output = tmp_path_factory.mktemp("predictions")
        settings: dict[str, Any] = {
            "checkpoint": str(weights),
            "patch_size": list(PATCH),
            "base_features": 4,
            **changes,
        }
        settings |= {"bundle_root": str(bundle.root), "dataset_dir": str(folder), "output_dir": str(output)}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="monai")
            monai.bundle.run(config_file=str(bundle.config("inference")), **{"logging_file": False, **settings})
        return output

    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, (name, (shape, matrix, _)) in enumerate(GEOMETRIES.items()):
        image = nib.Nifti1Image(volume(shape, seed), matrix)
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, folder / f"{name}.nii{'' if seed % 2 else '.gz'}")
    return folder


@pytest.fixture(scope="module")
def predictions(images: Path, infer: Infer) -> Path:
    return infer(images)


def load(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return image


def read(folder: Path, name: str) -> nib.Nifti1Image:
    return load(next(path for path in folder.iterdir() if path.name.split(".")[0] == name))


def test_there_is_a_prediction_for_every_image(predictions: Path) -> None:
    assert sorted(path.name for path in predictions.iterdir()) == sorted(f"{name}_pred.nii.gz" for name in GEOMETRIES)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_prediction_lies_where_its_image_lies(images: Path, predictions: Path, name: str) -> None:
    image, pred = read(images, name), read(predictions, f"{name}_pred")
    assert pred.shape == image.shape
    np.testing.assert_allclose(pred.affine, image.affine, atol=1e-4)
    np.testing.assert_allclose(pred.header.get_zooms(), image.header.get_zooms(), rtol=1e-5)
    assert nib.aff2axcodes(pred.affine) == nib.aff2axcodes(image.affine)
    assert pred.get_data_dtype() == np.uint8
    assert set(np.unique(np.asanyarray(pred.dataobj))) <= {0, 1, 2}


def by_hand(voxels: np.ndarray, axis: int, network: torch.nn.Module) -> np.ndarray:
    """z-score over the volume, slices as (y, x) images centred in the patch, arg-max of the network's output."""
    values = torch.from_numpy((voxels - voxels.mean()) / voxels.std()).float()
    labels = torch.zeros(voxels.shape, dtype=torch.uint8)
    for i in range(voxels.shape[axis]):
        plane = values.select(axis, i).T
        room = [want - have for want, have in zip(PATCH, plane.shape, strict=True)]
        top, left = room[0] // 2, room[1] // 2
        padded = F.pad(plane, (left, room[1] - left, top, room[0] - top))
        with torch.no_grad():
            best = network(padded[None, None])[0].argmax(0)
        labels.select(axis, i)[:] = best[top : top + plane.shape[0], left : left + plane.shape[1]].T
    return labels.numpy()


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name != "larger_than_the_patch"])
def test_a_prediction_is_what_the_network_says_of_every_slice(
    images: Path, predictions: Path, network: torch.nn.Module, name: str
) -> None:
    image, pred = read(images, name), np.asanyarray(read(predictions, f"{name}_pred").dataobj)
    expected = by_hand(np.asanyarray(image.dataobj).astype(np.float64), GEOMETRIES[name][2], network)
    assert set(np.unique(expected)) == {0, 1, 2}
    # Rounding may decide a tie.
    assert (pred == expected).mean() > 0.999


def test_a_mirrored_file_is_the_same_volume(infer: Infer, tmp_path: Path) -> None:
    """Stored from the last slice to the first, with an affine that says so, it is segmented alike."""
    voxels = volume((14, 20, 6), 11)
    nib.save(nib.Nifti1Image(voxels, affine(1, 1, 2)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(voxels[..., ::-1], affine(1, 1, 2, flip=(1, 1, -1))), tmp_path / "b.nii.gz")
    output = infer(tmp_path)
    first, second = (np.asanyarray(load(output / f"{name}_pred.nii.gz").dataobj) for name in "ab")
    np.testing.assert_array_equal(first, second[..., ::-1])


def test_a_folder_without_volumes_is_named(bundle: BundleRunner, infer: Infer, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        infer(tmp_path)
    assert f"{tmp_path} holds no volume" in bundle.messages(caught.value)
    with pytest.raises(RuntimeError) as caught:
        infer(tmp_path / "absent")
    assert f"no folder {tmp_path / 'absent'}" in bundle.messages(caught.value)


def test_absent_weights_are_named(bundle: BundleRunner, infer: Infer, images: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        infer(images, checkpoint=str(tmp_path / "absent.pt"))
    assert f"no checkpoint at {tmp_path / 'absent.pt'}" in bundle.messages(caught.value)


@pytest.mark.parametrize("kind", ["channels", "truncated", "nan", "constant", "flat", "colours", "singular"])
def test_a_volume_that_cannot_be_segmented_is_named(
    bundle: BundleRunner, infer: Infer, tmp_path: Path, kind: str
) -> None:
    good = volume((14, 16, 4), 0)
    nib.save(nib.Nifti1Image(good, np.eye(4)), tmp_path / "case_1.nii.gz")
    bad = tmp_path / "case_2.nii.gz"
    if kind == "channels":
        nib.save(nib.Nifti1Image(np.stack([good, good], axis=-1), np.eye(4)), bad)
    elif kind == "flat":
        nib.save(nib.Nifti1Image(good[..., 0], np.eye(4)), bad)
    elif kind == "constant":
        nib.save(nib.Nifti1Image(np.full_like(good, 7), np.eye(4)), bad)
    elif kind == "colours":
        nib.save(nib.Nifti1Image(np.zeros(good.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)), bad)
    elif kind == "singular":
        header = nib.Nifti1Header()
        header.set_data_shape(good.shape)
        header.set_sform(np.diag([1.0, 0.0, 1.0, 1.0]), code=1)
        nib.save(nib.Nifti1Image(good, None, header), bad)
    elif kind == "nan":
        holes = good.astype(np.float32)
        holes[3, 3, 3] = np.nan
        nib.save(nib.Nifti1Image(holes, np.eye(4)), bad)
    else:
        bad.write_bytes((tmp_path / "case_1.nii.gz").read_bytes()[:200])
    with pytest.raises(Exception) as caught:
        infer(tmp_path)
    assert "case_2.nii.gz" in bundle.messages(caught.value)


@pytest.mark.real_data("Task04_Hippocampus")
def test_real_volumes_keep_their_grid(infer: Infer, data_root: Path, tmp_path: Path) -> None:
    sources = sorted((data_root / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz"))[:2]
    for source in sources:
        (tmp_path / source.name).symlink_to(source)
    output = infer(tmp_path)
    for source in sources:
        image, pred = load(source), read(output, source.name.split(".")[0] + "_pred")
        assert pred.shape == image.shape
        np.testing.assert_allclose(pred.affine, image.affine, atol=1e-4)
