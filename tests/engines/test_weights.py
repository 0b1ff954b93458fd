"""Weights on disk: every form that is accepted, and refusals that name the file."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from ignite.engine import Engine
from monai.handlers import CheckpointSaver
from torch import nn

from monai_amat.engines import load_weights, save_weights
from monai_amat.tasks.segmentation import nnunet_2d


def network(width: int = 2, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))


def same(first: nn.Module, second: nn.Module) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def checkpoint_saver(trained: nn.Module, path: Path) -> None:
    saved = {"model": trained, "optimizer": torch.optim.SGD(trained.parameters(), 0.1)}
    engine = Engine(lambda engine, batch: None)
    CheckpointSaver(str(path.parent), saved, save_final=True, final_filename=path.name).attach(engine)
    engine.run([0])


FORMS: dict[str, Callable[[nn.Module, Path], None]] = {
    "save_weights": save_weights,
    "state dict": lambda trained, path: torch.save(trained.state_dict(), path),
    "MONAI's checkpoint": checkpoint_saver,
    "resume checkpoint": lambda trained, path: torch.save(
        {"format": 1, "epoch": 3, "objects": {"network": trained.state_dict(), "optimizer": {"state": {}}}}, path
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_gives_the_same_weights(form: str, tmp_path: Path) -> None:
    trained = network(seed=1)
    trained.get_buffer("1.running_mean").fill_(0.5)
    FORMS[form](trained, tmp_path / "model.pt")
    fresh = network(seed=2)
    assert not same(fresh, trained)
    assert load_weights(fresh, tmp_path / "model.pt") is fresh
    assert same(fresh, trained)


def test_saving_replaces_a_file_whole_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "deep" / "model.pt"
    save_weights(network(seed=1), file)

    def break_off(content: Any, stream: Any) -> None:
        stream.write(b"half of it")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", break_off)
        with pytest.raises(OSError, match="no space left"):
            save_weights(network(seed=2), file)
    assert [path.name for path in file.parent.iterdir()] == ["model.pt"]
    assert same(load_weights(network(), file), network(seed=1))


def test_weights_are_read_on_a_machine_without_the_device_they_were_saved_on(tmp_path: Path) -> None:
    """`map_location`: what torch does with a CUDA file where there is no CUDA is to fail."""
    given: list[Any] = []
    original = torch.load
    save_weights(network(), tmp_path / "model.pt")

    def load(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", load)
        load_weights(network(), tmp_path / "model.pt")
    assert given == [{"map_location": "cpu", "weights_only": True}]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*absent\.pt; train the network first"):
        load_weights(network(), tmp_path / "absent.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_weights(network(), tmp_path)


class Harmful:
    """Unpickled without care, it would run code."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Harmful, "ran", True)


def truncated(path: Path) -> None:
    save_weights(network(), path)
    path.write_bytes(path.read_bytes()[:700])


BROKEN: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text('{"thresholds": 1}'),
    "truncated": truncated,
    "code": lambda path: torch.save({"model": Harmful()}, path),
    "bare pickle with code": lambda path: path.write_bytes(pickle.dumps(Harmful())),
    "TorchScript": lambda path: torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)), str(path)),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_is_no_checkpoint_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    BROKEN[kind](file)
    with pytest.raises(ValueError, match=r"model\.pt is not a checkpoint that loads with weights_only=True") as caught:
        load_weights(network(), file)
    assert not Harmful.ran
    # torch's own text goes on for lines, and advises to try again with weights_only=False.
    assert "\n" not in str(caught.value)
    assert "False" not in str(caught.value)


