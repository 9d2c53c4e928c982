"""docs/trust.md says what the records say, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fastblur._backends import compiled
from testing.cases import CASES

from ..conftest import needs_extension

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs" / "trust.md").exists():
    pytest.skip("runs from a source tree only", allow_module_level=True)
for name in ("cpuinfo", "rich"):
    pytest.importorskip(name, reason="the records need it")

from tests.trust import bits, page, runs  # noqa: E402

SOURCES = {"csrc": "a", "fastblur": "b"}


def test_every_thread_gets_a_part() -> None:
    backend = (ROOT / "csrc" / "cpu" / "backend.cpp").read_text()
    (grain,) = re.findall(r"^constexpr int64_t kGrain = (\d+);", backend, re.M)
    assert max(bits.THREADS) * int(grain) <= bits.ELEMENTS
    _, x, _ = next(bits.inputs(CASES, bits.DTYPES, bits.ELEMENTS))
    assert x.numel() >= bits.ELEMENTS


def test_the_page_is_what_the_records_give() -> None:
    assert page.PAGE.read_text() == page.render(), "python -m tests.trust --page writes it"


def test_every_figure_comes_from_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """With other records come other figures, and without one the page says so."""
    record: dict[str, Any] = {
        "date": "1999-01-01",
        "commit": "abc",
        "sources": SOURCES,
        "command": "x",
    }
    figures = {"calls": 77, "calls that differ": 5, "threads": [1], "pairs": {}}
    made = {"bits": record | {"figures": figures}}
    monkeypatch.setattr(page, "read", made.get)
    text = page.render()
    assert text.count("**not run**") == len(runs.RUNS) - 1
    assert "77 calls, 5 with other bits" in text
    assert text.count(page.NO_RUN) == 1 + len(page.SANITIZERS)
    made["hostile"] = record | {"figures": {"calls": 9, "passed": 3, "failed": 2, "skipped": 0}}
    assert "9 calls; 3 passed, 2 failed | 1999-01-01, abc | same" in page.render()


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (SOURCES, "same"),
        (SOURCES | {"csrc": "c"}, "changed: csrc"),
        ({"csrc": "c", "fastblur": "c"}, "changed: csrc, fastblur"),
        (None, "local changes"),
    ],
)
def test_since(then: dict[str, str] | None, said: str) -> None:
    assert page.since({"sources": then}, {"sources": SOURCES}) == said


def test_commands_are_there() -> None:
    """What a run starts is a module or a script of the repository."""
    for run in runs.RUNS:
        modules = re.findall(r"python -m ([\w.]+)", run.command)
        files = re.findall(r"(?:^|\s)(\.ci/\w+|tests/[\w/.]+)", run.command)
        assert modules or files, run.name
        for module in set(modules) - {"pytest"}:
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), run.name
        for file in files:
            assert (ROOT / file).exists(), run.name


MUTANTS = """\
fastblur/a.py: x -> y: caught by tests/test_a.py::test (3 s)
fastblur/_b/c.py: z: 1 -> w: caught by kernels: k2 (3 s)
csrc/cpu/d.h: x -> y: SURVIVES (3 s)
csrc/plan.cpp: x -> y: NOBODY KNOWS: why (3 s)
caught 2 of 4 seeded defects
"""


def test_reading_mutants() -> None:
    found = runs.mutants(MUTANTS, Path())
    assert found == {
        "fastblur": {"seeded": 2, "caught": 2},
        "csrc": {"seeded": 2, "caught": 0},
    }
    with pytest.raises(ValueError, match="not as many"):
        runs.mutants(MUTANTS.replace("of 4", "of 5"), Path())


def test_reading_versions() -> None:
    output = """\
== wheel for Python 3.11 (12:00:00)
== Python 3.11, torch 2.8.0: fastblur-0.1.0-cp311-cp311-linux_x86_64.whl (12:00:00)
==== 12 passed, 3 skipped in 1.0s ====
== Python 3.13, torch 2.15.0: fastblur-0.1.0-cp313-cp313-linux_x86_64.whl (12:00:00)
==== 1 failed, 11 passed in 1.0s ====
"""
    found = runs.versions(output, Path())
    assert found == {
        "3.11, 2.8.0": {"passed": 12, "failed": 0},
        "3.13, 2.15.0": {"passed": 11, "failed": 1},
    }
    with pytest.raises(ValueError, match="no environment"):
        runs.versions("bash: python3.13: command not found", Path())


def test_reading_a_report_of_pytest(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase name="a"><properties><property name="elements" value="7"/></properties>'
        "</testcase>"
        '<testcase name="b"><failure/></testcase><testcase name="c"><error/></testcase>'
        '<testcase name="d"><skipped/></testcase></testsuite></testsuites>'
    )
    expected = {"passed": 1, "failed": 2, "skipped": 1, "elements": 7, "failing": ["b", "c"]}
    assert runs.suite("", report) == expected
    statistics = "  - during generate phase: 8 passing examples, 2 failing examples\n"
    found = runs.examples(statistics + statistics, report)
    assert found == expected | {"examples": 20, "failing examples": 4}
    with pytest.raises(ValueError, match="no statistics"):
        runs.examples("", report)
    report.write_text("<testsuites/>")
    with pytest.raises(ValueError, match="no test ran"):
        runs.suite("", report)


def test_a_run_that_prints_nothing_gives_no_record() -> None:
    with pytest.raises(RuntimeError, match=r"echo nothing: no defect was tried"):
        runs.Run("none", "", "echo nothing", 0, runs.cuda_mutants)()
    with pytest.raises(RuntimeError, match="false ends with 1"):
        runs.Run("none", "", "false", 0)()


@needs_extension
@pytest.mark.skipif(
    compiled.C is not None and not {"avx2", "avx512"} <= set(compiled.C.cpu.targets()),
    reason="compares AVX2 with AVX-512, which this machine lacks",
)
@pytest.mark.parametrize("dtype", bits.DTYPES, ids=str)
def test_avx512_has_the_bits_of_avx2(dtype: torch.dtype) -> None:
    """But for dx where channels fill a vector of the one and not of the other, as the page says."""
    assert compiled.C is not None
    for case, x, channels_last in bits.inputs(CASES, (dtype,)):
        found = []
        for name in ("avx512", "avx2"):
            compiled.C.cpu.set_target(name)
            found.append(bits.run(case, x, channels_last))
        differ = [
            what
            for what, one, other in zip(bits.Results._fields, *found, strict=True)
            if not bits.same(one, other)
        ]
        between = channels_last and 8 <= x.shape[1] < 16
        assert differ in ([], ["dx"] if between else []), case
