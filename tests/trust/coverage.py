"""Line and branch coverage: ``python -m tests.trust.coverage`` writes the record "suite".

The extension is built with gcov's counters in a copy of the tree, and the suite runs there. Left
out are long runs of the same tests, and what runs neither fastblur/ nor csrc/cpu, or runs it
elsewhere: the tests of the CUDA sources, of the benchmarks, of the documents.
"""

# ruff: noqa: T201

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from testing import records

from .runs import ROOT, suite

TREE = ROOT / "build" / "coverage"
LEFT_OUT = ("aarch64", "bug_classes", "cuda_on_host", "fuzz", "mutants", "trust")
LEFT_OUT += ("gpu/test_cuda_*", "gpu/test_gpu_script.py", "gpu/test_triton_budgets.py")
LEFT_OUT += ("docs/test_contributing.py", "docs/test_docs.py", "docs/test_figures.py")
LEFT_OUT += ("docs/test_notebook.py", "package/test_benchmark*")
GCOVR = ("--exclude-throw-branches", "--exclude-unreachable-branches", "--merge-lines")
GCOVR += ("--merge-mode-functions", "merge-use-line-0", "--gcov-suspicious-hits-threshold", "0")


def build() -> None:
    """Copies what git knows, with later changes, and builds there what has changed."""
    for counters in TREE.rglob("*.gcda"):
        counters.unlink()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).exists():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, TREE / name)
    settings = {"FASTBLUR_BUILD": "1", "FASTBLUR_CUDA": "0", "LDFLAGS": "--coverage"}
    run("setup.py", "--quiet", "build_ext", "--inplace", CXXFLAGS="--coverage -O1", **settings)


def run(*arguments: str, **settings: str) -> int:
    """Runs Python in the copy, which it imports fastblur from."""
    env = os.environ | {"PYTHONPATH": str(TREE)} | settings
    return subprocess.run([sys.executable, *arguments], cwd=TREE, env=env).returncode


def of_python() -> dict[str, Any]:
    """Lines and branches by the package inside fastblur/."""
    figures: dict[str, Any] = {}
    for name, file in json.loads((TREE / "python.json").read_text())["files"].items():
        found = file["summary"]
        lines = found["covered_lines"], found["num_statements"]
        add(
            figures,
            str(Path(name).parent),
            lines,
            (found["covered_branches"], found["num_branches"]),
        )
    return figures


def of_cpp() -> dict[str, Any]:
    """Lines and branches by the folder inside csrc/, which every template instance adds to."""
    command = ["-m", "gcovr", "--root", ".", "--object-directory", "build/objects"]
    run(*command, "--filter", "csrc/", *GCOVR, "--json-summary", "cpp.json")
    figures: dict[str, Any] = {}
    for file in json.loads((TREE / "cpp.json").read_text())["files"]:
        folder = str(Path(file["filename"]).parent)
        lines = file["line_covered"], file["line_total"]
        add(figures, folder, lines, (file["branch_covered"], file["branch_total"]))
    return figures


def add(
    figures: dict[str, Any], part: str, lines: tuple[int, int], branches: tuple[int, int]
) -> None:
    """Adds a file to its part: [reached, all] of lines and of branches."""
    of = figures.setdefault(part, {"lines": [0, 0], "branches": [0, 0]})
    for kind, counts in (("lines", lines), ("branches", branches)):
        of[kind] = [a + b for a, b in zip(of[kind], counts, strict=True)]


def main() -> None:
    for needed in ("pytest_cov", "gcovr"):
        if importlib.util.find_spec(needed) is None:
            sys.exit(f"Coverage needs {needed}: pip install -r requirements/trust.txt")
    build()
    report = TREE / "report.xml"
    options = [f"--ignore-glob=tests/{name}" for name in LEFT_OUT]
    options += ["--cov=fastblur", "--cov-branch", "--cov-report=json:python.json"]
    options += ["-m", "not slow", f"--junitxml={report}"]
    status = run("-m", "pytest", "-n", "2", "-q", *options, "tests")
    figures = suite("", report) | {"python": of_python(), "cpp": of_cpp(), "left out": LEFT_OUT}
    print(records.write("suite", "python -m tests.trust.coverage", figures))
    sys.exit(status)


if __name__ == "__main__":
    main()
