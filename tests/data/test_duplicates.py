"""Identical files: found whatever they are called, and nothing else found."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.data import duplicates
from monai_amat.data.duplicates import identical_files


def write(folder: Path, contents: list[bytes]) -> list[Path]:
    paths = [folder / f"{i:03d}.bin" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


@given(contents=st.lists(st.binary(max_size=3), max_size=8))
def test_the_same_as_comparing_every_pair(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    paths = write(tmp_path_factory.mktemp("files"), contents)
    together = {
        (a, b) for group in identical_files(paths) for a, b in itertools.combinations(range(len(paths)), 2)
        if paths[a] in group and paths[b] in group
    }  # fmt: skip
    assert together == {(a, b) for a, b in itertools.combinations(range(len(paths)), 2) if contents[a] == contents[b]}


@pytest.mark.parametrize("place", [0, 1 << 17, (1 << 18) - 1])
def test_one_byte_anywhere_tells_large_files_apart(tmp_path: Path, place: int) -> None:
    content = bytes(1 << 18)
    changed = bytearray(content)
    changed[place] = 1
    paths = write(tmp_path, [content, bytes(changed), content])
    assert identical_files(paths) == [(paths[0], paths[2])]


def test_order_is_that_of_the_paths(tmp_path: Path) -> None:
    paths = write(tmp_path, [b"a", b"b", b"b", b"a", b"c"])
    assert identical_files(paths) == [(paths[0], paths[3]), (paths[1], paths[2])]
    assert identical_files(paths[::-1]) == [(paths[3], paths[0]), (paths[2], paths[1])]
    assert identical_files([*paths, *paths]) == identical_files(paths)
    assert identical_files([]) == []


def test_only_look_alikes_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = duplicates._whole
    read: list[Path] = []

    def counted(path: Path) -> Any:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(duplicates, "_whole", counted)
    paths = write(tmp_path, [b"aa", b"ab", b"a", b"aa"])
    identical_files(paths)
    assert read == [paths[0], paths[3]]


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        identical_files([tmp_path / "none"])
