"""Checkpoints of other runs, and objects that cannot be saved."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import IterableDataset

from monai_amat.handlers.resume import ResumeHandler
from tests.handlers.resuming import Run, names

# --------------------------------------------------------------- files of other runs


def refused(match: str, folder: Path, **other: Any) -> None:
    with pytest.raises(RuntimeError, match=match) as error:
        Run(folder, **other).run()
    assert "resume_epoch=0001.pt" in str(error.value)


class Margins:
    """Refuses the state of another data set, as the margins do."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def state_dict(self) -> dict[str, str]:
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, str]) -> None:
        if state["fingerprint"] != self.fingerprint:
            raise ValueError("margins belong to another data set")


def test_files_of_other_runs_are_refused_by_name(tmp_path: Path) -> None:
    Run(tmp_path, epochs=1).run()
    refused("made with iterations per epoch 6, but this run has 4", tmp_path, batch=3)
    refused(
        r"another architecture of 'network'.*0\.weight: \(2, 1, 3, 3\) there, \(3, 1, 3, 3\) here", tmp_path, width=3
    )
    refused(r"cannot restore 'optimizer'.*is not SGD", tmp_path, optimizer=torch.optim.SGD)
    refused(r"lacks nothing, and holds \['guard', 'scheduler'\]", tmp_path, settings={"objects": None})
    margins = {"margins": Margins("a")}
    refused(r"lacks \['margins'\], and holds \['guard', 'scheduler'\]", tmp_path, settings={"objects": margins})


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    settings = {"objects": {"margins": Margins("a")}, "fingerprint": "a"}
    Run(tmp_path, epochs=1, settings=settings).run()
    refused("a data set of fingerprint a, but this run has b", tmp_path, settings={**settings, "fingerprint": "b"})
    other = {"objects": {"margins": Margins("b")}, "fingerprint": None}
    refused("cannot restore 'margins': margins belong to another data set", tmp_path, settings=other)


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 2}, tmp_path / "resume_epoch=0001.pt")
    refused("is not a checkpoint of format 1", tmp_path)


# ----------------------------------------------------------------------- settings


class Odd:
    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def test_state_that_needs_code_to_load_is_refused_before_training(tmp_path: Path) -> None:
    odd = Odd({"history": [1, {"path": Path("x")}]})
    with pytest.raises(TypeError, match=r"Path at odd\['history'\]\[1\]\['path'\]"):
        Run(tmp_path, settings={"objects": {"odd": odd}}).run()
    assert names(tmp_path) == []


def test_numpy_numbers_are_saved_as_pythons(tmp_path: Path) -> None:
    first = Odd({"best": np.float64(0.5), 3: (np.int64(2), None, True, "text", torch.ones(2))})
    Run(tmp_path, epochs=1, settings={"objects": {"odd": first}}).run()
    second = Odd(None)
    second.state = {}
    Run(tmp_path, epochs=1, settings={"objects": {"odd": second}}).run()
    assert second.state["best"] == 0.5
    assert second.state[3][:4] == (2, None, True, "text")


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2]),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9),
        lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9),
        lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
            optimizer, [torch.optim.lr_scheduler.ConstantLR(optimizer)] * 2, [2]
        ),
    ],
)
def test_torch_schedulers_can_be_saved(tmp_path: Path, scheduler: Any) -> None:
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters())
    objects = {"scheduler": scheduler(optimizer)}
    Run(tmp_path, epochs=1, settings={"objects": objects}).run()
    Run(tmp_path, epochs=1, settings={"objects": objects}).run()


def test_objects_are_checked(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"objects\['bad'\] is a int"):
        ResumeHandler(tmp_path, {"bad": 3})
    with pytest.raises(ValueError, match=r"objects\['network'\]"):
        ResumeHandler(tmp_path, {"network": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match=r"every .epochs. must be at least 1, got 0"):
        ResumeHandler(tmp_path, every=0)


def test_loader_without_length_is_refused(tmp_path: Path) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[dict]:
            return iter(())

    network = nn.Linear(1, 1)
    engine = SupervisedTrainer(
        "cpu", 1, DataLoader(Stream()), network, torch.optim.SGD(network.parameters(), 0.1), nn.MSELoss()
    )
    ResumeHandler(tmp_path).attach(engine)
    with pytest.raises(ValueError, match="without length"):
        engine.run()


def test_a_run_under_other_settings_is_refused(tmp_path: Path) -> None:
    """Two arms that share a folder by mistake have the same objects, data and epoch length."""
    Run(tmp_path, epochs=1, settings={"settings": {"arm": "sat", "epsilon": 5.0}}).engine.run()
    other = Run(tmp_path, epochs=2, settings={"settings": {"arm": "sat", "epsilon": 10.0}})
    with pytest.raises(RuntimeError, match=r"with epsilon 5\.0, but this run has 10\.0"):
        other.engine.run()
    same = Run(tmp_path, epochs=2, settings={"settings": {"arm": "sat", "epsilon": 5.0}})
    same.engine.run()
    assert same.checkpoint.resumed_from is not None


# --------------------------------------------------------------- weights that are not finite, damaged files, two runs


class Spoil:
    """Puts a NaN into the network at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        if engine.state.epoch == self.epoch:
            with torch.no_grad():
                engine.network[0].weight[0] = float("nan")


def test_a_network_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"after epoch 2, 'network' holds weights that are not finite .*0\.weight"):
        Run(tmp_path, Spoil(2)).run()
    assert names(tmp_path) == ["resume_epoch=0001.pt"]


def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    Run(tmp_path, epochs=1).run()
    file = tmp_path / "resume_epoch=0001.pt"
    content = torch.load(file, weights_only=True)
    content["objects"]["network"]["0.weight"][0] = float("inf")
    del content["digest"]
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"resume_epoch=0001\.pt holds weights that are not finite"):
        Run(tmp_path).run()


def test_a_flipped_byte_is_found_and_the_checkpoint_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Run(tmp_path, epochs=2).run()
    file = tmp_path / "resume_epoch=0002.pt"
    content = bytearray(file.read_bytes())
    weight = torch.load(file, weights_only=True)["objects"]["network"]["4.weight"]
    content[content.find(weight.numpy().tobytes()) + 8] ^= 1
    file.write_bytes(content)
    resumed = Run(tmp_path, epochs=3).run()
    assert resumed.checkpoint.resumed_from == tmp_path / "resume_epoch=0001.pt"
    assert "resume_epoch=0002.pt is damaged: the checksum of" in caplog.text


def test_a_second_training_in_the_folder_is_refused_before_it_touches_a_file(tmp_path: Path) -> None:
    (tmp_path / ".resume_epoch=0001.pt.x1y2").write_bytes(b"of the other training")
    code = (
        "import sys; from monai_amat.locks import FolderLock; "
        "FolderLock(sys.argv[1], '').acquire(); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".resume.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=rf"a training of another process .process {other.pid} on"):
            Run(tmp_path)
        other.communicate("")
    assert (tmp_path / ".resume_epoch=0001.pt.x1y2").is_file()
    Run(tmp_path, epochs=1).run()
