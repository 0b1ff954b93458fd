"""Fingerprints of folders whose every number is known by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monai_amat.tasks.segmentation import check_fit, load_slices, read_dataset_properties
from monai_amat.tasks.segmentation.planning.properties import DatasetProperties


def write(
    root: Path,
    cases: list[dict[str, Any]],
    *,
    labels: dict[str, str] | None = None,
    channels: int = 1,
) -> Path:
    """A folder of boxes: zero but for `content`, with `label` in `where`, both index ranges along x, y and z."""
    draw = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    for i, case in enumerate(cases):
        shape = case.get("shape", (24, 30, 8))
        image = np.zeros((*shape, channels), dtype=np.float32)
        content = tuple(slice(*pair) for pair in case.get("content", [(0, size) for size in shape]))
        image[content] = case.get("scale", 1.0) * draw.uniform(1, 2, image[content].shape)
        truth = np.zeros(shape, dtype=np.uint8)
        for value, where in case.get("label", {1: ((8, 12), (10, 16), (2, 4))}).items():
            truth[tuple(slice(*pair) for pair in where)] = value
        affine = np.eye(4)
        turn = Rotation.from_euler("xyz", case.get("angles", (0, 0, 0)), degrees=True).as_matrix()
        affine[:3, :3] = turn @ np.diag(case.get("spacing", (1.0, 1.0, 3.0)))
        nib.save(nib.Nifti1Image(image[..., 0] if channels == 1 else image, affine), root / f"imagesTr/c{i}.nii.gz")
        nib.save(nib.Nifti1Image(truth, affine), root / f"labelsTr/c{i}.nii.gz")
    content_json = {
        "modality": {str(i): f"M{i}" for i in range(channels)},
        "labels": labels or {"0": "background", "1": "thing"},
        "numTraining": len(cases),
        "training": [{"image": f"imagesTr/c{i}.nii.gz", "label": f"labelsTr/c{i}.nii.gz"} for i in range(len(cases))],
    }
    (root / "dataset.json").write_text(json.dumps(content_json))
    return root


def taken(root: Path) -> DatasetProperties:
    return read_dataset_properties(root, progress=False)


def test_empty_margins_do_not_count_and_h_is_y(tmp_path: Path) -> None:
    found = taken(write(tmp_path / "d", [{"content": ((2, 22), (5, 20), (1, 8))}] * 3, channels=2))
    assert found.median_size == (15, 20)
    assert found.median_slices == 7
    assert (found.channels, found.labels, found.cases) == (("M0", "M1"), {0: "background", 1: "thing"}, 3)
    assert (found.pixel, found.resampled) == ((1.0, 1.0), False)
    assert found.occurrences == {1: 3}


def test_the_window_holds_all_foreground_around_the_middle(tmp_path: Path) -> None:
    """Of 30 rows the middle is 15; foreground in rows 3 to 15 is 12 rows above it. Of 24 columns, 12; 4 to the left."""
    cases = [{"label": {1: ((8, 12), (10, 16), (2, 4))}}, {"label": {1: ((9, 11), (3, 16), (0, 1))}}]
    assert taken(write(tmp_path / "d", cases)).foreground_size(None) == (24, 8)
    # Rows 16 to 25 end 11 beyond the middle, columns 12 to 19 end 8 beyond.
    after = [{"label": {1: ((12, 20), (16, 26), (2, 4))}}] * 2
    assert taken(write(tmp_path / "e", after)).foreground_size(None) == (22, 16)


def test_the_middle_case_decides(tmp_path: Path) -> None:
    cases = [{"shape": (24, 30, 4)}, {"shape": (26, 40, 9)}, {"shape": (90, 34, 5)}]
    found = taken(write(tmp_path / "d", cases))
    assert (found.median_size, found.median_slices) == ((34, 26), 5)


def test_spacings_that_differ_are_resampled_to_the_median(tmp_path: Path) -> None:
    cases = [{"spacing": (1.0, 1.0, 3.0)}, {"spacing": (0.5, 0.5, 3.0)}, {"spacing": (0.8, 0.8, 3.0)}]
    found = taken(write(tmp_path / "d", cases))
    assert (found.pixel, found.resampled) == ((0.8, 0.8), True)
    # 30 rows of 1, 0.5 and 0.8 mm are 37.5, 18.75 and 30 rows of 0.8 mm.
    assert found.median_size == (30, 24)
    # The coarsest: 30 rows become round(37.5) = 38, so rows 10 to 15 reach from 12.7 to 20.3; the middle is 19, and 13
    # the first whose centre lies within. 24 columns become 30, columns 8 to 11 reach from 10 to 15.
    assert found.foreground_size(found.pixel) == (12, 10)
    assert found.foreground_size(None) == (10, 8)


def test_rounding_of_a_scanner_is_no_difference(tmp_path: Path) -> None:
    cases = [{"spacing": (1.0, 1.0, 3.0)}, {"spacing": (0.998, 1.001, 3.0)}, {"spacing": (1.0, 1.0, 4.0)}]
    found = taken(write(tmp_path / "d", cases))
    assert (found.pixel, found.resampled) == ((1.0, 1.0), False)


def test_oblique_volumes_are_measured_along_their_own_axes(tmp_path: Path) -> None:
    cases = [{"spacing": (0.7, 0.9, 3.0), "angles": (20, -35, 100)}] * 2
    found = taken(write(tmp_path / "d", cases))
    assert found.pixel == pytest.approx((0.9, 0.7))
    assert (found.median_size, found.resampled) == ((30, 24), False)


def test_pixels_twice_as_long_as_wide_become_square(tmp_path: Path) -> None:
    found = taken(write(tmp_path / "d", [{"spacing": (0.5, 1.5, 3.0)}] * 2))
    assert (found.pixel, found.resampled) == ((0.5, 0.5), True)
    assert found.median_size == (90, 24)


def test_grey_values_of_a_deviation(tmp_path: Path) -> None:
    root = write(tmp_path / "d", [{"scale": 1.0}, {"scale": 100.0}, {"scale": 10.0}])
    values = nib.load(root / "imagesTr" / "c2.nii.gz").get_fdata()  # type: ignore[attr-defined]
    assert taken(root).deviations == pytest.approx((values.std(),), rel=1e-5)


def spoil_affine(root: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        image: Any = nib.load(root / part / "c1.nii.gz")
        affine = image.affine.copy()
        affine[:3, 1] = 0
        header = image.header.copy()
        header.set_sform(affine, code=1)
        header["qform_code"] = 0
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), None, header), root / part / "c1.nii.gz")


def spoil_channels(root: Path) -> None:
    image: Any = nib.load(root / "imagesTr" / "c1.nii.gz")
    voxels = np.asanyarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.stack([voxels, voxels], axis=-1), image.affine), root / "imagesTr" / "c1.nii.gz")


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "affine without a spacing": (spoil_affine, r"c1\.nii\.gz.*(spacing|affine)"),
    "other channels than dataset.json says": (spoil_channels, r"c1\.nii\.gz: expected 1 channel\(s\), got 2"),
    "a file that is not there": (lambda root: (root / "labelsTr" / "c0.nii.gz").unlink(), r"labelsTr/c0\.nii\.gz"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_would_spoil_a_training_is_named(what: str, tmp_path: Path) -> None:
    spoil, expected = SPOILT[what]
    root = write(tmp_path / "d", [{}, {}])
    spoil(root)
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        taken(root)


def test_a_class_that_never_occurs_is_refused(tmp_path: Path) -> None:
    labels = {"0": "background", "1": "thing", "2": "ghost"}
    root = write(tmp_path / "d", [{}, {}], labels=labels)
    with pytest.raises(ValueError, match=r"dataset\.json: .* got none of 2 cases with class 2 \(ghost\)"):
        taken(root)
    both = {1: ((8, 12), (10, 16), (2, 4)), 2: ((1, 2), (1, 2), (1, 2))}
    found = taken(write(tmp_path / "e", [{}, {"label": both}], labels=labels))
    assert found.occurrences == {1: 2, 2: 1}


def test_volumes_that_are_not_listed_are_mentioned(tmp_path: Path) -> None:
    root = write(tmp_path / "d", [{}, {}])
    (root / "imagesTr" / "c9.nii.gz").write_bytes((root / "imagesTr" / "c0.nii.gz").read_bytes())
    (root / "imagesTr" / "._c0.nii.gz").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"imagesTr holds 1 volume\(s\) that .*dataset\.json does not list .*c9"):
        assert taken(root).cases == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_window_holds_what_resampling_makes_of_the_foreground(seed: int, tmp_path: Path) -> None:
    """Evaluation refuses to cut foreground off, after training: of any sizes, spacings and places."""
    draw = np.random.default_rng(seed)
    cases = []
    for _ in range(12):
        shape = (*(int(size) for size in draw.integers(17, 44, 2)), 1)
        first = draw.integers(0, 6, 2)
        where = [(int(start), int(size - draw.integers(0, 6))) for start, size in zip(first, shape, strict=False)]
        spacing = (*(float(mm) for mm in draw.uniform(0.5, 2.0, 2)), 6.0)
        cases.append({"shape": shape, "spacing": spacing, "label": {1: (*where, (0, 1))}})
    root = write(tmp_path / "d", cases)
    found = taken(root)
    size = found.foreground_size(found.pixel)
    slices = load_slices(root, "all", spacing=found.pixel, progress=False)
    check_fit(slices, size)
    # No larger than it must be: a row or a column less would be too little, up to a tie at an edge.
    for smaller in ((size[0] - 4, size[1]), (size[0], size[1] - 4)):
        with pytest.raises(ValueError, match="expected foreground only"):
            check_fit(slices, smaller)


def reunit(root: Path, unit: str, names: tuple[str, ...] = ("c0", "c1")) -> None:
    for file in (root / part / f"{name}.nii.gz" for part in ("imagesTr", "labelsTr") for name in names):
        image: Any = nib.load(file)
        image.header.set_xyzt_units(unit)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj).copy(), image.affine, image.header), file)


def test_lengths_in_another_unit_are_refused_where_they_count(tmp_path: Path) -> None:
    """Spacings that agree need no unit; to resample others to some mm it must be known."""
    alike = write(tmp_path / "alike", [{}, {}])
    reunit(alike, "micron")
    assert not taken(alike).resampled
    assert "c0.nii.gz: expected lengths in mm, got micron" in str(taken(alike).not_in_mm)
    apart = write(tmp_path / "apart", [{}, {"spacing": (0.8, 0.8, 3.0)}])
    reunit(apart, "meter", ("c1",))
    with pytest.raises(ValueError, match=r"c1\.nii\.gz: expected lengths in mm, got metre.*resampled"):
        taken(apart)
    reunit(apart, "mm")
    assert taken(apart).resampled


def test_lengths_that_can_only_be_metres_are_named(tmp_path: Path) -> None:
    spacings = [(4e-5, 4e-5, 1e-4), (5e-5, 4e-5, 1e-4)]
    with pytest.raises(ValueError, match=r"c0\.nii\.gz: .*got 4e-05 x 4e-05, perhaps in metres"):
        taken(write(tmp_path / "apart", [{"spacing": spacing} for spacing in spacings]))
    assert taken(write(tmp_path / "alike", [{"spacing": spacings[0]}] * 2)).pixel == (4e-5, 4e-5)


def test_volumes_that_would_be_cut_across_different_axes_are_mentioned(tmp_path: Path) -> None:
    cases = [{}, {}, {"spacing": (3.0, 1.0, 1.0)}]
    with pytest.warns(UserWarning, match=r"2 of them axial slices and 1 of them sagittal slices \(c2\.nii\.gz is sag"):
        taken(write(tmp_path / "d", cases))
    # The same axis of the body in another place of the file is the same plane.
    taken(write(tmp_path / "e", [{}, {"spacing": (3.0, 1.0, 1.0), "angles": (0, 90, 0)}]))


def test_patches_that_would_mostly_be_margin_are_mentioned(tmp_path: Path) -> None:
    shape, content = (40, 50, 8), ((10, 30), (10, 35), (0, 8))
    with pytest.warns(UserWarning, match=r"75% of a slice is empty margins .*CropForegroundd"):
        found = taken(write(tmp_path / "d", [{"shape": shape, "content": content}] * 2))
    assert found.margins == 0.75
    whole = taken(write(tmp_path / "e", [{}, {}]))
    assert whole.margins == 0.0
