"""`init`: a bundle for a folder that no bundle was written for, and what is refused before one is."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_amat.__main__ import main
from monai_amat.tasks.segmentation import nnunet_2d, suggest_noise, write_phantom
from monai_amat.templates import paper_settings, planned_settings, write_bundle


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("init") / "Task77_Two", volumes=9, shape=(16, 22, 14), channels=2)


@pytest.fixture
def data(phantom: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(phantom, tmp_path / "Task77_Two"))


def train_of(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "configs" / "train.json").read_text()))


def respace(data: Path, spacings: list[tuple[float, float, float]]) -> None:
    for part in ("imagesTr", "labelsTr"):
        for file, spacing in zip(sorted((data / part).iterdir()), spacings, strict=False):
            image: Any = nib.load(file)
            nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), np.diag([*spacing, 1.0])), file)


def test_what_is_written_fits_the_folder(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--dataset_dir", str(phantom), "--bundle_dir", str(tmp_path / "b")]) == 0
    train = train_of(tmp_path / "b")
    assert (train["in_channels"], train["num_classes"]) == (2, 3)
    assert (train["dataset_dir"], train["n_splits"]) == (str(phantom), 3)
    assert train["spacing"] is None
    patch = train["patch_size"]
    assert patch[0] >= 22 and patch[1] >= 16
    levels = list(suggest_noise(patch, 2).evaluation)
    curve = json.loads((tmp_path / "b" / "configs" / "robustness.json").read_text())
    assert curve["noise_levels"] == levels
    assert curve["examples"]["class_names"] == "$['Anterior', 'Posterior'] if @num_classes == 3 else None"
    # Stated per image and per value, on the screen and in the bundle.
    printed = capsys.readouterr().out
    per_value = levels[-1] / np.sqrt(patch[0] * patch[1] * 2)
    assert f"{levels[-1]:g} ({per_value:.3f}) as an L2 norm over a {patch[0]}×{patch[1]} slice" in printed
    text = (tmp_path / "b" / "docs" / "README.md").read_text()
    assert re.search(rf"\| noise level +\| {levels[-1]:g} +\| {per_value:.3f} ", text)
    assert f"compare --bundle {tmp_path / 'b'} --dataset_dir {phantom}" in printed
    network = ConfigParser(train).get_parsed_content("network_def")
    assert network.input_block.conv1.conv.in_channels == 2


def test_spacings_that_differ_are_written_down(data: Path) -> None:
    respace(data, [(1.0, 1.0, 3.0), (0.8, 0.8, 3.0), (0.9, 0.9, 3.0)] * 3)
    assert planned_settings(data, progress=False).spacing == (0.9, 0.9)


def test_foreground_off_the_middle_is_evaluated_whole(data: Path) -> None:
    """Most of each volume is empty, so that the patch is small; the structure lies in one corner of it."""
    for part in ("imagesTr", "labelsTr"):
        for file in (data / part).iterdir():
            image: Any = nib.load(file)
            voxels = np.asanyarray(image.dataobj)
            room = [(0, 60), (0, 0), (0, 0)] + [(0, 0)] * (voxels.ndim - 3)
            nib.save(nib.Nifti1Image(np.pad(voxels, room), image.affine), file)
    with pytest.warns(UserWarning, match=r"% of a slice is empty margins"):
        settings = planned_settings(data, progress=False)
    assert settings.patch_size[1] < 40
    assert settings.eval_size is not None
    # About 76 columns, middle 38; the structure lies left of column 16.
    assert settings.eval_size[1] > 2 * (38 - 16)
    poolings = settings.poolings or (2, 2)
    assert settings.eval_size[1] % 2 ** poolings[1] == 0


def test_plans_of_nnunet_take_the_place_of_planning(phantom: Path, tmp_path: Path) -> None:
    plans = tmp_path / "nnUNetPlans.json"
    configuration = {
        "patch_size": [40, 48],
        "batch_size": 9,
        "spacing": [1.0, 1.0],
        "UNet_base_num_features": 16,
        "unet_max_num_features": 48,
        "pool_op_kernel_sizes": [[1, 1], [2, 2], [2, 2], [2, 2]],
    }
    plans.write_text(json.dumps({"configurations": {"2d": configuration}}))
    words = ["init", "--dataset_dir", str(phantom), "--bundle_dir", str(tmp_path / "b"), "--plans", str(plans)]
    assert main(words) == 0
    train = train_of(tmp_path / "b")
    assert (train["patch_size"], train["batch_size"], train["spacing"]) == ([40, 48], 9, None)
    network = ConfigParser(train).get_parsed_content("network_def")
    ours = nnunet_2d(in_channels=2, out_channels=3, patch_size=(40, 48), features=[16, 32, 48, 48], poolings=(3, 3))
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }
    # Another spacing than the data have is kept.
    configuration["spacing"] = [0.5, 0.5]
    plans.write_text(json.dumps({"configurations": {"2d": configuration}}))
    assert planned_settings(phantom, plans=plans, progress=False).spacing == (0.5, 0.5)


def test_the_papers_settings_and_ones_own_need_no_data(tmp_path: Path) -> None:
    assert main(["init", "--settings", "heart", "--bundle_dir", str(tmp_path / "b")]) == 0
    assert train_of(tmp_path / "b")["patch_size"] == [320, 256]
    file = tmp_path / "mine.json"
    file.write_text(dataclasses.replace(paper_settings("heart"), batch_size=6).to_json())
    words = ["--settings", str(file), "--dataset_dir", str(tmp_path)]
    assert main(["init", *words, "--bundle_dir", str(tmp_path / "c")]) == 0
    assert (train_of(tmp_path / "c")["batch_size"], train_of(tmp_path / "c")["dataset_dir"]) == (6, str(tmp_path))


def rename(data: Path, **content: Any) -> None:
    file = data / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | content))


def test_names_that_configurations_could_take_for_something_else_come_through(data: Path, tmp_path: Path) -> None:
    """References, expressions, macros and IDs of MONAI, and the templates' own placeholders."""
    names = ["a@patch_size b", "{{name}} 100% #1 'so' \\\\ $x"]
    rename(data, labels={"0": "background", "1": names[0], "2": names[1]}, modality={"0": "T2@1", "1": "{{ADC}}"})
    assert main(["init", "--dataset_dir", str(data), "--bundle_dir", str(tmp_path / "b")]) == 0
    configs = tmp_path / "b" / "configs"
    parser = ConfigParser()
    parser.read_config([str(configs / "train.json"), str(configs / "robustness.json")])
    parser.read_meta(str(configs / "metadata.json"))
    assert parser.get_parsed_content("examples#class_names") == names
    formats = json.loads((configs / "metadata.json").read_text())["network_data_format"]
    assert list(formats["outputs"]["pred"]["channel_def"].values()) == ["background", *names]
    assert list(formats["inputs"]["image"]["channel_def"].values()) == ["T2@1", "{{ADC}}"]


