"""Arrows run one way: which room may import which, optional packages in one place, one version number."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import monai_amat

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "monai_amat"
ALLOWED = {
    "seeding": set(),
    "files": set(),
    "changes": set(),
    "attacks": {"seeding"},
    "losses": set(),
    "margins": {"losses", "files", "changes"},
    "engines": {"attacks", "losses", "margins"},
    "transforms": {"attacks", "losses", "engines"},
    "networks": {"files"},
    "metrics": set(),
    "data": {"seeding", "files", "transforms"},
    "handlers": {"seeding", "files", "changes", "attacks", "losses", "margins", "engines", "networks"},
    "robustness": {"files", "changes", "attacks", "losses", "margins", "engines", "metrics", "data"},
    "trainers": {"seeding", "files", "changes", "data", "attacks", "losses", "margins", "engines", "networks"},
    "planning": {"data", "networks", "transforms"},
    "templates": {"files", "data", "networks", "planning"},
    "study": {"files", "changes", "data", "networks", "robustness"},
    "__main__": {"data", "study", "templates"},
    "__init__": set(),
}


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{file}: imports from above its own folder"
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def test_every_room_is_listed() -> None:
    assert {room(file) for file in PACKAGE.rglob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_arrows_run_one_way(name: str) -> None:
    for file in PACKAGE.rglob("*.py"):
        if room(file) == name:
            ours = {part.split(".")[1] for part in imports(file) if part.startswith("monai_amat.")}
            assert ours - {name} <= ALLOWED[name], f"{file.relative_to(ROOT)} imports {ours - {name} - ALLOWED[name]}"


def test_no_cycle_between_rooms() -> None:
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        free = {name for name, uses in ALLOWED.items() if name not in done and uses <= done}
        assert free, f"a cycle among {set(ALLOWED) - done}"
        done |= free


def test_attacks_and_losses_are_pure_pytorch() -> None:
    for file in (*PACKAGE.glob("attacks/*.py"), *PACKAGE.glob("losses/base.py")):
        assert not [name for name in imports(file) if name.split(".")[0] in ("monai", "ignite")], file


def test_optional_packages_stay_out() -> None:
    for file in PACKAGE.rglob("*.py"):
        heavy = {name.split(".")[0] for name in imports(file)} & {"ultralytics", "torchvision", "foolbox"}
        assert not heavy, f"{file.relative_to(ROOT)} imports {heavy}"


def test_files_are_read_in_one_sitting() -> None:
    long = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert not {name: lines for name, lines in long.items() if lines > 345}


def test_one_version_number() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^version: \"?{re.escape(monai_amat.__version__)}\"?$", citation, re.MULTILINE)
    assert f"## [{monai_amat.__version__}]" in changelog


def test_unknown_subpackage_is_an_attribute_error() -> None:
    assert monai_amat.attacks.ProjectedGradientDescent().steps == 20  # type: ignore[attr-defined, unused-ignore]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        monai_amat.nothing  # noqa: B018 - the access is the test
