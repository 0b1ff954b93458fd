"""Landmarks drawn on the radiograph that they were found in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_amat.robustness.figure import PALETTE, new_figure, save_figure

__all__ = ["draw_landmarks"]


def draw_landmarks(
    image: Tensor | np.ndarray, points: Tensor | np.ndarray, path: str | Path, *, names: Sequence[str] | None = None
) -> None:
    """Draw numbered landmarks on a radiograph.

    Args:
        image: `(H, W)` or `(C, H, W)`, of which the first channel is shown; where it is a MetaTensor, its affine
            says where its pixels lie among the native ones.
        points: `(L, 2)`, (y, x) in native pixels, such as
            `points_to_native` gives; NaN is passed over.
        path: `.png`, `.pdf` or `.svg` to write, whole or not at all.
        names: of the landmarks, for a key beside the image.

    Raises:
        ValueError: for other shapes, another number of names than of points, or an image that was turned or sheared.
    """
    native = _numpy(points)
    pixels = _numpy(image)
    pixels = pixels[0] if pixels.ndim == 3 else pixels
    if pixels.ndim != 2 or native.ndim != 2 or native.shape[1] != 2:
        raise ValueError(
            f"expected an image (H, W) or (C, H, W) and points (L, 2), got {tuple(image.shape)} and {native.shape}"
        )
    if names is not None and len(names) != len(native):
        raise ValueError(f"{len(native)} points need as many names, got {len(names)}")
    top, bottom, left, right = _extent(image, pixels.shape)
    tall = 9.0
    wide = tall * min(max((right - left) / (bottom - top), 0.3), 3.0)
    figure = new_figure(wide + (0 if names is None else 2.2), tall)
    axes = figure.add_subplot()
    axes.imshow(pixels, cmap="gray", extent=(left, right, bottom, top), interpolation="nearest")
    axes.set_axis_off()
    found = [(i, y, x) for i, (y, x) in enumerate(native, 1) if np.isfinite(y) and np.isfinite(x)]
    axes.plot([x for _, _, x in found], [y for _, y, _ in found], ".", color=PALETTE[1], markersize=6)
    for i, y, x in found:
        # Beside the point, by as much on the page whatever the image's size.
        axes.annotate(str(i), (x, y), (4, 4), textcoords="offset points", color=PALETTE[5], fontsize=8)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    if names is not None:
        keys = [Line2D([], [], linestyle="none", label=f"{i}  {name}") for i, name in enumerate(names, 1)]
        figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=8, handlelength=0)
    save_figure(figure, path)


def _extent(image: Tensor | np.ndarray, shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Top, bottom, left and right edge of an image in native pixels."""
    affine = _numpy(image.affine) if isinstance(image, MetaTensor) else np.eye(3)
    if affine[0, 1] or affine[1, 0]:
        raise ValueError(f"the image was turned or sheared: draw on the image as loaded, affine {affine.tolist()}")
    edges = [affine[axis, axis] * place + affine[axis, -1] for axis in (0, 1) for place in (-0.5, shape[axis] - 0.5)]
    return edges[0], edges[1], edges[2], edges[3]


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    plain = convert_to_tensor(values, track_meta=False)
    return np.asarray(plain.detach().cpu().numpy(), dtype=np.float64)
