"""The documents' code runs, and their commands exist."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [
    "fastblur",
    "fastblur.modules",
    "fastblur.modules3d",
    "fastblur.functional",
    "fastblur.functional3d",
    "fastblur._explain",
    "fastblur.export",
    "fastblur.integrations.antialiased_cnns",
    "fastblur.integrations.composer",
    "fastblur.integrations.ffcv",
    "fastblur.integrations.kornia",
    "fastblur.integrations.timm",
    "fastblur.metrics.equivariance",
    "fastblur.metrics.shift",
    "fastblur.metrics.similarity",
    "fastblur.metrics.stability",
    "fastblur.surgery.antialias",
]
PEERS = {"antialiased_cnns", "kornia", "timm", "torchvision", "onnx", "onnxruntime", "matplotlib"}
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run(path: Path) -> None:
    missing = set()
    for language, code in BLOCK.findall(path.read_text()):
        if language == "python":
            # The peers are not installed everywhere; a block must not need anything else.
            wanted = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)) & PEERS
            absent = {name for name in wanted if importlib.util.find_spec(name) is None}
            missing |= absent
            if not absent:
                exec(compile(code, str(path), "exec"), {})
    if missing:
        pytest.skip(f"the other blocks run; {path.name} also needs {', '.join(sorted(missing))}")


def test_readme_table_is_true() -> None:
    """Every replacement in the table of "Use" is a layer that can be made."""
    import fastblur

    rows = re.findall(r"\| `(Fused[^`]*)` \|", (ROOT / "README.md").read_text())
    assert len(rows) >= 7
    for row in rows:
        eval(row, vars(fastblur))


def test_imports_to_change_are_true() -> None:
    """Every import in the table of "Migrating" has the names of the one that it replaces."""
    page = (ROOT / "docs" / "migrating.md").read_text()
    rows = re.findall(r"^\| `(from .*)` \| `(from fastblur\..*)` \|$", page, re.MULTILINE)
    assert len(rows) == 7
    for there, here in rows:
        names = here.partition(" import ")[2]
        assert there.endswith(f" import {names}")
        exec(here, {})


@pytest.mark.parametrize("package", ["antialiased_cnns", "kornia", "timm"])
def test_imports_to_change_are_there(package: str) -> None:
    pytest.importorskip(package)
    page = (ROOT / "docs" / "migrating.md").read_text()
    rows = re.findall(rf"^\| `(from {package}\b.*)` \| `from fastblur", page, re.MULTILINE)
    assert rows
    for there in rows:
        exec(there, {})


def test_pairs_of_migrating_compute_the_same() -> None:
    """Every layer of the other packages and the layer of fastblur beside it."""
    wanted = ("antialiased_cnns", "kornia", "timm.layers")
    peers = {name.partition(".")[0]: pytest.importorskip(name) for name in wanted}
    import torch

    import fastblur

    page = (ROOT / "docs" / "migrating.md").read_text()
    rows = re.findall(r"^\| `(\w+\..*\))` \| `(Fused.*)` \|$", page, re.MULTILINE)
    assert len(rows) == 7
    for there, here in rows:
        layer = eval(here, vars(fastblur))
        x = torch.randn((2, 16, 31) if layer.one_dimensional else (2, 16, 31, 32))
        names = {"timm": importlib.import_module("timm"), "C": 16}
        torch.testing.assert_close(layer(x), eval(there, peers | names)(x))


@pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="runs from a source tree only")
def test_make_targets_exist() -> None:
    rules = re.findall(r"^([\w ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    for path in (*DOCUMENTS, ROOT / "CONTRIBUTING.md"):
        for _, code in BLOCK.findall(path.read_text()):
            used = re.findall(r"^make (\w+)", code, re.MULTILINE)
            assert set(used) <= targets, path.name


def test_installed_from_a_clone_is_run_past_it() -> None:
    """Beside the sources ``python -m`` finds those, and the command what pip has installed."""
    for page in (ROOT / "README.md", ROOT / "docs" / "quickstart.md"):
        code = [code for _, code in BLOCK.findall(page.read_text())]
        (install,) = (block for block in code if "pip install .\n" in block)
        assert "\nfastblur  " in install
        assert "python -m fastblur" not in install


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert failed == 0
    assert tried > 0


@pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="runs from a source tree only")
def test_reference_has_every_public_name() -> None:
    import fastblur
    from fastblur import surgery

    page = (ROOT / "docs" / "api.md").read_text()
    whole = set(re.findall(r"automodule:: ([\w.]+)", page))
    named = set(re.findall(r"auto(?:class|function):: (\w+)", page))
    for module in (fastblur, fastblur.functional, fastblur.metrics, fastblur.export, surgery):
        if module.__name__ not in whole:
            modules = {name for name in module.__all__ if f"fastblur.{name}" in sys.modules}
            assert set(module.__all__) - modules - {"__version__"} <= named, module.__name__


@pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="runs from a source tree only")
def test_every_page_is_in_the_contents() -> None:
    docs = ROOT / "docs"
    contents = re.findall(r"^([\w/]+)$", (docs / "index.md").read_text(), re.MULTILINE)
    pages = {str(path.relative_to(docs).with_suffix("")) for path in docs.rglob("*.md")}
    assert set(contents) == pages - {"index"}
