"""Every seeded defect fits the sources; `python -m tests.mutants` tries whether it is caught."""

from __future__ import annotations

import pytest

from . import cpu, python_layer
from .kernels import KERNELS, VARIANTS
from .mutant import ROOT, Mutant

MUTANTS = [*python_layer.MUTANTS, *cpu.MUTANTS]
pytestmark = pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="runs from a source tree only")


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutant_fits_the_sources(mutant: Mutant) -> None:
    assert mutant.text() != (ROOT / mutant.file).read_text()
    for test in mutant.tests:
        if test.startswith(KERNELS):
            assert test.removeprefix(KERNELS) in VARIANTS
        else:
            assert (ROOT / test.partition("::")[0]).exists()


def test_there_are_enough() -> None:
    """Of every file of csrc/cpu that the driver compiles, and of each part of fastblur/."""
    files = [mutant.file for mutant in MUTANTS]
    assert sum(file.startswith("fastblur/") for file in files) >= 30
    assert sum(file.startswith("csrc/cpu/") for file in files) >= 60
    assert len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS)


def test_a_defect_that_does_not_fit_is_an_error() -> None:
    for old in ("nothing like this", "import"):  # never, and more than once
        with pytest.raises(ValueError, match="times"):
            Mutant("fastblur/functional.py", old, "", ()).text()
