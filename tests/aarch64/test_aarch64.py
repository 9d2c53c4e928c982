"""The CPU kernels for 64-bit Arm, on the whole case list, by an emulator; see aarch64/."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from fastblur._backends import compiled
from testing.cases import zhang

from ..kernels.drivers import expected, rounds_to_even
from . import counts
from .build import COMPILER, build, major, why_not
from .program import Program
from .run import DTYPES, TARGETS, installed, run

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
    pytest.mark.slow,  # it compiles for a minute
]


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with Program(build(quick=True)) as program:
        yield program


def test_every_target_is_tried(program: Program) -> None:
    assert program.targets == list(TARGETS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_case_list(program: Program, target: str, dtype: torch.dtype) -> None:
    """Forward with codes and without, apply and backward, in both layouts, in one share and five.

    Winners are those of x86-64. So are all bits of the NEON target, which does in the same order
    what the AVX2 target does, if GCC 12 forms the FMAs of both.
    """
    found = run(program, target, dtype)
    assert found.calls > 1000
    assert not found.wrong, f"{len(found.wrong)} are wrong: {found.wrong[:5]}"
    if installed(target) is not None:
        assert found.elements > 1_000_000
        if (
            target == "neon"
            and compiled.BUILD["compiler"].startswith("12.")
            and major(COMPILER) == 12
        ):
            assert found.same_bits == found.elements


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_rounds_to_even(program: Program, target: str, dtype: torch.dtype) -> None:
    assert rounds_to_even(program.driver(target), dtype)


def test_a_wrong_result_is_noticed(program: Program) -> None:
    """By the same comparison: of a case whose taps are not those that the judge is told."""
    case = zhang(2, 3)
    asked = replace(case, taps_h=(0.25, 0.5, 0.2500004))
    x, dy, _ = expected(case, "normal", torch.float32)
    ours = program.driver("neon")(asked, x, dy, False, 1)
    exact = expected(case, "normal", torch.float32)[2]
    with pytest.raises(AssertionError):
        exact.check("0.2500004 for 0.25", ours["y"], ours["dx"])


def test_what_the_driver_refuses_is_an_error() -> None:
    with Program(build(quick=True)) as program:
        x, dy, _ = expected(zhang(2, 3), "normal", torch.float32)
        with pytest.raises(RuntimeError, match=r"must be one of 'neon', 'generic'.*'avx2'"):
            program.run("avx2", zhang(2, 3), x, dy, False, 1)


def test_neon_pays() -> None:
    """In instructions, which are no time; without vectors of its own it would not."""
    if reason := counts.why_not():
        pytest.skip(reason)
    found = counts.count(build(quick=True))
    for name, instructions in found.items():
        if name.endswith("neon"):
            assert instructions < 0.7 * found[name.replace("neon", "generic")], name
