"""The runs behind docs/trust.md: the command of each, and what is read from its output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from testing import records

ROOT = Path(__file__).parents[2]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One row of the page.

    Attributes:
        name: of the record.
        title: what is tried.
        command: for bash in the root of the repository. `python` is the one that runs this.
        minutes: about how long it takes on two cores.
        read: the figures from what the command prints and from pytest's report. None: the command
            writes the record itself.
    """

    name: str
    title: str
    command: str
    minutes: float
    read: Callable[[str, Path], Figures] | None = None

    def __call__(self) -> Path:
        """Runs the command and writes the record.

        Raises:
            RuntimeError: the output does not have what is read from it.
        """
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            output = self._output(report)
            if self.read is None:
                return records.FOLDER / f"{self.name}.json"
            try:
                figures = self.read(output, report)
            except (ValueError, OSError, LookupError, ElementTree.ParseError) as error:
                raise RuntimeError(f"{self.command}: {error}\n{output[-2000:]}") from error
        return records.write(self.name, self.command, figures)

    def _output(self, report: Path) -> str:
        options = f"{os.environ.get('PYTEST_ADDOPTS', '')} --junitxml={report}"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        settings = {"PATH": path, "PYTEST_ADDOPTS": options, "PYTHON": sys.executable}
        process = subprocess.Popen(
            ["bash", "-c", self.command],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            sys.stderr.write(line)
            lines.append(line)
        if process.wait() and self.read is None:
            raise RuntimeError(f"{self.command} ends with {process.returncode}")
        return "".join(lines)


def suite(_: str, report: Path) -> Figures:
    """What became of the tests, and the numbers that they noted."""
    counts: Counter[str] = Counter()
    noted: Figures = {}
    failing = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        counts["skipped" if kinds == {"skipped"} else "failed" if kinds else "passed"] += 1
        if kinds & {"failure", "error"}:
            failing.append(case.attrib["name"])
        for item in case.iter("property"):
            noted[item.attrib["name"]] = max(
                noted.get(item.attrib["name"], 0), int(item.attrib["value"])
            )
    if not counts["passed"] + counts["failed"]:
        raise ValueError("no test ran")
    found = {key: counts[key] for key in ("passed", "failed", "skipped")}
    return found | noted | ({"failing": failing[:5]} if failing else {})


def examples(output: str, report: Path) -> Figures:
    """Of Hypothesis, from its statistics."""
    found = re.findall(r"(\d+) passing examples?, (\d+) failing examples?", output)
    if not found:
        raise ValueError("Hypothesis printed no statistics")
    passing, failing = (sum(map(int, column)) for column in zip(*found, strict=True))
    return suite(output, report) | {"examples": passing + failing, "failing examples": failing}


def mutants(output: str, _: Path) -> Figures:
    """Of python -m tests.mutants, by the part of the repository that has the defect."""
    figures: Figures = {}
    for name, verdict in re.findall(
        r"^(\S+?): .*?: (caught by|SURVIVES|NO LONGER|NOBODY)", output, re.M
    ):
        part = name.split("/")[0]
        of = figures.setdefault(part, {"seeded": 0, "caught": 0})
        of["seeded"] += 1
        of["caught"] += verdict == "caught by"
    (total,) = re.findall(r"^caught \d+ of (\d+) seeded defects$", output, re.M)
    if sum(of["seeded"] for of in figures.values()) != int(total):
        raise ValueError(f"{total} defects were tried, and not as many lines say what came of it")
    return figures


def cuda_mutants(output: str, _: Path) -> Figures:
    """Of python -m tests.cuda_on_host.mutants, by the check that catches the defect."""
    found = re.findall(r"^.{52} (\S+) +\d+\.\d s ", output, re.M)
    if not found:
        raise ValueError("no defect was tried")
    checks = Counter(check for check in found if check != "MISSED")
    return {"seeded": len(found), "caught": sum(checks.values()), "by": dict(checks)}


def versions(output: str, _: Path) -> Figures:
    """Of .ci/matrix: the tests by Python and torch."""
    figures: Figures = {}
    for python, torch, rest in re.findall(
        r"^== Python (\S+), torch (\S+): (.*?)(?=^== Python|\Z)", output, re.M | re.S
    ):
        passed = re.search(r"(\d+) passed", rest)
        failed = re.search(r"(\d+) failed", rest)
        figures[f"{python}, {torch}"] = {
            "passed": int(passed[1]) if passed else 0,
            "failed": int(failed[1]) if failed else 0,
        }
    if not figures:
        raise ValueError("no environment was tried")
    return figures


def wheel(output: str, _: Path) -> Figures:
    """Of .ci/wheel: what auditwheel made of it, and its size."""
    fixed = re.findall(r"(\d+) .*? dist/(fastblur\S+\.whl)$", output, re.M)
    ((size, name),) = fixed
    return {"wheel": name, "megabytes": round(int(size) / 1e6, 2)}


RUNS = (
    Run(
        "suite",
        "the tests of the CPU kernels and of Python, in a build with -O1 and counters",
        "python -m tests.trust.coverage",
        25,
    ),
    Run(
        "properties",
        "random geometries, values and places in memory, against an oracle",
        "python -m pytest tests/kernels/test_properties.py --hypothesis-profile deep "
        "--hypothesis-show-statistics -q",
        30,
        examples,
    ),
    Run(
        "fuzz",
        "bytes of a fuzzer as calls of the C++ core",
        "python -m tests.fuzz --runs 10000000 --jobs 2 && "
        "python -m tests.fuzz --installed --runs 200000 && "
        "python -m tests.fuzz --cuda --runs 100000 && python -m tests.fuzz --record",
        100,
    ),
    Run(
        "hostile",
        "calls that must be refused, and must not end the process",
        "python -m pytest tests/kernels/test_hostile.py tests/layers/test_errors.py -q",
        1,
        suite,
    ),
    Run(
        "mutants",
        "defects seeded in the CPU kernels and in the Python layer",
        "python -m tests.mutants",
        40,
        mutants,
    ),
    Run(
        "cuda_mutants",
        "defects seeded in the CUDA sources, which run on the CPU for this",
        "python -m tests.cuda_on_host.mutants",
        20,
        cuda_mutants,
    ),
    Run(
        "cuda_on_host",
        "the CUDA sources on the CPU: each access checked, some kernels under three sanitizers",
        "python -m pytest tests/cuda_on_host -q",
        6,
        suite,
    ),
    Run(
        "asan",
        "AddressSanitizer and UBSan over the C++, under raw, hostile and random calls",
        ".ci/sanitize asan",
        6,
        suite,
    ),
    Run(
        "tsan",
        "ThreadSanitizer over the C++, under calls from many threads",
        ".ci/sanitize tsan",
        3,
        suite,
    ),
    Run(
        "bits",
        "whether results have the same bits with 1, 2, 3, 5 and 8 threads",
        "python -m tests.trust.bits",
        12,
    ),
    Run(
        "bug_classes",
        "kinds of bugs that other libraries had, on every backend",
        "python -m pytest tests/bug_classes -q",
        3,
        suite,
    ),
    Run(
        "far",
        "tensors beyond 2^31 elements",
        "FASTBLUR_SLOW_TESTS=1 python -m pytest tests/kernels/test_far.py "
        "tests/bug_classes/test_far_offsets.py -q",
        3,
        suite,
    ),
    Run("aarch64", "the kernels for aarch64, emulated", "python -m tests.aarch64 --record", 5),
    Run(
        "versions",
        "one wheel for each Python, beside the oldest and the newest torch",
        ".ci/matrix 3.11:2.8.0 3.13:2.15.0",
        10,
        versions,
    ),
    Run("wheel", "the wheel, as auditwheel repairs it", ".ci/wheel python3", 8, wheel),
)