@given(content=st.binary(max_size=60))
@example(content=b"g.")
@example(content=b"\x80\x02X\x01\x00\x00\x00\xff.")
def test_random_bytes_are_refused_by_name(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "random.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"random\.pt (is not a checkpoint|holds no weights)"):
        load_weights(network(), file)


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"optimizer": {"lr": 0.1}}, [torch.ones(1)], {"model": 3}])
def test_a_file_without_weights_says_so(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt holds no weights"):
        load_weights(network(), tmp_path / "model.pt")


def test_a_file_that_holds_a_network_says_what_to_save_instead(tmp_path: Path) -> None:
    torch.save({"model": network()}, tmp_path / "whole.pt")
    with pytest.raises(
        ValueError, match=r"whole\.pt is not .* a whole network, not its weights .* save its state_dict"
    ):
        load_weights(network(), tmp_path / "whole.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.pt is not a checkpoint") as caught:
        load_weights(network(), tmp_path / "text.pt")
    assert "whole network" not in str(caught.value)


def test_weights_of_other_settings_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    save_weights(network(seed=1), tmp_path / "model.pt", {"image_size": [100, 80], "reader": "mean"})
    here, before = network(seed=2), network(seed=2)
    message = (
        f"{tmp_path / 'model.pt'} was made with image_size [100, 80], but this run has [200, 160]: "
        'give --image_size "[100, 80]"'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_weights(here, tmp_path / "model.pt", {"image_size": [200, 160]})
    assert same(here, before)
    with pytest.raises(ValueError, match='made with reader mean, but this run has None: give --reader "mean"'):
        load_weights(here, tmp_path / "model.pt", {"image_size": (100, 80), "reader": None})


@pytest.mark.parametrize("asked", [{}, {"image_size": (100, 80)}, {"image_size": [100, 80], "unknown": 3}])
def test_settings_that_agree_or_are_not_asked_for_or_not_kept_say_nothing(asked: Any, tmp_path: Path) -> None:
    save_weights(network(seed=1), tmp_path / "model.pt", {"image_size": [100, 80], "reader": "mean"})
    assert same(load_weights(network(), tmp_path / "model.pt", asked), network(seed=1))


@pytest.mark.parametrize("form", FORMS)
def test_files_that_keep_no_settings_load_as_ever(form: str, tmp_path: Path) -> None:
    FORMS[form](network(seed=1), tmp_path / "model.pt")
    assert same(load_weights(network(), tmp_path / "model.pt", {"image_size": [200, 160]}), network(seed=1))
    torch.save({"model": network(seed=1).state_dict(), "settings": "those of June"}, tmp_path / "own.pt")
    assert same(load_weights(network(), tmp_path / "own.pt", {"image_size": [200, 160]}), network(seed=1))


def test_another_architecture_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    save_weights(network(width=3, seed=1), tmp_path / "model.pt")
    here, before = network(seed=2), network(seed=2)
    with pytest.raises(ValueError, match=r"6 differences; 0\.bias is \(3,\), the network has \(2,\); 0\.weight is"):
        load_weights(here, tmp_path / "model.pt")
    assert same(here, before)
    save_weights(nn.Sequential(nn.Conv2d(1, 2, 3)), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"5 differences; 1\.bias is missing; 1\.num_batches_tracked is missing"):
        load_weights(here, tmp_path / "model.pt")
    save_weights(nn.Sequential(*network(), nn.PReLU()), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"1 differences; 2\.weight is not part of the network"):
        load_weights(here, tmp_path / "model.pt")
    assert same(here, before)


def test_a_network_of_another_width_is_told_from_the_one_that_was_trained(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"in_channels": 1, "out_channels": 3, "patch_size": (32, 32)}
    save_weights(nnunet_2d(base_features=4, **settings), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="give the settings that it was trained with"):
        load_weights(nnunet_2d(base_features=8, **settings), tmp_path / "model.pt")


# ------------------------------------------------------------------ wrapped networks


WRAPPED: dict[str, Callable[[nn.Module], dict[str, Any]]] = {
    "DDP": lambda net: nn.DataParallel(net).state_dict(),
    "compile": lambda net: torch.compile(net, backend="eager").state_dict(),  # type: ignore[attr-defined]
    "compile of DDP": lambda net: {f"_orig_mod.module.{name}": value for name, value in net.state_dict().items()},
    "DDP of compile": lambda net: {f"module._orig_mod.{name}": value for name, value in net.state_dict().items()},
    "a compiled part": lambda net: {
        name.replace("0.", "0._orig_mod.", 1): value for name, value in net.state_dict().items()
    },
    "averaged": lambda net: torch.optim.swa_utils.AveragedModel(net).state_dict(),
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("form", [lambda state: state, lambda state: {"model": state}], ids=["bare", "model"])
def test_weights_of_a_wrapped_network_fit_the_network(kind: str, form: Any, tmp_path: Path) -> None:
    trained = network(seed=1)
    torch.save(form(WRAPPED[kind](trained)), tmp_path / "model.pt")
    assert same(load_weights(network(seed=2), tmp_path / "model.pt"), trained)


def test_a_wrapped_network_is_saved_and_loaded_by_its_own_names(tmp_path: Path) -> None:
    trained: Any = torch.compile(network(seed=1), backend="eager")
    save_weights(nn.DataParallel(trained), tmp_path / "model.pt")
    assert same(load_weights(network(seed=2), tmp_path / "model.pt"), trained._orig_mod)
    wrapped = nn.DataParallel(network(seed=2))
    load_weights(wrapped, tmp_path / "model.pt")
    assert same(wrapped.module, trained._orig_mod)
    partly = network(seed=2)
    compiled: Any = torch.compile(partly[0], backend="eager")
    partly[0] = compiled
    load_weights(partly, tmp_path / "model.pt")
    assert torch.equal(partly.eval()(torch.ones(1, 1, 3, 3)), trained.eval()(torch.ones(1, 1, 3, 3)))


def test_a_part_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    class Holder(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.module = network(seed=seed)

    save_weights(Holder(1), tmp_path / "model.pt")
    assert same(load_weights(Holder(2), tmp_path / "model.pt"), Holder(1))


# ------------------------------------------------------------------ weights that are not finite, files that are damaged


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(name: str, value: float, tmp_path: Path) -> None:
    spoilt, fresh = network(seed=1), network(seed=2)
    with torch.no_grad():
        spoilt.state_dict()[name].flatten()[0] = value
    with pytest.raises(ValueError, match=rf"model\.pt holds weights that are not finite \(1 entry: {re.escape(name)}"):
        save_weights(spoilt, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
    for form in ("state dict", "MONAI's checkpoint", "resume checkpoint"):
        FORMS[form](spoilt, tmp_path / "model.pt")
        with pytest.raises(ValueError, match=r"model\.pt holds weights that are not finite"):
            load_weights(fresh, tmp_path / "model.pt")
    assert same(fresh, network(seed=2))


def test_a_mask_may_hold_infinities(tmp_path: Path) -> None:
    masked = network()
    masked.register_buffer("attention_mask", torch.tensor([0.0, -torch.inf]))
    save_weights(masked, tmp_path / "model.pt")
    assert same(load_weights(masked, tmp_path / "model.pt"), masked)


@pytest.mark.parametrize("form", ["save_weights", "state dict"])
def test_one_flipped_byte_never_changes_weights_in_silence(form: str, tmp_path: Path) -> None:
    trained, file = network(seed=1), tmp_path / "model.pt"
    FORMS[form](trained, file)
    whole = file.read_bytes()
    refused = 0
    for place in range(0, len(whole), 5):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        fresh = network(seed=2)
        try:
            load_weights(fresh, file)
        except ValueError as error:
            refused += 1
            assert "model.pt" in str(error)
            continue
        assert same(fresh, trained) or form == "state dict"
    assert refused > len(whole) / 5 / 3


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_named(share: float, tmp_path: Path) -> None:
    wide = nn.Linear(300, 300)
    file = tmp_path / "model.pt"
    save_weights(wide, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"model\.pt is (not a checkpoint|damaged)"):
        load_weights(wide, file)


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*model\.pt"):
        save_weights(network(), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