@pytest.mark.parametrize("name", ["@patch_size", "$print(1)", "%train.json"])
def test_names_that_begin_as_more_than_text_are_refused(
    data: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset_dir", str(data), "--bundle_dir", str(tmp_path / "b")]
    for content in ({"labels": {"0": "background", "1": name, "2": "b"}}, {"modality": {"0": name, "1": "b"}}):
        shutil.copy(data / "dataset.json", tmp_path / "kept.json")
        rename(data, **content)
        assert f"the name {name!r} of a channel or class begins with {name[0]}" in refusal(words, capsys)
        shutil.copy(tmp_path / "kept.json", data / "dataset.json")
    assert not (tmp_path / "b").exists()


def test_the_next_command_can_be_pasted_from_paths_with_spaces(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data.rename(tmp_path / "My data; all")
    assert main(["init", "--dataset_dir", str(folder), "--bundle_dir", str(tmp_path / "my bundle")]) == 0
    words = shlex.split(capsys.readouterr().out.partition("next: ")[2])
    for key, value in (
        ("--bundle", str(tmp_path / "my bundle")),
        ("--dataset_dir", str(folder)),
        ("--output_dir", "runs/My data; all"),
    ):
        assert words[words.index(key) + 1] == value


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["init", *words]) == 1
    return capsys.readouterr().err


def test_what_no_bundle_can_be_written_for_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--bundle_dir", str(tmp_path / "b")]
    assert "give --dataset_dir" in refusal(target, capsys)
    nowhere = tmp_path / "nowhere"
    assert f"{nowhere}: no such folder" in refusal([*target, "--dataset_dir", str(nowhere)], capsys)
    both = ["--settings", "heart", "--plans", "p.json"]
    assert "give --plans or --settings" in refusal([*target, *both], capsys)
    assert "got a pickle of version 1" in refusal([*target, "--dataset_dir", str(data), "--plans", "p.pkl"], capsys)
    content = json.loads((data / "dataset.json").read_text())
    content.update(training=content["training"][:5], numTraining=5)
    (data / "dataset.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="does not list"):
        message = refusal([*target, "--dataset_dir", str(data)], capsys)
    assert f"{data / 'dataset.json'} lists 5 cases; at least 6 are needed" in message
    assert not (tmp_path / "b").exists()
    main(["init", "--settings", "heart", *target])
    assert "differs from what this version writes" in refusal(["--settings", "prostate", *target], capsys)


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (lambda root: root.write_text("x"), "is a file"),
        (lambda root: (root.mkdir(), (root / "notes.txt").write_text("x")), "is not empty and holds no bundle"),
        (lambda root: write_bundle(paper_settings("heart"), root), "holds a bundle for /workspace/data/Task02_Heart"),
    ],
)
def test_a_taken_folder_is_named_before_any_volume_is_read(
    data: Path, taken: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for volume in data.rglob("*.nii.gz"):
        volume.write_bytes(b"no volume")
    taken(tmp_path / "b")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert main(["init", "--dataset_dir", str(data), "--bundle_dir", str(tmp_path / "b")]) == 1
    assert expected in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("option", ["--bundle_dir", "--dataset_dir"])
def test_a_path_that_monai_would_change_is_refused(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"--bundle_dir": str(tmp_path / "b"), "--dataset_dir": str(tmp_path / "d"), option: str(tmp_path / "a #1")}
    assert main(["init", *(word for pair in paths.items() for word in pair)]) == 1
    assert f"{option} is {tmp_path / 'a #1'}: MONAI replaces #" in capsys.readouterr().err
