"""Tries tests on a copy of the tree, each time in a process forked from one that has torch."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.onnx

from .mutant import ROOT

COPIED = (
    "fastblur",
    "tests",
    "testing",
    "csrc",
    "docs",
    "benchmarks",
    "examples",
    ".ci",
    "requirements",
)
TIME_LIMIT = 1800.0


def copy_tree(to: Path) -> None:
    """What the tests need; the extension with it."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in COPIED:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, to / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, to)


def in_child(job: Callable[[], Any]) -> Any:
    """What the job gives in a process of its own, or a text that says how that died."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with suppress(BaseException):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            torch.set_num_threads(1)
            os.write(writer, json.dumps([job()]).encode())
        os._exit(3)
    os.close(writer)
    text, deadline = b"", time.monotonic() + TIME_LIMIT
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(reader, 4096)
        if not part:
            break
        text += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if text:
        return json.loads(text)[0]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return "the time limit" if killed else f"the process died, wait status {status}"


class FirstFailure:
    """A pytest plugin: which test fails first, or why nothing could be collected."""

    def __init__(self) -> None:
        self.name = ""
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid
        self.passed += report.when == "call" and report.passed

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (it cannot be imported)"


def try_tests(tree: Path, tests: Sequence[str]) -> str | None:
    """The first test that fails in the tree, or None if all pass.

    Raises:
        RuntimeError: no test has run, so that nothing is known.
    """
    found = in_child(lambda: _run(tree, tests))
    if isinstance(found, str):
        return found
    name, passed, status = found
    if not name and (not passed or status != pytest.ExitCode.OK):
        raise RuntimeError(f"pytest ends with {status} after {passed} tests: {' '.join(tests)}")
    return name or None


def _run(tree: Path, tests: Sequence[str]) -> tuple[str, int, int]:
    # It can be imported once in a process, for it registers operators.
    assert "fastblur" not in sys.modules
    os.chdir(tree)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    found = FirstFailure()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
    status = pytest.main([*options, *tests], plugins=[found])
    return found.name, found.passed, int(status)
