"""The Python of README and the documentation runs as it stands there, and what they link to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
ANCHORED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Headings as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_only_one_page_holds_python() -> None:
    assert [page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page)] == ["docs/own_workflow.md"]


@pytest.mark.slow
def test_the_workflow_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "own_workflow.md"):
        exec(compile(block, "own_workflow.md", "exec"), names)
    assert names["trainer"].state.epoch == 2  # type: ignore[attr-defined]
    assert (tmp_path / "thresholds.json").is_file()
    margins = names["margins"].values  # type: ignore[attr-defined]
    assert margins.max() > 2.5  # some samples were accepted
    assert len(names["rows"]) == 24  # type: ignore[arg-type]
    assert (tmp_path / "runs" / "curve" / "curve.png").is_file()
    assert "norm of the noise: 2.00" in capsys.readouterr().out


@pytest.mark.parametrize("page", ANCHORED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)", index.read_text(encoding="utf-8"))
    }
    assert {page for page in PAGES if page.parent != ROOT} - {index} <= linked


def test_readme_takes_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
