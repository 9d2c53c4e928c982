"""What the prose names is there: links, paths and symbols, in pages, comments and docstrings."""

from __future__ import annotations

import ast
import itertools
import pkgutil
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from fastblur._backends import compiled

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "Makefile").exists(), reason="runs from a source tree only"
)
LOOKED_PAST = {"build", "dist", "shared", "site", "__pycache__"}  # and what is hidden but for these
HIDDEN = {".ci", ".github"}
LINK = re.compile(r"\]\(([^()\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)
QUOTED = re.compile(r"(?<!`)(`{1,2})(?!`)([^`]+?)\1(?!`)")
SYMBOL = re.compile(r"(?<![\w./-])fastblur(?:\.[A-Za-z_]\w*)+(?![\w/])")
SUFFIXES = "py|md|h|cuh|cu|cpp|json|toml|txt|css|yml|svg|png"
PATH = re.compile(rf"\.{{0,2}}[\w*{{}},-][\w*{{}},./-]*/|[\w*{{}},./-]*\.(?:{SUFFIXES})|\.ci/\w+")
# A path from the root, quoted or not, with its folder of the first level.
TOP = "csrc|fastblur|tests|docs|benchmarks|examples|requirements"
FROM_ROOT = re.compile(rf"(?<![\w.`/-])(?:(?:{TOP})/|\.ci/|\.github/)[\w*{{}},./-]*\w")
# Of a build, of PyTorch, and the folders of examples/train.py.
ELSEWHERE = re.compile(r"build/|fastblur/_C|torch/|(?:train|val|timm)/$")


def files() -> list[Path]:
    """The repository's, as far as they are text that is looked into or that is named."""
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part not in HIDDEN for part in parts[:-1])
        if path.is_file() and not hidden and not LOOKED_PAST & set(parts):
            found.append(path)
    return sorted(found)


FILES = files()
PAGES = [path for path in FILES if path.suffix == ".md"]
SOURCES = [path for path in FILES if path.suffix in {".py", ".h", ".cuh", ".cu", ".cpp", ".c"}]
SCRIPTS = [
    path
    for path in FILES
    if path.relative_to(ROOT).parts[0] in {"Makefile", "MANIFEST.in", "pyproject.toml", *HIDDEN}
]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def prose(path: Path) -> str:
    """A page without its blocks of code; of a source its comments and docstrings."""
    text = path.read_text()
    if path.suffix == ".md":
        return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    if path.suffix != ".py":
        return "\n".join(re.findall(r"//[^\n]*|/\*.*?\*/", text, re.DOTALL))
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            comments.append(ast.get_docstring(node) or "")
    return "\n".join(comments)


def quoted(path: Path) -> Iterator[str]:
    for _, text in QUOTED.findall(prose(path)):
        yield re.sub(r"\s+", " ", text.strip())


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in map("".join, LINK.findall(prose(page))):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert wrong == []


def braces(text: str) -> Iterator[str]:
    """The names that a shell makes of it."""
    parts = re.split(r"\{([^{}]*)\}", text)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    yield from map("".join, itertools.product(*choices))


def exists(text: str, beside: Path) -> bool:
    """From the root, from the file that names it or one of its folders, or as the end of a path."""
    for one in braces(text):
        folders = [ROOT, *beside.parents[: len(beside.relative_to(ROOT).parts)]]
        if any(any(folder.glob(one.rstrip("/"))) for folder in folders):
            continue
        if one.endswith("/") or not any(path.match(one) for path in FILES):
            return False
    return True


@pytest.mark.parametrize("path", PAGES + SOURCES, ids=name)
def test_paths_exist(path: Path) -> None:
    paths = [text for text in quoted(path) if PATH.fullmatch(text) and not ELSEWHERE.match(text)]
    # Code blocks of a page count here: they have commands.
    paths += FROM_ROOT.findall(path.read_text() if path.suffix == ".md" else prose(path))
    assert [text for text in paths if not exists(text, path)] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_paths_in_scripts_exist(path: Path) -> None:
    paths = [text for text in FROM_ROOT.findall(path.read_text()) if not ELSEWHERE.match(text)]
    assert [text for text in paths if not exists(text, path)] == []


def test_enough_is_read() -> None:
    """The expressions above find what there is to find."""
    read = PAGES + SOURCES
    paths = sum(bool(PATH.fullmatch(text)) for path in read for text in quoted(path))
    symbols = sum(len(SYMBOL.findall("\n".join(quoted(path)))) for path in read)
    links = sum(len(LINK.findall(prose(page))) for page in PAGES)
    scripts = sum(len(FROM_ROOT.findall(path.read_text())) for path in SCRIPTS)
    assert min(paths, links) > 50
    assert min(symbols, scripts) > 20


@pytest.mark.parametrize("path", PAGES + SOURCES, ids=name)
def test_symbols_exist(path: Path) -> None:
    wrong = []
    for symbol in SYMBOL.findall("\n".join(quoted(path))):
        if compiled.C is None and symbol.startswith("fastblur._C"):
            continue
        try:
            pkgutil.resolve_name(symbol)
        except (ImportError, AttributeError):
            wrong.append(symbol)
    assert wrong == []
