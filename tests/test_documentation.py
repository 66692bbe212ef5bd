"""What README.md, CONTRIBUTING.md and docs/ say is there, is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import cli, environment
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _anchors(page: Path) -> set[str]:
    """The headings' anchors as GitHub makes them: lower case, spaces as hyphens, without other punctuation."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), target


def test_the_readme_has_a_row_for_every_verb() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "README.md").read_text(), re.M)
    assert sorted(rows) == sorted(cli.inferops.commands)


def test_every_room_of_the_map_is_there() -> None:
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    files = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(files) > 10
    for name in files:
        there = any((ROOT / folder / name).exists() for folder in ("", "scripts", "inference"))
        assert there or "<name>" in name, name


@pytest.mark.parametrize("room", ["scripts", "inference"])
def test_every_module_stands_on_the_map(room: str) -> None:
    said = (ROOT / "CONTRIBUTING.md").read_text()
    modules = [path.name for path in (ROOT / room).glob("*.py") if not path.name.startswith("__")]
    assert [name for name in modules if f"`{name}`" not in said and f"`{room}/{name}`" not in said] == []


def test_the_keys_that_an_example_explains_are_those_of_the_schema() -> None:
    text = (ROOT / "environments" / "example" / "environment.yaml").read_text()
    explained = re.findall(r"^# ([a-z_]+)(?:\.[a-z]+)? {2,}\S", text, re.M)
    assert set(explained) == set(environment.SCHEMA["properties"])
