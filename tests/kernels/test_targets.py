"""No target of the CPU kernels is left out: of the build, of the machine, of the case list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from cpuinfo import get_cpu_info

from fastblur._backends import compiled
from testing.cases import targets

from ..aarch64.run import ALL_CASES, DTYPES, check_cuts
from ..conftest import needs_extension
from ..layers import test_upsampling, test_volumes
from . import test_values
from .drivers import Installed, both_cuts, check_all, expected

pytestmark = needs_extension
TARGETS = Path(__file__).parents[2] / "csrc" / "cpu" / "targets"
LEVELS = compiled.C.cpu.targets() if compiled.C is not None else []
# What a target needs of a processor, in the words of the operating system.
NEEDS = {
    "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma"},
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"asimd"},
    "generic": set(),
}


@pytest.mark.skipif(not TARGETS.exists(), reason="runs from a source tree only")
def test_every_file_is_a_target_that_dispatch_knows() -> None:
    files = {path.stem for path in TARGETS.glob("*.cpp")} - {"dispatch"}
    listed = re.findall(r"&(\w+)::target,", (TARGETS / "dispatch.cpp").read_text())
    assert files == set(listed) == set(NEEDS)


def test_all_that_the_processor_supports_are_usable() -> None:
    flags = set(get_cpu_info().get("flags", ()))
    assert [name for name, needs in NEEDS.items() if needs <= flags] == LEVELS


@pytest.mark.parametrize("suite", [test_values, test_upsampling], ids=lambda suite: suite.__name__)
def test_the_case_lists_run_on_all_of_them(suite: object) -> None:
    tried = [target.level for target in suite.TARGETS if target.backend.name == "cpu"]  # type: ignore[attr-defined]
    assert tried == LEVELS
    assert [target.level for target in targets() if target.level] == LEVELS


def test_volumes_run_on_all_of_them() -> None:
    (mark,) = (mark for mark in test_volumes.test_case.pytestmark if mark.args[0] == "target")  # type: ignore[attr-defined]
    assert [target.level for target in mark.args[1] if target.level] == LEVELS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_apply_codes_and_cuts(level: str, dtype: torch.dtype) -> None:
    """What autograd does not show: `apply`, forward without codes, and more than one thread."""
    driver, best = Installed(level), Installed(LEVELS[0])
    for case in ALL_CASES:
        for kind in ("normal", "nan") if dtype.itemsize > 2 else ("nan",):
            x, dy, want = expected(case, kind, dtype)
            for channels_last in (False, True):
                one, five = both_cuts(driver, case, x, dy, channels_last)
                check_all(one, want)
                check_cuts(one, five)
                codes = best(case, x, dy, channels_last, 1)["codes"]
                assert torch.equal(one["codes"], codes), f"{case}: other winners"
