"""The slicing frame: which axis, which order, and that every voxel keeps its place in the world."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor, set_track_meta
from monai.transforms import Compose, Invertd, NormalizeIntensityd
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes

from monai_amat.tasks.segmentation.transforms.slice_plane import SlicePlane, SlicePlaned, slice_axis


def rotation(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


def affine_of(spacing: tuple[float, float, float], seed: int | None = None) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if seed is None else rotation(seed)) * spacing
    affine[:3, 3] = [-12.5, 7.0, 31.0]
    return affine


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((1.0, 1.0, 1.0), 2),
        ((1.25, 1.25, 1.37), 2),
        ((3.6, 0.6, 0.6), 0),
        ((0.6, 3.6, 0.6), 1),
        ((2.0, 2.0, 1.0), 1),  # the last of equals in (x, y, z) is the first in nnU-Net's (z, y, x)
        ((2.0, 1.0, 2.0), 2),
        ((1.0000001, 1.0, 0.9999999), 2),
    ],
)
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_axis_of_largest_spacing(spacing: tuple[float, float, float], axis: int, seed: int | None) -> None:
    assert slice_axis(affine_of(spacing, seed)) == axis
    assert slice_axis(torch.as_tensor(affine_of(spacing, seed))) == axis


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "finite 4x4"),
        (np.full((4, 4), np.nan), "finite 4x4"),
        (np.diag([1.0, 0.0, 1.0, 1.0]), r"positive spacing along each axis, got \[1.0, 0.0, 1.0\]"),
    ],
)
def test_impossible_affine(affine: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slice_axis(affine)


@pytest.mark.parametrize(("spacing", "order"), [((1, 1, 1), (1, 0, 2)), ((3, 1, 1), (2, 1, 0)), ((1, 3, 1), (2, 0, 1))])
def test_axes_are_in_nnunets_order(spacing: tuple[float, float, float], order: tuple[int, int, int]) -> None:
    voxels = torch.rand(2, 4, 5, 6)
    turned = SlicePlane()(MetaTensor(voxels, affine=torch.as_tensor(affine_of(spacing))))
    assert isinstance(turned, MetaTensor)
    assert torch.equal(turned.as_tensor(), voxels.permute(0, *(i + 1 for i in order)))
    # The same through nnU-Net's eyes: an array in (z, y, x), its slicing axis brought to the front.
    seen = voxels.numpy().transpose(0, 3, 2, 1)
    seen = np.moveaxis(seen, 3 - order[2], 1)
    np.testing.assert_array_equal(np.moveaxis(turned.numpy(), 3, 1), seen)


@given(
    axis=st.integers(0, 2),
    seed=st.integers(0, 2**16),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    channels=st.integers(1, 2),
)
def test_voxels_keep_their_place_and_return(axis: int, seed: int, shape: tuple[int, int, int], channels: int) -> None:
    spacing = tuple(3.0 if i == axis else 1.0 + 0.2 * i for i in range(3))
    affine = affine_of(spacing, seed)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    volume = MetaTensor(torch.rand(channels, *shape, generator=generator), affine=torch.as_tensor(affine))
    transform = SlicePlane()
    turned = transform(volume)
    assert isinstance(turned, MetaTensor)
    assert turned.shape[-1] == shape[axis]

    # Sample the turned volume at the world position of every voxel of the original.
    here = np.indices(shape).reshape(3, -1).T
    there = apply_affine(np.linalg.inv(np.asarray(turned.affine)) @ affine, here)
    np.testing.assert_allclose(there, there.round(), atol=1e-6)
    i, j, k = there.round().astype(int).T
    np.testing.assert_array_equal(turned.numpy()[:, i, j, k], volume.numpy().reshape(channels, -1))

    back = transform.inverse(turned)
    assert isinstance(back, MetaTensor)
    assert torch.equal(back.as_tensor(), volume.as_tensor())
    np.testing.assert_allclose(back.affine, affine)
    assert back.applied_operations == []


def test_input_is_left_alone() -> None:
    volume = MetaTensor(torch.rand(1, 3, 4, 5), affine=torch.as_tensor(affine_of((1, 1, 1))))
    before = volume.affine.clone()
    SlicePlane()(volume)
    assert torch.equal(volume.affine, before)
    assert volume.applied_operations == []


def test_label_is_turned_as_its_image() -> None:
    item = {
        "image": MetaTensor(torch.rand(1, 3, 4, 5), affine=torch.as_tensor(affine_of((3, 1, 1)))),
        "label": MetaTensor(torch.rand(1, 3, 4, 5), affine=torch.as_tensor(affine_of((1, 1, 3)))),
    }
    turned = SlicePlaned(("image", "label"))(item)
    assert turned["image"].shape == turned["label"].shape == (1, 5, 4, 3)


def test_invertd_brings_a_prediction_back_on_the_grid() -> None:
    affine = affine_of((1.0, 3.0, 1.2), seed=3)
    image = MetaTensor(torch.rand(1, 4, 5, 6), affine=torch.as_tensor(affine))
    preprocessing = Compose([SlicePlaned("image"), NormalizeIntensityd("image", channel_wise=True)])
    item = preprocessing({"image": image})
    # A network's output carries the input's metadata but none of its operations' meaning: plain arithmetic stands in.
    item["pred"] = MetaTensor((item["image"] > 0).as_tensor().float())
    out = Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=True, to_tensor=True)(item)
    mean = image.as_tensor().mean()
    assert torch.equal(out["pred"].as_tensor(), (image.as_tensor() > mean).float())
    np.testing.assert_allclose(out["pred"].affine, affine)
    assert aff2axcodes(out["pred"].affine) == aff2axcodes(affine)


def test_missing_keys() -> None:
    item = {"image": torch.rand(1, 3, 4, 5)}
    assert SlicePlaned(("image", "label"), allow_missing_keys=True)(item)["image"].shape == (1, 4, 3, 5)
    with pytest.raises(KeyError, match="label"):
        SlicePlaned(("image", "label"))(item)


def test_refuses_what_is_no_volume() -> None:
    with pytest.raises(ValueError, match=r"channel-first volume \(C, x, y, z\), got shape \(4, 5, 6\)"):
        SlicePlane()(torch.rand(4, 5, 6))


def test_without_metadata_the_last_axis_is_cut() -> None:
    voxels = torch.rand(1, 3, 4, 5)
    set_track_meta(False)
    try:
        turned = SlicePlane()(voxels)
    finally:
        set_track_meta(True)
    assert type(turned) is torch.Tensor
    assert torch.equal(turned, voxels.permute(0, 2, 1, 3))
