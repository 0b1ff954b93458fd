from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from monai.transforms import Compose, EnsureChannelFirstd, Flipd, LoadImaged, SaveImage
from torch import nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import AdversarialNoised
from monai_amat.tasks.segmentation import DiceCELoss

LOSS = DiceCELoss(smooth=1.0)
PGD = ProjectedGradientDescent(steps=4, rel_step=0.5)


def net(spatial: int = 2, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(5)
    conv: Any = nn.Conv2d if spatial == 2 else nn.Conv3d
    middle: list[nn.Module] = [nn.BatchNorm2d(4), nn.Dropout(0.5)] if norm else [nn.LeakyReLU()]
    return nn.Sequential(conv(1, 4, 3, padding=1), *middle, conv(4, 2, 1))


def noised(network: nn.Module | None = None, **settings: Any) -> AdversarialNoised:
    given: dict[str, Any] = {"loss": LOSS, "attack": PGD, "epsilon": 2.0, **settings}
    return AdversarialNoised(network=net() if network is None else network, **given)


def item(*shape: int) -> dict[Any, Any]:
    source = torch.Generator().manual_seed(7)
    size = shape or (8, 8)
    return {
        "image": torch.randn(1, *size, generator=source),
        "label": torch.randint(0, 2, (1, *size), generator=source).float(),
    }


def loss_of(network: nn.Module, image: torch.Tensor, label: torch.Tensor) -> float:
    with torch.no_grad():
        return float(LOSS(network.eval()(image[None]), label[None]))


def test_the_noise_has_the_size_asked_for_and_does_harm() -> None:
    network, of = net(), item()
    result = noised(network)(of)
    assert float((result["image"] - of["image"]).norm()) == pytest.approx(2.0, rel=1e-5)
    assert loss_of(network, result["image"], of["label"]) > loss_of(network, of["image"], of["label"]) + 0.05
    random = noised(network, attack=ProjectedGradientDescent(steps=0))(of)["image"]
    assert loss_of(network, result["image"], of["label"]) > loss_of(network, random, of["label"])
    assert result["label"] is of["label"]
    assert set(result) == {"image", "label"}
    assert torch.equal(of["image"], item()["image"])  # the item itself is left alone


def test_the_network_is_attacked_in_eval_mode_and_left_as_it_was() -> None:
    network = net(norm=True).train()
    network[1].eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    seen: list[bool] = []
    network.register_forward_hook(lambda module, args, output: seen.append(module.training))
    first = noised(network)(item())["image"]
    assert seen == [False] * 4
    assert torch.equal(noised(network)(item())["image"], first)
    assert [module.training for module in network] == [True, False, True, True]
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_no_noise_is_the_clean_image() -> None:
    assert torch.equal(noised(epsilon=0.0)(item())["image"], item()["image"])


def test_the_noisy_image_may_have_a_key_of_its_own() -> None:
    of = {**item(), "other": 3}
    of["image"] = MetaTensor(of["image"], meta={"name": "case"})
    of["scan"], of["truth"] = of.pop("image"), of.pop("label")
    result = noised(key="scan", label_key="truth", noisy_key="attacked")(of)
    assert set(result) == {"scan", "truth", "other", "attacked"}
    assert result["scan"] is of["scan"]
    torch.testing.assert_close(result["attacked"].as_tensor(), noised()(item())["image"])
    # Later transforms change one without the other.
    flipped: Any = Flipd("attacked", spatial_axis=0)(result)
    assert len(flipped["attacked"].applied_operations) == 1
    assert len(flipped["scan"].applied_operations) == 0
    torch.testing.assert_close(flipped["scan"].affine, of["scan"].affine)
    flipped["attacked"].meta["name"] = "changed"
    assert flipped["scan"].meta["name"] == "case"


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_are_on_inside(around: Any) -> None:
    loss = DiceCELoss(activation="sigmoid", smooth=1.0)
    noise = noised(loss=loss)
    expected = noise({**item(), "label": item()["label"].repeat(2, 1, 1)})["image"]
    with around():
        result = noise({**item(), "label": item()["label"].repeat(2, 1, 1)})["image"]
    torch.testing.assert_close(result, expected)


def test_a_given_seed_counts_and_else_the_image_itself() -> None:
    start = noised(attack=ProjectedGradientDescent(steps=0))
    first = start(item())["image"]
    torch.manual_seed(11)
    assert torch.equal(start(item())["image"], first)
    seeded = start({**item(), "sample_seed": 5})["image"]
    assert not torch.equal(seeded, first)
    assert torch.equal(start({**item(), "sample_seed": 5})["image"], seeded)
    other = item()
    other["image"] += 1e-3
    assert not torch.allclose(start(other)["image"] - other["image"], first - item()["image"], atol=1e-4)


def test_numpy_items() -> None:
    of: dict[Any, Any] = {name: value.numpy() for name, value in item().items()}
    result = noised()(of)["image"]
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, noised()(item())["image"])


