"""The training cases that a `dataset.json` lists, in the layouts of the Decathlon and of nnU-Net 2."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from monai_amat.tasks.segmentation.data.case import Case
from monai_amat.wording import some

__all__ = ["training_cases"]

_ENDINGS = (".nii.gz", ".nii")


def training_cases(file: Path, content: Mapping[str, Any], channels: int) -> tuple[Case, ...]:
    r"""Find the training cases, and check that their files exist and that no file belongs to two cases.

    - *Decathlon*: `"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, …]`; `image` may also
      be a list with one file per channel.
    - *nnU-Net 2*: without `training`, the files `imagesTr/<case>_0000.nii.gz`, `_0001`, … and `labelsTr/<case>.nii.gz`,
      or the cases under `dataset`.

    Paths are relative to the folder of the file. `\` counts as `/`, and upper and lower case are ignored where only one
    file fits.

    Args:
        file: path of `dataset.json`.
        content: its content.
        channels: number of image channels.

    Returns:
        The cases, sorted by name.

    Raises:
        FileNotFoundError: naming the file, if an image or label does not exist.
        ValueError: if there are no cases, an entry is incomplete, a name occurs twice, or one file belongs to two
            cases.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"):
        ...         Path(folder, name).parent.mkdir(exist_ok=True)
        ...         Path(folder, name).touch()
        ...     (case,) = training_cases(Path(folder, "dataset.json"), {"file_ending": ".nii.gz"}, channels=2)
        >>> case.name, [path.name for path in case.images], case.label.name
        ('a', ['a_0000.nii.gz', 'a_0001.nii.gz'], 'a.nii.gz')
    """
    if "training" in content:
        entries = content["training"]
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{file}: 'training' must be a list with at least one case, got {repr(entries)[:200]}")
        found = [_listed(file, entry, channels) for entry in entries]
    elif isinstance(content.get("dataset"), Mapping) and content["dataset"]:
        found = [
            _listed(
                file, {"image": entry.get("images"), **entry} if isinstance(entry, Mapping) else entry, channels, name
            )
            for name, entry in content["dataset"].items()
        ]
    else:
        found = _scanned(file, str(content.get("file_ending", ".nii.gz")), channels)
    cases = sorted(found, key=lambda case: case.name)
    _check_distinct(file, cases)
    return tuple(cases)


def _listed(file: Path, entry: object, channels: int, name: str | None = None) -> Case:
    """A case of the list."""
    paths: dict[str, list[Path]] = {}
    for key in ("image", "label"):
        value = entry.get(key) if isinstance(entry, Mapping) else None
        files = [value] if isinstance(value, str) else value if key == "image" else None
        if not isinstance(files, list) or not files or not all(isinstance(path, str) for path in files):
            raise ValueError(
                f"{file}: each entry of 'training' needs an 'image' and a 'label', got {repr(entry)[:200]} without "
                f"{key}"
            )
        if len(files) not in (1, channels):
            raise ValueError(
                f"{file}: expected one file, or one per channel ({channels}), as 'image', got {len(files)} in "
                f"{repr(entry)[:200]}"
            )
        paths[key] = [_resolved(file.parent, path) for path in files]
        hidden = next((path for path in files if PurePosixPath(path.replace("\\", "/")).name.startswith("._")), None)
        if hidden is not None:
            raise ValueError(
                f"{file}: expected volumes in 'training', got {hidden}, which macOS adds to archives (AppleDouble) and "
                "which is not a volume; remove the entry"
            )
    if name is None:
        name = paths["image"][0].name.removesuffix(".gz").removesuffix(".nii")
        if len(paths["image"]) > 1:
            name = name.removesuffix("_0000")
    for key, files in paths.items():
        for path in files:
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: no such file, but {file} lists it as the {key} of case {name!r}; restore the file or "
                    "remove the case from the list"
                )
    return Case(name, tuple(paths["image"]), paths["label"][0])


def _scanned(file: Path, ending: str, channels: int) -> list[Case]:
    """The cases of the folders of nnU-Net 2."""
    images, labels = file.parent / "imagesTr", file.parent / "labelsTr"
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    numbers: dict[str, set[int]] = defaultdict(set)
    for path in sorted(images.iterdir()) if images.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match and not path.name.startswith("."):
            numbers[match[1]].add(int(match[2]))
    if not numbers:
        raise ValueError(
            f"{file}: missing key 'training', the list of images and labels; without it, expected the layout of "
            "nnU-Net 2 "
            f"(imagesTr/<case>_0000{ending}, labelsTr/<case>{ending}), got no such image"
        )
    if ending not in _ENDINGS:
        raise ValueError(f"{file}: 'file_ending' must be .nii.gz or .nii, got {ending!r}; convert the volumes to NIfTI")
    cases = []
    for name in numbers:
        paths = [images / f"{name}_{number:04d}{ending}" for number in range(channels)]
        label = labels / f"{name}{ending}"
        missing = next((path for path in (*paths, label) if not path.is_file()), None)
        if missing is not None:
            raise FileNotFoundError(
                f"{missing}: no such file; case {name!r} of {file} needs {channels} image file(s), one per channel, "
                "and a "
                "label; restore the file or move the others of the case away"
            )
        if len(numbers[name]) > channels:
            raise ValueError(
                f"{images}: expected {channels} file(s) of case {name!r}, one per channel of 'channel_names', got "
                f"{len(numbers[name])}; correct {file.name} or the files"
            )
        cases.append(Case(name, tuple(paths), label))
    return cases


def _resolved(root: Path, listed: str) -> Path:
    """The file that an entry means; where none fits, the path as it is written."""
    if (root / listed).is_file():
        return root / listed
    plain = listed.replace("\\", "/")
    here = root
    for part in PurePosixPath(plain).parts:
        if not (here / part).exists():
            alike = [path for path in here.iterdir() if path.name.lower() == part.lower()] if here.is_dir() else []
            if len(alike) != 1:
                return root / plain
            here = alike[0]
        else:
            here = here / part
    return here


def _check_distinct(file: Path, cases: Sequence[Case]) -> None:
    repeated = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if repeated:
        raise ValueError(f"{file}: 'training' lists {some(map(repr, repeated))} more than once; names must be unique")
    users: dict[Path, list[str]] = defaultdict(list)
    for case in cases:
        for path in (*case.images, case.label):
            users[path.resolve()].append(case.name)
    shared = {path: names for path, names in users.items() if len(names) > 1}
    if shared:
        path, names = next(iter(shared.items()))
        raise ValueError(
            f"{file}: expected files of its own for each case, got {len(shared)} file(s) that several entries name, "
            "for "
            f"example {path} in {len(names)} entries ({some(names)}); correct the list"
        )
