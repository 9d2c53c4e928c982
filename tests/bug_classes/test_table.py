"""The table in README.md names tests that exist, and every test of this folder."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parent
PAGE = HERE / "README.md"
LINK = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+")


@cache
def functions(path: Path) -> dict[str, str]:
    """The docstrings of a file's tests, by name; that of the file stands for one without links."""
    tree = ast.parse(path.read_text())
    return {
        node.name: (ast.get_docstring(node) or "") + (ast.get_docstring(tree) or "")
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def rows() -> list[tuple[str, set[str], list[tuple[Path, str]]]]:
    """(kind, links, tests), of each row."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "kind of bug":
            kind, links, tests = cells
            names = []
            for file, test in re.findall(r"`(?:([\w/.]+\.py)::)?(test_\w+)`", tests):
                path = TESTS / file if file else names[-1][0]
                names.append((path, test))
            found.append((kind, set(LINK.findall(links)), names))
    return found


ROWS = rows()


@pytest.mark.parametrize(("kind", "links", "tests"), ROWS, ids=[kind for kind, _, _ in ROWS])
def test_a_row(kind: str, links: set[str], tests: list[tuple[Path, str]]) -> None:
    """Says where it was found; its tests exist, and those of this folder say so too."""
    assert links
    assert tests
    for path, test in tests:
        assert path.exists(), path
        assert test in functions(path), f"{path}: {test}"
        if path.parent == HERE:
            assert links & set(LINK.findall(functions(path)[test])), f"{test} has no link of {kind}"


def test_every_test_has_a_row() -> None:
    named = {entry for _, _, tests in ROWS for entry in tests}
    there = {
        (path, test)
        for path in HERE.glob("test_*.py")
        if path.name not in ("test_table.py", "test_interpreter.py")
        for test in functions(path)
    }
    assert len(there) > 20
    assert there <= named, there - named
    assert len(ROWS) == len({kind for kind, _, _ in ROWS}) >= 25


def test_every_link_has_a_row() -> None:
    """What a docstring cites, the page has."""
    cited = {link for path in HERE.glob("test_*.py") for link in LINK.findall(path.read_text())}
    assert cited <= {link for _, links, _ in ROWS for link in links}
