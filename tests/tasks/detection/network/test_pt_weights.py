from __future__ import annotations

import copy
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_amat.engines import load_weights, save_weights
from monai_amat.tasks.detection import YOLOv5
from monai_amat.tasks.detection.network.pt_weights import _allowed_globals_as_they_were
from monai_amat.tasks.detection.network.quiet_import import from_ultralytics


@pytest.fixture(scope="module")
def trained() -> YOLOv5:
    torch.manual_seed(5)
    return YOLOv5(3, "n")


def write(path: Path, **content: Any) -> Path:
    """A checkpoint in the package's layout: whole modules, in half precision."""
    torch.save({"epoch": -1, "model": None, "ema": None, "train_args": {"imgsz": 64}, **content}, path)
    return path


def half(network: YOLOv5) -> nn.Module:
    model: nn.Module = copy.deepcopy(network.model).half()
    return model


@pytest.mark.parametrize("key", ["ema", "model"])
def test_the_weights_of_a_checkpoint_are_taken(key: str, trained: YOLOv5, tmp_path: Path) -> None:
    file = write(tmp_path / "best.pt", **{key: half(trained)})
    torch.manual_seed(6)
    loaded = YOLOv5(3, "n", weights=file)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    assert all(value.dtype == torch.float32 for value in loaded.parameters())


def test_averaged_weights_come_first(trained: YOLOv5, tmp_path: Path) -> None:
    other = half(YOLOv5(3, "n"))
    file = write(tmp_path / "last.pt", ema=half(trained), model=other)
    first = next(YOLOv5(3, "n", weights=file).parameters())
    torch.testing.assert_close(first, next(trained.parameters()), rtol=1e-3, atol=1e-3)


def test_another_number_of_classes_is_refused_unless_transferred(trained: YOLOv5, tmp_path: Path) -> None:
    file = write(tmp_path / "coco.pt", ema=half(trained))
    with pytest.raises(ValueError, match=r"coco\.pt: expected weights for 5 classes, got 3; build .* classes=3, or"):
        YOLOv5(5, "n", weights=file)
    torch.manual_seed(7)
    fresh = YOLOv5(5, "n")
    torch.manual_seed(7)
    started = YOLOv5(5, "n", weights=file, transfer=True)
    taken = trained.state_dict()
    for name, value in started.state_dict().items():
        expected = fresh.state_dict()[name] if ".24.cv3." in name else taken[name]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
    started.eval()(torch.zeros(1, 3, 32, 32))


def test_another_size_is_refused(trained: YOLOv5, tmp_path: Path) -> None:
    file = write(tmp_path / "nano.pt", ema=half(trained))
    for settings in ({"classes": 3}, {"classes": 4, "transfer": True}):
        with pytest.raises(ValueError, match=r"nano\.pt: expected the arch.* \(\d+ differences;.*give the size"):
            YOLOv5(size="s", weights=file, **settings)  # type: ignore[arg-type]


class Foreign(nn.Module):
    """A class that the safe loader does not know."""


