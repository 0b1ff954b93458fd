"""Lists of cases as others write them: nnU-Net 2, a file per channel, Windows' paths, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_amat.tasks.segmentation import Decathlon, load_slices
from monai_amat.tasks.segmentation.data.case import check_case

SHAPE = (8, 9, 4)


def volume(path: Path, value: int, shape: tuple[int, ...] = SHAPE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(np.prod(shape)).reshape(shape) % 7 + value
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([1, 1, 3, 1])), path)


def label(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[2:5, 2:5] = 1
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 3, 1])), path)


def description(root: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {"labels": {"background": 0, "thing": 1}, **changes}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    """Two channels in files of their own, without a list."""
    for name in ("b", "a_1"):
        for channel in range(2):
            volume(tmp_path / "imagesTr" / f"{name}_{channel:04d}.nii.gz", 100 * channel)
        label(tmp_path / "labelsTr" / f"{name}.nii.gz")
    volume(tmp_path / "imagesTr" / "._b_0000.nii.gz", 0)
    return description(tmp_path, channel_names={"0": "T1", "1": "T2"}, numTraining=2, file_ending=".nii.gz")


def test_the_layout_of_nnunet_is_read_with_its_channels_in_order(nnunet: Path) -> None:
    data = Decathlon(nnunet)
    assert [case.name for case in data.cases] == ["a_1", "b"]
    image, truth = check_case(data.cases[1], num_classes=2, channels=2)
    assert image.shape == (2, *SHAPE)
    assert [int(channel.min()) for channel in image] == [0, 100]
    assert truth.shape == (1, *SHAPE)
    assert tuple(load_slices(nnunet, "all", progress=False)[0]["image"].shape) == (2, 9, 8)


def test_a_list_that_the_description_of_nnunet_holds_is_read(nnunet: Path) -> None:
    images = ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"]
    entry = {"images": images, "label": "labelsTr/b.nii.gz"}
    description(nnunet, channel_names={"0": "T1", "1": "T2"}, dataset={"patient 7": entry})
    assert [(case.name, len(case.images)) for case in Decathlon(nnunet).cases] == [("patient 7", 2)]


def test_a_list_of_files_is_one_image_of_several_channels(nnunet: Path) -> None:
    images = ["imagesTr/b_0001.nii.gz", "imagesTr/b_0000.nii.gz"]
    description(
        nnunet,
        modality=["T2", "T1"],
        labels=["none", "thing"],
        training=[{"image": images, "label": "labelsTr/b.nii.gz"}],
    )
    data = Decathlon(nnunet)
    assert data.channels == ("T2", "T1")
    assert data.labels == {0: "none", 1: "thing"}
    image, _ = check_case(data.cases[0], num_classes=2, channels=2)
    assert [int(channel.min()) for channel in image] == [100, 0]


@pytest.mark.parametrize("written", [".\\imagesTr\\b_0000.nii.gz", "imagestr/B_0000.NII.gz", "IMAGESTR\\b_0000.nii.gz"])
def test_paths_of_windows_find_their_files(nnunet: Path, written: str) -> None:
    description(nnunet, modality={"0": "T1"}, training=[{"image": written, "label": "labelsTr\\b.nii.gz"}])
    (case,) = Decathlon(nnunet).cases
    assert case.name == "b_0000"
    assert case.image.name == "b_0000.nii.gz"


def test_case_decides_where_two_files_differ_in_it_alone(nnunet: Path) -> None:
    volume(nnunet / "imagesTr" / "B_0000.nii.gz", 5)
    if len(list((nnunet / "imagesTr").glob("[bB]_0000*"))) < 2:
        pytest.skip("the file system ignores case")
    entry = {"image": "imagesTr/B_0000.nii.gz", "label": "labelsTr/b.nii.gz"}
    description(nnunet, modality={"0": "T1"}, training=[entry])
    assert Decathlon(nnunet).cases[0].image.name == "B_0000.nii.gz"
    description(nnunet, modality={"0": "T1"}, training=[{**entry, "image": "imagestr/b_0000.NII.gz"}])
    with pytest.raises(FileNotFoundError, match=r"imagestr/b_0000\.NII\.gz: no such file"):
        Decathlon(nnunet)


def test_one_label_for_several_images_is_refused_with_a_count(tmp_path: Path) -> None:
    for i in range(6):
        volume(tmp_path / "imagesTr" / f"{i}.nii.gz", i)
    label(tmp_path / "labelsTr" / "0.nii.gz")
    entries = [{"image": f"imagesTr/{i}.nii.gz", "label": "labelsTr/0.nii.gz"} for i in range(6)]
    description(tmp_path, modality={"0": "T1"}, training=entries)
    message = r"got 1 file\(s\) .*labelsTr/0\.nii\.gz in 6 entries \(0, 1, 2 and 3 more\); correct the list"
    with pytest.raises(ValueError, match=message):
        Decathlon(tmp_path)
    description(tmp_path, modality={"0": "T1"}, training=[{"image": "imagesTr/1.nii.gz", "label": "imagesTr/1.nii.gz"}])
    with pytest.raises(ValueError, match=r"imagesTr/1\.nii\.gz in 2 entries"):
        Decathlon(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_ending": ".mha"}, "got no such image"),
        ({"channel_names": {"0": "T1"}}, r"expected 1 file\(s\) of case 'a_1', .* got 2"),
        ({"channel_names": {"0": "T1", "1": "T2", "2": "T3"}}, r"_0002\.nii\.gz: no such file; case 'a_1' .* needs 3"),
    ],
)
def test_what_does_not_fit_the_layout_of_nnunet_is_named(nnunet: Path, changes: dict[str, Any], message: str) -> None:
    description(nnunet, **({"channel_names": {"0": "T1", "1": "T2"}} | changes))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Decathlon(nnunet)


def test_channels_of_another_shape_or_grid_are_named(nnunet: Path) -> None:
    volume(nnunet / "imagesTr" / "b_0001.nii.gz", 0, (8, 9, 5))
    with pytest.raises(ValueError, match=r"b_0001\.nii\.gz: expected one channel .*got \(1, 8, 9, 5\)"):
        check_case(Decathlon(nnunet).cases[1], num_classes=2, channels=2)
    turned = nib.Nifti1Image(np.arange(288).reshape(SHAPE).astype(np.int16), np.diag([-1, 1, 3, 1]))
    nib.save(turned, nnunet / "imagesTr" / "b_0001.nii.gz")
    with pytest.raises(ValueError, match=r"b_0001\.nii\.gz: expected the grid of its image .*b_0000\.nii\.gz"):
        check_case(Decathlon(nnunet).cases[1], num_classes=2, channels=2)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_another_number_of_files_than_channels_is_named(nnunet: Path, count: int) -> None:
    images = [f"imagesTr/b_000{i}.nii.gz" for i in range(count)]
    description(nnunet, modality={"0": "T1"}, training=[{"image": images, "label": "labelsTr/b.nii.gz"}])
    with pytest.raises(ValueError, match=rf"got {count} in" if count else "without image"):
        Decathlon(nnunet)
