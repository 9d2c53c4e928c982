"""The guard that counts instructions and bytes: its judgement, without counting instructions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import needs_extension

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").exists():
    pytest.skip("runs from a source tree only", allow_module_level=True)
pytest.importorskip("rich", reason="the guard writes its table with it")

from benchmarks import instruction_counts as counts  # noqa: E402


def test_compare() -> None:
    before = {"same": 100, "a little": 1000, "more": 1000, "less": 1000, "gone": 5, "zero": 0}
    now = {"same": 100, "a little": 1029, "more": 1031, "less": 969, "new": 5, "zero": 1}
    wrong = {name: word for name, _, _, word in counts.compare(now, before) if word}
    assert wrong == {
        "more": "more",
        "less": "less",
        "gone": "no longer counted",
        "new": "not in the baseline",
        "zero": "more",
    }


@needs_extension
def test_bytes_are_those_of_the_baseline() -> None:
    """The half of the guard that needs no valgrind."""
    kept = json.loads(counts.BASELINE.read_text())["counts"]
    kept = {name: count for name, count in kept.items() if name.startswith("bytes")}
    assert [row for row in counts.compare(counts.weigh(), kept) if row[3]] == []


@needs_extension
def test_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"avx2 | a": 1000}
    monkeypatch.setattr(counts, "why_not", lambda: None)
    monkeypatch.setattr(counts, "count", lambda: dict(found))
    monkeypatch.setattr(counts, "weigh", dict)
    baseline = ["--baseline", str(tmp_path / "instruction_counts.json")]
    assert counts.main(baseline) == counts.NOT_CHECKED  # there is none
    assert counts.main([*baseline, "--update"]) == 0
    assert counts.main(baseline) == 0
    found["avx2 | a"] = 1100
    capsys.readouterr()
    assert counts.main(baseline) == 1
    assert "+10.0%" in capsys.readouterr().out
    monkeypatch.setattr(counts, "origin", lambda: {"torch": "another"})
    assert counts.main(baseline) == counts.NOT_CHECKED
    assert "NOT CHECKED" in capsys.readouterr().out


@needs_extension
def test_guard_without_valgrind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(counts.shutil, "which", lambda name: None)
    assert counts.main([]) == counts.NOT_CHECKED
    assert "NOT CHECKED, instruction counts: valgrind and callgrind_control" in (
        capsys.readouterr().out
    )


def test_total_of_a_dump(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.write_text("events: Ir\nfn=(1)\n5 120\n\ntotals: 1234\n")
    assert counts._total(dump) == 1234
    dump.write_text("events: Ir\n")
    with pytest.raises(RuntimeError, match="no total"):
        counts._total(dump)
