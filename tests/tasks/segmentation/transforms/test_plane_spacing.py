"""In-plane resampling: where every pixel goes in the world, and back again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from monai_amat.tasks.segmentation.transforms.plane_spacing import PlaneSpacing, PlaneSpacingd


def affine(spacing: tuple[float, ...], angles: tuple[float, ...] = (0, 0, 0)) -> torch.Tensor:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    matrix[:3, 3] = (-20, 4.5, 11)
    return torch.from_numpy(matrix)


def test_halving_is_the_mean_of_two_by_two() -> None:
    volume = MetaTensor(torch.rand(2, 8, 12, 3), affine=affine((1.0, 1.0, 4.0)))
    halved = PlaneSpacing((2.0, 2.0))(volume)
    expected = volume.as_tensor().reshape(2, 4, 2, 6, 2, 3).mean(dim=(2, 4))
    torch.testing.assert_close(torch.as_tensor(halved), expected, check_dtype=False)


@given(
    st.tuples(st.integers(6, 20), st.integers(6, 20), st.integers(1, 4)),
    st.tuples(*[st.floats(0.4, 2.5)] * 2),
    st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_what_lies_where_in_the_world_stays_there(
    shape: tuple[int, int, int], spacing: tuple[float, float], angles: tuple[float, float, float]
) -> None:
    """A volume that holds its own world coordinates, linear in the voxel index, holds them after resampling."""
    matrix = affine((1.0, 1.2, 3.0), angles)
    index = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), axis=0).reshape(3, -1)
    world = (matrix[:3, :3].numpy() @ index + matrix[:3, 3:].numpy()).reshape(3, *shape)
    made = PlaneSpacing(spacing)(MetaTensor(torch.from_numpy(world).float(), affine=matrix))
    assert made.shape[3] == shape[2]
    assert [size * own / want for size, own, want in zip(shape, (1.0, 1.2), spacing, strict=False)] == pytest.approx(
        list(made.shape[1:3]), abs=0.51
    )
    assert isinstance(made, MetaTensor)
    own = np.asarray(made.affine)
    inner = tuple(slice(size // 4, size - size // 4) for size in made.shape[1:3])  # edges have nothing beyond
    for i in range(*inner[0].indices(made.shape[1])):
        for j in range(*inner[1].indices(made.shape[2])):
            expected = own[:3, :3] @ [i, j, 0] + own[:3, 3]
            if 1 < i < made.shape[1] - 2 and 1 < j < made.shape[2] - 2:
                np.testing.assert_allclose(made[:, i, j, 0].numpy(), expected, atol=2e-2)


def test_the_way_back_ends_on_the_original_grid_with_any_channels() -> None:
    matrix = affine((1.0, 1.2, -3.0), (12, -20, 33))
    item = PlaneSpacingd("image", spacing=(0.7, 2.1))({"image": MetaTensor(torch.rand(1, 13, 17, 5), affine=matrix)})
    wide = item["image"].expand(3, -1, -1, -1)
    transform = PlaneSpacingd("image", spacing=(0.7, 2.1))
    item = transform({"image": MetaTensor(torch.rand(1, 13, 17, 5), affine=matrix)})
    back = transform.inverse({"image": item["image"].repeat(3, 1, 1, 1)})["image"]
    assert back.shape == (3, 13, 17, 5)
    np.testing.assert_allclose(np.asarray(back.affine), matrix.numpy(), atol=1e-6)
    assert wide.shape[1:3] == (19, 10)
    assert not back.applied_operations


def test_one_transform_serves_volumes_of_many_sizes() -> None:
    transform = PlaneSpacing((2.0, 2.0))
    made = [transform(MetaTensor(torch.rand(1, size, size, 2), affine=torch.eye(4))) for size in (8, 20, 12)]
    assert [volume.shape[1] for volume in made] == [4, 10, 6]
    assert [transform.inverse(volume).shape[1] for volume in reversed(made)] == [12, 20, 8]


def test_none_changes_nothing() -> None:
    item = {"image": MetaTensor(torch.rand(1, 5, 6, 2), affine=affine((1.0, 2.0, 3.0)))}
    transform = PlaneSpacingd("image", spacing=None)
    assert transform(item)["image"] is item["image"]
    assert transform.inverse(item)["image"] is item["image"]


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -2.0), (float("nan"), 1.0), (1.0, 1.0, 1.0)])
def test_what_is_no_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="two positive numbers of mm"):
        PlaneSpacing(spacing)


@pytest.mark.parametrize(
    ("unit", "length", "said"),
    [
        (3, 1.0, "expected lengths in mm, got micron"),
        (1, 1.0, "expected lengths in mm, got metre"),
        (17, 1.0, "got metre"),
        (0, 1e-4, "perhaps in metres"),
    ],
)
def test_lengths_that_are_no_mm_are_refused_by_the_files_name(unit: int, length: float, said: str) -> None:
    matrix = torch.diag(torch.tensor([length, length, 3.0, 1.0], dtype=torch.float64))
    meta = {"xyzt_units": np.array(unit, dtype=np.uint8), "filename_or_obj": "/data/a.nii"}
    volume = MetaTensor(torch.rand(1, 6, 5, 4), affine=matrix, meta=meta)
    with pytest.raises(ValueError, match=rf"/data/a\.nii: .*{said}.*resampled to 0\.5 x 0\.5 mm"):
        PlaneSpacing((0.5, 0.5))(volume)
    assert PlaneSpacing(None)(volume) is volume


@pytest.mark.parametrize("unit", [0, 2, 10])
def test_mm_and_an_unknown_unit_are_mm(unit: int) -> None:
    volume = MetaTensor(torch.rand(1, 6, 5, 4), affine=torch.eye(4), meta={"xyzt_units": unit})
    assert PlaneSpacing((0.5, 0.5))(volume).shape == (1, 12, 10, 4)
