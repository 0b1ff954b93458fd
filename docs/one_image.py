"""Draw `one_image.png`: one hippocampus slice, clean and under attack, and what two networks make of it.

    python docs/one_image.py DATASET_DIR STUDY_DIR

`DATASET_DIR` is `Task04_Hippocampus`. `STUDY_DIR` holds the networks, trained by

    monai-amat compare --bundle bundles/hippocampus_amat --overlays small --dataset_dir DATASET_DIR \
        --output_dir STUDY_DIR --arms std sat:10 --train_cases 30 --iterations_per_epoch 20 --max_epochs 40 \
        --val_interval 10

These are arms of `docs/results/hippocampus`, seed 0. Each network is attacked with noise of its own (white box).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from monai.transforms import ResizeWithPadOrCropd
from torch.utils.data import default_collate

from monai_amat import DiceCELoss, ProjectedGradientDescent, load_weights
from monai_amat.robustness.attacked import attack_each
from monai_amat.robustness.figure import NoiseWindow, new_figure, save_figure, show_grey
from monai_amat.tasks.segmentation import Example, choose_sample, load_slices, make_examples, nnunet_2d

SIZE = (56, 40)
EPSILON = 6.0
ARMS = {"STD": "std", "SAT 10": "sat_10"}
COLOURS = {"anterior": "#E69F00", "posterior": "#56B4E9"}


def main(dataset_dir: Path, study: Path) -> None:
    """Attack the slice under each network and draw the picture beside this script."""
    network_of = {
        arm: load_weights(
            nnunet_2d(in_channels=1, out_channels=3, patch_size=SIZE, base_features=8),
            study / "arms" / folder / "seed=0" / "models" / "model.pt",
        )
        for arm, folder in ARMS.items()
    }
    fit = ResizeWithPadOrCropd(("image", "label"), SIZE)
    slices = [fit(item) for item in load_slices(dataset_dir, "test", progress=False)]
    chosen = slices[choose_sample([item["label"] for item in slices], num_classes=3)]
    batch = default_collate([{key: chosen[key].as_tensor() for key in ("image", "label")}])
    attack = ProjectedGradientDescent(steps=100, rel_step=0.05)
    attacked = attack_each(network_of, batch, loss=DiceCELoss(), attack=attack, epsilon=EPSILON)
    draw(make_examples(attacked, num_classes=3), Path(__file__).with_name("one_image.png"))


def draw(examples: list[Example], path: Path) -> None:
    """Two rows, clean and noisy; a column for the image itself, then one column per network."""
    window = NoiseWindow.of([(example.clean, example.noisy) for example in examples])
    first = examples[0]
    rms = EPSILON / math.sqrt(first.clean.size)
    figure = new_figure(8.2, 6.2)
    above, below = figure.subplots(2, len(examples) + 2)
    show_grey(above[0], first.clean, window.low, window.high, "clean image")
    show_grey(above[1], first.clean, window.low, window.high, "truth")
    _outline(above[1], first.truth)
    noise = (first.noisy - first.clean) * window.factor
    show_grey(below[0], first.noisy, window.low, window.high, "attacked image (STD)")
    show_grey(below[1], noise, -window.half, window.half, f"its noise × {window.factor:g}")
    for one, top, bottom in zip(examples, above[2:], below[2:], strict=True):
        show_grey(top, one.clean, window.low, window.high, f"{one.arm}, clean: Dice {one.clean_dice:.2f}")
        _outline(top, one.clean_pred)
        show_grey(bottom, one.noisy, window.low, window.high, f"{one.arm}, attacked: Dice {one.noisy_dice:.2f}")
        _outline(bottom, one.noisy_pred)
    figure.suptitle(
        f"Noise of ε = {EPSILON:g}: {rms:.2f} standard deviations of grey values per pixel (RMS)", fontsize=10
    )
    keys = [Line2D([], [], color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save_figure(figure, path, dpi=100)


def _outline(axes: Axes, masks: np.ndarray) -> None:
    for mask, colour in zip(masks, COLOURS.values(), strict=True):
        if mask.any():
            # One pixel of background around the mask closes outlines at the image's edge.
            rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
            axes.contour(columns, rows, np.pad(mask.astype(float), 1), levels=[0.5], colors=[colour], linewidths=1.4)
    axes.set_xlim(-0.5, masks.shape[2] - 0.5)
    axes.set_ylim(masks.shape[1] - 0.5, -0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
