"""The fuzzer of tests/fuzz: its committed cases, and some thousands of new ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from . import build, defects, runs, seeded

pytestmark = pytest.mark.skipif(not (build.ROOT / "csrc").exists(), reason="needs the sources")
needs_clang = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


def test_every_named_case_says_why_it_is_there() -> None:
    cases = runs.cases()
    assert len({case.name for case in cases}) == len(cases) >= 8
    for case in cases:
        assert case.data
        assert re.fullmatch(r"[A-Z].*\.", case.sentence), case.name


def test_every_change_fits_the_sources() -> None:
    """Also those of the seeded defects, which no test tries."""
    changes = [*build.SIZES, *build.FEW, *((d.file, d.old, d.new) for d in seeded.DEFECTS)]
    for file, old, new in changes:
        assert (build.ROOT / "csrc" / file).read_text().count(old) == 1, old
        assert new != old
    with pytest.raises(build.BuildError, match="0 times"):
        build.changed_sources([("plan.cpp", "nothing like this", "")])


@pytest.mark.slow
@needs_clang
def test_cases_and_fresh_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = runs.Campaign("quick")
    assert campaign.run_again(runs.write_cases()) is None
    for name in ("CORPUS", "FOUND"):
        monkeypatch.setattr(runs, name, tmp_path / name)
    campaign.tally, campaign.file = {}, tmp_path / "tally"
    found = campaign.run_part(3000, 1, 60)
    assert found is None, found.text
    for part in ("float32", "float64", "float16", "bfloat16", "linear", "relu", "on generic"):
        assert campaign.tally[f"ran {part}"] > 0, part
    assert campaign.tally["refused"] > 0


@pytest.mark.slow
@needs_clang
def test_a_defect_is_found_and_the_case_is_printed() -> None:
    """The comparison of AVX-512 would say nothing where it cannot run."""
    defect = next(d for d in seeded.DEFECTS if "NaN" in d.name)
    found = defects.runs_until_found(defect)
    assert found is not None
    assert re.match(r"fuzz: .* on generic ", found[1])
