"""Arrows run one way: which room may import which, optional packages in one place, one version number."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import monai_amat

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "monai_amat"
CORE = ["attacks", "losses", "margins", "engines", "handlers", "data", "robustness"]
SMALL = {"seeding", "files", "changes", "checks", "locks", "progress", "markdown", "ending", "wording"}
"""Single modules that any room may import; they import nothing of ours."""
ALLOWED = {
    **{name: set() for name in SMALL},
    "attacks": SMALL,
    "losses": SMALL,
    "data": SMALL,
    "margins": {*SMALL, "attacks", "losses"},
    "engines": {*SMALL, "attacks", "losses", "margins"},
    "handlers": {*SMALL, "attacks", "losses", "margins", "engines", "data"},
    "robustness": {*SMALL, *CORE},
    "tasks": {*SMALL, *CORE},
    "integrations": {*SMALL, *CORE, "tasks"},
    "templates": {*SMALL, *CORE, "tasks"},
    "study": {*SMALL, *CORE, "tasks", "templates"},
    "bundle_run": SMALL,
    "__main__": {*SMALL, *CORE, "tasks", "integrations", "templates", "study"},
}
TASKS = ["segmentation", "landmarks", "detection"]


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    """All modules but the front door, which names all rooms."""
    return [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]


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
    assert {room(file) for file in sources()} == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_arrows_run_one_way(name: str) -> None:
    for file in sources():
        if room(file) == name:
            ours = {part.split(".")[1] for part in imports(file) if part.startswith("monai_amat.")}
            assert ours - {name} <= ALLOWED[name], f"{file.relative_to(ROOT)} imports {ours - {name} - ALLOWED[name]}"


def test_no_cycle_between_rooms() -> None:
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        free = {name for name, uses in ALLOWED.items() if name not in done and uses - {name} <= done}
        assert free, f"a cycle among {set(ALLOWED) - done}"
        done |= free


@pytest.mark.parametrize("task", TASKS)
def test_tasks_do_not_import_one_another(task: str) -> None:
    for file in (PACKAGE / "tasks" / task).rglob("*.py"):
        others = [name for other in TASKS if other != task for name in imports(file) if f"tasks.{other}" in name]
        assert not others, f"{file.relative_to(ROOT)} imports {others}"


def test_the_front_door_names_what_is_there() -> None:
    typed: dict[str, str] = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monai_amat."):
            typed |= {name.name: str(node.module).removeprefix("monai_amat.") for name in node.names}
    assert typed == monai_amat._HOME
    for name in monai_amat.__all__:
        assert getattr(monai_amat, name) is not None
    assert len(typed) <= 50


def test_the_front_door_loads_nothing_before_it_is_needed() -> None:
    heavy = "'torch', 'monai', 'ignite', 'matplotlib'"
    program = f"import sys, monai_amat; print([name for name in sys.modules if name in ({heavy})])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_attacks_losses_and_margins_load_neither_ignite_nor_matplotlib() -> None:
    """The losses of the tasks, such as `DiceCELoss`, do: they use `monai.losses`, which imports both."""
    heavy = "'ignite', 'matplotlib'"
    program = (
        "import sys; from monai_amat import Absolute, PerSample, ProjectedGradientDescent; "
        f"print([name for name in sys.modules if name in ({heavy})])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_attacks_and_losses_are_pure_pytorch() -> None:
    for file in (*PACKAGE.glob("attacks/*.py"), PACKAGE / "losses" / "base.py"):
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


def test_contributing_shows_the_rooms_and_their_arrows() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    groups = {"small": SMALL, "core": set(CORE), "–": set[str]()}
    shown: dict[str, set[str]] = {}
    for names, _, uses in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.+) \| ([\w, –]+) \|$", text, re.MULTILINE):
        allowed = set().union(*(groups.get(use, {use}) for use in uses.split(", ")))
        shown |= dict.fromkeys(re.findall(r"\w+", names), allowed)
    assert shown == ALLOWED