def oblique() -> np.ndarray:
    """An affine with rotation, unequal spacing and an origin."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    return turn @ np.diag([1.0, 2.0, 3.0, 1.0]) + np.array([[0, 0, 0, 10], [0, 0, 0, -20], [0, 0, 0, 5], [0, 0, 0, 0]])


def test_a_noisy_volume_is_saved_where_the_clean_one_lies(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    for name, array in (("image", source.normal(size=(8, 8, 6))), ("label", source.integers(0, 2, (8, 8, 6)))):
        nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), oblique()), tmp_path / f"{name}.nii.gz")
    pipeline = Compose(
        [
            LoadImaged(["image", "label"]),
            EnsureChannelFirstd(["image", "label"]),
            noised(inferer=SliceInferer(roi_size=(8, 8), spatial_dim=2, sw_batch_size=3), epsilon=5.0),
        ]
    )
    result = pipeline({name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")})
    assert isinstance(result["image"], MetaTensor)
    assert not result["image"].is_batch
    save = SaveImage(tmp_path / "out", output_postfix="noisy", separate_folder=False, resample=False, print_log=False)
    save(result["image"])
    saved: Any = nibabel.load(tmp_path / "out" / "image_noisy.nii.gz")
    clean: Any = nibabel.load(tmp_path / "image.nii.gz")
    np.testing.assert_allclose(saved.affine, oblique(), atol=1e-5)
    difference = saved.get_fdata() - clean.get_fdata()
    assert np.linalg.norm(difference) == pytest.approx(5.0, rel=1e-4)


def test_a_volume_is_attacked_slice_by_slice_through_a_2d_network() -> None:
    network, of = net(), item(8, 8, 4)
    inferer = SliceInferer(roi_size=(8, 8), spatial_dim=2, sw_batch_size=2)
    result = noised(network, inferer=inferer)(of)["image"]
    assert result.shape == (1, 8, 8, 4)
    assert float((result - of["image"]).norm()) == pytest.approx(2.0, rel=1e-5)

    def loss(image: torch.Tensor) -> float:
        slices = torch.stack([network(image[None, ..., number])[0] for number in range(4)], dim=-1)
        return float(LOSS(slices[None], of["label"][None]).detach())

    assert loss(result) > loss(of["image"]) + 0.02


def test_a_volume_through_a_3d_network() -> None:
    network, of = net(3), item(6, 6, 4)
    result = noised(network)(of)["image"]
    assert loss_of(network, result, of["label"]) > loss_of(network, of["image"], of["label"])


@pytest.mark.parametrize("missing", ["image", "label"])
def test_a_missing_key_is_named(missing: str) -> None:
    of = item()
    del of[missing]
    with pytest.raises(KeyError, match=f"AdversarialNoised needs '{missing}', got an item with"):
        noised()(of)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_impossible_levels_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="epsilon must be finite and not negative"):
        noised(epsilon=wrong)


def test_losses_that_are_not_per_sample_are_refused() -> None:
    with pytest.raises(TypeError, match=r"MSELoss is not a PerSampleLoss.*PerSample\(loss\)"):
        noised(loss=nn.MSELoss())


def test_attacks_that_follow_a_boundary_are_refused() -> None:
    from monai_amat.attacks import BoundaryPGD

    with pytest.raises(ValueError, match="BoundaryPGD stops at an acceptance boundary"):
        noised(attack=BoundaryPGD())


def test_images_that_cannot_be_attacked_are_refused() -> None:
    with pytest.raises(TypeError, match=r"floating-point inputs, got torch\.int64"):
        noised()({**item(), "image": item()["image"].long()})
