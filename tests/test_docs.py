"""What pages point at is there: files, other pages, headings; and what has to be on them is on them.

Sphinx checks the same for the pages it builds; here also for those that are read in the repository.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import ge2e_transforms
from ge2e_transforms import errors

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]


def text_of(page: Path) -> str:
    """Text of a page without comments and blocks of code, with what it includes."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in re.findall(r"^```\{include\} (.*)$", text, flags=re.MULTILINE):
        text += (page.parent / name).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What '#...' may lead to, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^()\s]+)\)", text_of(page)) if "://" not in link]


def test_links_are_looked_at() -> None:
    assert sum(len(links(page)) for page in PAGES) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    if "{include}" in page.read_text(encoding="utf-8"):
        return  # its links are looked at where they stand
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_every_page_can_be_reached(page: Path) -> None:
    lists = re.findall(r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert page == DOCS / "index.md" or str(page.relative_to(DOCS).with_suffix("")) in "\n".join(lists).splitlines()


def test_every_public_name_is_on_the_api_page() -> None:
    api = (DOCS / "api.md").read_text()
    for name in ge2e_transforms.__all__:
        assert f"ge2e_transforms.{name}\n" in api or f"`{name}`" in api, name
    assert "pipeline.main.run\n" in api


def test_every_error_says_what_to_do() -> None:
    page = (DOCS / "guides" / "troubleshooting.md").read_text()
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, (errors.Ge2eError, errors.DiskError)) and kind is not errors.Ge2eError:
            assert f"`{name}`" in page, name
            reason = getattr(kind, "reason", "")
            assert not reason or f"`{reason}`" in page, reason


@pytest.fixture(scope="module")
def flow() -> Any:
    """`docs/flow.py`, which draws the picture."""
    spec = importlib.util.spec_from_file_location("flow", DOCS / "flow.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_of_the_graph_as_it_is(flow: Any) -> None:
    assert flow.stages(flow.GRAPH.read_text()) == [
        *("ReadManifest", "PlanDataset", "GroupByShard", "WriteShards", "CommitDataset")
    ]
    assert flow.PICTURE.read_text() == flow.picture(), "run docs/flow.py"


# The map of the code: docs/architecture.md.


@pytest.fixture(scope="module")
def tables() -> list[list[dict[str, str]]]:
    """The tables of the page, as rows by the headings of their columns; the first column is called 'what', too."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        found.append([dict(zip(["what", *head[1:]], row, strict=True)) for row in rows])
    return found


def named(tables: list[list[dict[str, str]]], column: str) -> list[str]:
    cells = [row.get(column, "") for table in tables for row in table]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def files_of(package: str) -> list[str]:
    """Files of a package without their ending, and its folders."""
    modules = [path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__init__"]
    folders = [f"{path.name}/" for path in (ROOT / package).iterdir() if path.is_dir() and path.name != "__pycache__"]
    return sorted([*modules, *folders])


@pytest.mark.parametrize("package", ["ge2e_transforms", "pipeline"])
def test_the_map_names_every_file_once(tables: list[list[dict[str, str]]], package: str) -> None:
    assert sorted(named(tables, f"`{package}/`")) == files_of(package)


def test_the_map_has_the_stages_of_the_graph_each_in_the_file_of_its_verb(
    tables: list[list[dict[str, str]]], flow: Any
) -> None:
    stages = {row["what"]: row["`pipeline/`"] for row in tables[0] if not row["what"].startswith("- ")}
    assert list(stages) == flow.stages(flow.GRAPH.read_text())
    for stage, cell in stages.items():
        verb = re.match(r"[A-Z][a-z]+", stage)[0].lower()  # type: ignore[index]
        assert cell.startswith(f"`{verb}`")
        transform = getattr(importlib.import_module(f"pipeline.{verb}"), stage)
        assert transform.__module__ == f"pipeline.{verb}"


def test_the_map_is_one_page() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 66
    assert "](flow.svg)" in page


def test_what_is_written_although_a_library_does_it_is_where_the_table_says() -> None:
    _, _, section = (
        (DOCS / "decisions.md").read_text().partition("## What is written here although a library does it\n")
    )
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    rows = [line.strip("|").split(" | ") for line in lines]
    assert {len(row) for row in rows} == {4}
    assert len(rows) > 20
    for _what, where, _library, reason in rows[1:]:
        files = re.findall(r"`([\w/]+\.py)\b", where)
        assert files
        homes = [ROOT, ROOT / "ge2e_transforms", ROOT / "pipeline"]
        assert all(any((home / name).is_file() for home in homes) for name in files), where
        assert all((ROOT / name).is_file() for name in re.findall(r"`([\w/]+\.py)\b", reason)), reason
