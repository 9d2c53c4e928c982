"""Every seeded defect is found; a few of them, or all with FASTBLUR_SLOW_TESTS=1."""

from __future__ import annotations

import os

import pytest

from . import HostCuda, mutants
from .build import CSRC, BuildError, why_not
from .defects import DEFECTS, HARMLESS, Defect
from .defines import NONE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]

SLOW = os.environ.get("FASTBLUR_SLOW_TESTS") == "1"
# Found by different checks.
QUICK = [
    "generic: of equal columns the last wins",
    "generic: every lane stores the word",
    "generic: lanes leave before the vote",
    "generic: gather goes on beyond the end",
]


@pytest.mark.parametrize(
    "defect", [d for d in DEFECTS if SLOW or d.name in QUICK], ids=lambda defect: defect.name
)
def test_a_defect_is_found(defect: Defect) -> None:
    assert mutants.find(defect) is not None


@pytest.mark.skipif(not SLOW, reason="takes minutes; set FASTBLUR_SLOW_TESTS=1")
@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.name)
def test_a_harmless_change_is_not_found(change: Defect) -> None:
    assert mutants.find(change, ("values", "trace")) is None


@pytest.mark.parametrize("defect", DEFECTS + HARMLESS, ids=lambda defect: defect.name)
def test_defects_fit_the_sources(defect: Defect) -> None:
    with mutants.sources_with(defect) as csrc:
        assert (csrc / defect.file).read_text() != (CSRC / defect.file).read_text()


def test_sound_sources_pass() -> None:
    """What finds a defect says nothing without one."""
    none = Defect("none", "geometry.h", "", "", NONE)
    for name in ("values", "trace"):
        mutants.CHECKS[name](CSRC, none)


def test_a_defect_that_does_not_compile_is_an_error() -> None:
    defect = Defect("none", "geometry.h", "kMaxPool = 15;", "kMaxPool = ;", NONE)
    with mutants.sources_with(defect) as csrc, pytest.raises(BuildError):
        HostCuda(csrc=csrc, defines=NONE)
