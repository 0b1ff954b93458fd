"""Headers that no network can make anything of, and labels that lie elsewhere than their images."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from monai_amat.tasks.segmentation import check_header
from monai_amat.tasks.segmentation.data.case import Case, check_case
from monai_amat.tasks.segmentation.data.decathlon import Decathlon

SHAPE = (9, 8, 7)


def turned(*angles: float, spacing: tuple[float, ...] = (1.0, 1.0, 3.0), **offset: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles or (0, 0, 0), degrees=True).as_matrix() @ np.diag(spacing)
    matrix[0, 3] = offset.get("x", 0.0)
    return matrix


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    header = nib.Nifti1Header()
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    header.set_sform(affine, code=1)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.isfinite(lengths).all() and lengths.all():
        header.set_zooms(lengths)
    nib.save(nib.Nifti1Image(voxels, None, header), path)
    return path


def case_of(folder: Path, image: np.ndarray, label: np.ndarray) -> Case:
    """A case whose files have these affines."""
    voxels = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    truth = np.zeros(SHAPE, np.uint8)
    truth[2:4, 5:7, 1:6] = 1
    folder.mkdir(exist_ok=True)
    return Case("a", (save(folder / "image.nii", voxels, image),), save(folder / "label.nii", truth, label))


def mirrored(affine: np.ndarray, axis: int) -> np.ndarray:
    """Affine of the same volume stored from the other end of an axis."""
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, SHAPE[axis] - 1
    return np.asarray(affine @ flip)


MISPLACED: dict[str, tuple[np.ndarray, str]] = {
    "mirrored": (mirrored(turned(), 0), "LAS"),
    "upside down": (mirrored(turned(), 2), "RAI"),
    "other spacing": (turned(spacing=(1.0, 1.02, 3.0)), "1 x 1.02 x 3 mm"),
    "no affine at all": (np.eye(4), "1 x 1 x 1 mm"),
    "tilted": (turned(0, 0, 2), "2.0 degrees"),
}


@pytest.mark.parametrize("what", MISPLACED)
def test_a_label_stored_otherwise_than_its_image_is_refused(tmp_path: Path, what: str) -> None:
    """Both are taken voxel by voxel, so that the network would learn a structure where there is none."""
    affine, said = MISPLACED[what]
    with pytest.raises(ValueError, match=r"label\.nii: expected the grid of its image .*image\.nii") as caught:
        check_case(case_of(tmp_path, turned(), affine), num_classes=2, channels=1)
    assert said in str(caught.value)
    assert "RAS" in str(caught.value)
    assert "1 x 1 x 3 mm" in str(caught.value)


def test_the_advice_of_the_error_works(tmp_path: Path) -> None:
    """A mirrored label that its header describes well is brought back voxel by voxel."""
    case = case_of(tmp_path, turned(10, 20, 30), turned(10, 20, 30))
    label: Any = nib.load(case.label)
    truth = np.asanyarray(label.dataobj).copy()
    nib.save(nib.Nifti1Image(truth[::-1], mirrored(label.affine, 0)), case.label)
    with pytest.raises(ValueError, match="expected the grid of its image") as caught:
        check_case(case, num_classes=2, channels=1)
    advice = re.search(r"nibabel\.processing\.(resample_from_to\(.*?order=0\))", str(caught.value))
    assert advice is not None
    names = {"label": nib.load(case.label), "image": nib.load(case.image), "resample_from_to": resample_from_to}
    mended = eval(advice[1], names)
    nib.save(nib.Nifti1Image(np.asanyarray(mended.dataobj).copy(), mended.affine), case.label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check_case(case, num_classes=2, channels=1)[1]
    np.testing.assert_array_equal(found[0], truth)


@pytest.mark.parametrize(
    "affine",
    [turned(x=0.5), turned(0, 0, 0.8), turned(spacing=(1.0, 1.0, 3.02))],
    ids=["half a pixel away", "most of a degree", "most of a per cent"],
)
def test_small_differences_are_a_warning(tmp_path: Path, affine: np.ndarray) -> None:
    with pytest.warns(UserWarning, match=r"label\.nii: its affine differs slightly from that of image\.nii"):
        check_case(case_of(tmp_path, turned(), affine), num_classes=2, channels=1)


def test_two_matrices_that_disagree_are_no_difference_where_the_label_has_the_one_that_counts(tmp_path: Path) -> None:
    """An image that lies in an atlas as well, and a label that was drawn there."""
    case = case_of(tmp_path, turned(), turned(spacing=(1.1, 1.1, 3.3)))
    image: Any = nib.load(case.image)
    header = image.header.copy()
    header.set_qform(turned(), code=1)
    header.set_sform(turned(spacing=(1.1, 1.1, 3.3)), code=4)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj).copy(), None, header), case.image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_case(case, num_classes=2, channels=1)


def test_rounding_is_no_difference(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_case(case_of(tmp_path, turned(12, -8, 40), turned(12, -8, 40.001)), num_classes=2, channels=1)


# ------------------------------------------------------------------------------- headers


def test_a_good_header_is_returned_as_it_was_named(tmp_path: Path) -> None:
    file = str(save(tmp_path / "a.nii.gz", np.ones(SHAPE, np.int16), turned(3, 4, 5)))
    assert check_header(file) == file


def spoilt(folder: Path, what: str) -> Path:
    grey, affine = np.ones(SHAPE, np.float32), turned()
    if what == "parallel axes":
        affine[:3, 1] = affine[:3, 0]
    elif what == "no length":
        affine[:3, 1] = 0
    elif what == "no number":
        affine[0, 0] = np.nan
    elif what == "colours":
        grey = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    elif what == "complex":
        grey = np.ones(SHAPE, np.complex64)
    elif what == "expected a NIfTI":
        nib.save(nib.MGHImage(grey, affine), folder / "a.mgz")
        return folder / "a.mgz"
    return save(folder / "a.nii", grey, affine)


BAD_HEADERS = {
    "parallel axes": "expected an affine with an inverse",
    "no length": "expected an affine with an inverse",
    "no number": "expected an affine with an inverse",
    "colours": "colours",
    "complex": "complex numbers",
    "expected a NIfTI": "expected a NIfTI",
}


@pytest.mark.parametrize("what", BAD_HEADERS)
def test_headers_of_no_use_are_named(tmp_path: Path, what: str) -> None:
    file = spoilt(tmp_path, what)
    with pytest.raises(ValueError, match=rf"{file}: .*{BAD_HEADERS[what]}"):
        check_header(file)
    good = case_of(tmp_path / "good", turned(), turned())
    for case in (Case("a", (file,), good.label), Case("a", (good.image,), file)):
        with pytest.raises(ValueError, match=rf"{file}: .*{BAD_HEADERS[what]}"):
            check_case(case, num_classes=2, channels=1)


def test_files_without_a_header_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.nii: no such file"):
        check_header(tmp_path / "absent.nii")
    (tmp_path / "text.nii").write_text("no volume")
    with pytest.raises(ValueError, match=r"text\.nii: cannot be read as NIfTI, corrupt or truncated"):
        check_header(tmp_path / "text.nii")


@pytest.mark.parametrize(("place", "content"), [(40, bytes(range(200, 216))), (70, b"\xff\xff")], ids=["size", "type"])
def test_a_header_of_nonsense_is_named(tmp_path: Path, place: int, content: bytes) -> None:
    file = save(tmp_path / "a.nii", np.ones(SHAPE, np.float32), turned())
    header = bytearray(file.read_bytes())
    header[place : place + len(content)] = content
    file.write_bytes(header)
    with pytest.raises(ValueError, match=r"a\.nii: cannot be read as NIfTI, corrupt or truncated \(HeaderDataError"):
        check_header(file)


@pytest.mark.real_data("Task04_Hippocampus", "Task02_Heart", "PROMISE12")
@pytest.mark.parametrize("folder", ["Task04_Hippocampus", "Task02_Heart", "PROMISE12"])
def test_real_cases_pass(data_root: Path, folder: str) -> None:
    """The first of each; all of them agreed with their labels in November 2026."""
    data = Decathlon(data_root / folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in data.cases[:2]:
            check_case(case, num_classes=data.num_classes, channels=data.num_channels)