class Executes:
    """Pickled code: what a file from a stranger may hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


def test_code_in_a_file_is_not_run_unless_trusted(trained: YOLOv5, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = write(tmp_path / "strange.pt", ema=half(trained), extra=Executes(mark))
    with pytest.raises(
        ValueError, match=r"strange\.pt is refused by the safe loader of ultralytics: .+trust=True"
    ) as raised:
        YOLOv5(3, "n", weights=file)
    assert "pathlib" in str(raised.value)  # the reason: what was not allowed
    assert not mark.exists()
    YOLOv5(3, "n", weights=file, trust=True)
    assert mark.read_text() == "run"


def test_what_a_load_allows_is_not_allowed_afterwards(trained: YOLOv5, tmp_path: Path) -> None:
    file = write(tmp_path / "best.pt", ema=half(trained))
    before = sorted(map(str, torch.serialization.get_safe_globals()))
    YOLOv5(3, "n", weights=file)
    assert sorted(map(str, torch.serialization.get_safe_globals())) == before
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(file, weights_only=True)


def test_a_file_that_is_no_checkpoint_says_so(trained: YOLOv5, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no ultralytics weights at .*nowhere\.pt"):
        YOLOv5(3, "n", weights=tmp_path / "nowhere.pt")
    whole = write(tmp_path / "best.pt", ema=half(trained)).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.pt: expected a checkpoint .* damaged"):
        YOLOv5(3, "n", weights=tmp_path / "cut.pt")
    (tmp_path / "model.txt").write_bytes(whole)
    with pytest.raises(ValueError, match=r"model\.txt: expected a \.pt file"):
        YOLOv5(3, "n", weights=tmp_path / "model.txt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("a.txt", "text")
    for trust in (False, True):
        with pytest.raises(ValueError, match=r"other\.pt is refused by the (safe )?loader") as raised:
            YOLOv5(3, "n", weights=tmp_path / "other.pt", trust=trust)
        assert ("trust=True" in str(raised.value)) is not trust


def test_whoever_loads_weights_may_give_such_a_file(trained: YOLOv5, tmp_path: Path) -> None:
    file = write(tmp_path / "best.pt", ema=half(trained))
    fresh = YOLOv5(3, "n")
    assert load_weights(fresh, file) is fresh
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"best\.pt: expected weights for 5 classes, got 3") as caught:
        load_weights(YOLOv5(5, "n"), file)
    assert caught.value.__context__ is None  # not that it is none of ours, which comes first in a traceback


def test_it_is_taken_where_the_package_has_loaded_files_itself(trained: YOLOv5, tmp_path: Path) -> None:
    """Its loader allows its classes for the rest of the process, and then nothing is refused."""
    file = write(tmp_path / "best.pt", ema=half(trained))
    with _allowed_globals_as_they_were():
        from_ultralytics("torch_safe_load")(str(file), safe_only=True)
        loaded = load_weights(YOLOv5(3, "n"), file)
    torch.testing.assert_close(next(loaded.parameters()), next(trained.parameters()), rtol=1e-3, atol=1e-3)


def test_no_other_network_takes_such_a_file_and_no_code_is_run(trained: YOLOv5, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = write(tmp_path / "strange.pt", ema=half(trained), extra=Executes(mark))
    with pytest.raises(ValueError, match=r"strange\.pt is refused by the safe loader of ultralytics"):
        load_weights(YOLOv5(3, "n"), file)
    with pytest.raises(ValueError, match=r"strange\.pt is not a checkpoint .*weights of ultralytics are for YOLOv5"):
        load_weights(nn.Linear(2, 2), file)
    assert not mark.exists()


def test_weights_of_monai_are_pointed_to_their_own_loader(trained: YOLOv5, tmp_path: Path) -> None:
    save_weights(trained, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: expected .* got a bare state dict; load it with .*load_weights"):
        YOLOv5(3, "n", weights=tmp_path / "model.pt")


def test_another_network_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "linear.pt", model=nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"linear\.pt: expected a detection network of ultralytics, got Linear"):
        YOLOv5(3, "n", weights=tmp_path / "linear.pt")


def test_a_script_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    with pytest.raises(ValueError, match=r"script\.pt is refused by the safe loader of ultralytics"):
        YOLOv5(3, "n", weights=tmp_path / "script.pt")


def test_a_file_without_a_network_says_so(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"epoch": 3}, stream)
    (tmp_path / "empty.pt").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match=r"empty\.pt: expected a detection network of ultralytics, got NoneType"):
        YOLOv5(3, "n", weights=tmp_path / "empty.pt")


def test_what_a_file_says_of_its_training_is_checked(trained: YOLOv5, tmp_path: Path) -> None:
    network = half(trained)
    network.__dict__["names"] = {0: "Platelets", 1: "RBC", 2: "WBC"}
    file = write(tmp_path / "best.pt", ema=network, train_args={"imgsz": 640})
    here = {"image_size": (640, 640), "classes": ["Platelets", "RBC", "WBC"]}
    load_weights(YOLOv5(3, "n"), file, here)
    with pytest.raises(ValueError, match=r"image_size \[640, 640\], but this run has \[160, 160\]: give --image_size"):
        load_weights(YOLOv5(3, "n"), file, {**here, "image_size": [160, 160]})
    with pytest.raises(ValueError, match=r"classes \['Platelets', 'RBC', 'WBC'\], but this run has \['RBC'"):
        load_weights(YOLOv5(3, "n"), file, {**here, "classes": ["RBC", "WBC", "Platelets"]})
    # A file that says nothing of either.
    plain = half(trained)
    plain.__dict__["names"] = {i: str(i) for i in range(3)}
    load_weights(
        YOLOv5(3, "n"),
        write(tmp_path / "plain.pt", ema=plain, train_args={}),
        {"image_size": [160, 160], "classes": ["a"]},
    )
