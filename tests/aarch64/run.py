"""The case list on the driver's targets, against the judge and this machine's targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastblur._backends import compiled
from testing.cases import CASES, UPSAMPLES, Case, UpsampleCase

from ..kernels.drivers import MORE, Installed, Results, both_cuts, check_all, expected
from .program import Program

TARGETS = ("neon", "generic")  # of aarch64, best first
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGE = 10_000  # elements of x; beyond that a case runs with one kind of values, for time
# The target of x86-64 whose vectors do the same operations in the same order.
LIKE = {"neon": "avx2", "generic": "generic"}


def blur_of(case: UpsampleCase) -> Case:
    """The blur whose backward upsamples: of a map as large as the result."""
    up = case.upsampling()
    b = up.blur
    h, w = (n + sum(up.repeated[i : i + 2]) for n, i in zip(case.shape[2:], (0, 2), strict=True))
    shape = (*case.shape[:2], h * b.stride[0], w * b.stride[1])
    return Case(
        (1, 1), b.stride, (0, 0), b.taps_h, b.taps_w, b.blur_padding, b.padding_mode, shape=shape
    )


ALL_CASES = list(dict.fromkeys([*CASES, *MORE, *map(blur_of, UPSAMPLES)]))


def kinds_of(case: Case, dtype: torch.dtype) -> tuple[str, ...]:
    """Values to fill x with; "nan" has ties too."""
    if math.prod(case.shape) > LARGE:
        return ("normal",)
    return ("normal", "ties", "nan", "inf") if dtype == torch.float32 else ("normal", "nan")


@dataclass
class Found:
    """What a run has counted."""

    calls: int = 0
    elements: int = 0  # of y and dx
    same_bits: int = 0
    furthest: float = 0.0  # difference relative to the largest result
    wrong: list[str] = field(default_factory=list)


def run(program: Program, target: str, dtype: torch.dtype, cases: list[Case] = ALL_CASES) -> Found:
    """Every case on one target: forward with and without codes, apply, backward."""
    found, driver, like = Found(), program.driver(target), installed(target)
    for case in cases:
        for kind in kinds_of(case, dtype):
            x, dy, want = expected(case, kind, dtype)
            for channels_last in (False, True):
                found.calls += 2
                try:
                    one, five = both_cuts(driver, case, x, dy, channels_last)
                    check_all(one, want)
                    check_cuts(one, five)
                    if like is not None:
                        compare(found, one, like(case, x, dy, channels_last, 1))
                except AssertionError as error:
                    what = f"{target}, {dtype}, {case}, {kind}, channels_last={channels_last}"
                    found.wrong.append(f"{what}: {str(error).strip().splitlines()[0]}")
    return found


def installed(target: str) -> Installed | None:
    """The like target of this machine."""
    if compiled.C is None or LIKE[target] not in compiled.C.cpu.targets():
        return None
    return Installed(LIKE[target])


def check_cuts(one: Results, five: Results) -> None:
    """Fails unless the cuts between rows change no bit of a result."""
    for name, result in one.items():
        same = torch.equal(bits(result), bits(five[name]))
        assert same, f"{name} depends on how the rows are shared out"


def compare(found: Found, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Counts the elements that have the same bits; fails unless the winners are the same."""
    assert torch.equal(ours["codes"], theirs["codes"]), "other winners than on this machine"
    for name in ("y", "dx"):
        mine, other = ours[name], theirs[name]
        same = bits(mine) == bits(other)
        found.elements += same.numel()
        found.same_bits += int(same.sum())
        if not same.all():
            finite = other.isfinite()
            apart = (mine.double() - other.double())[finite].abs().max()
            largest = other[finite].double().abs().max()
            found.furthest = max(found.furthest, float(apart / largest))


def bits(t: Tensor) -> Tensor:
    """As integers; every NaN is one, since processors differ in its sign."""
    if not t.is_floating_point():
        return t
    whole = torch.where(t.isnan(), torch.nan, t)
    return whole.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


def figures(program: Program) -> Iterator[tuple[str, torch.dtype, Found]]:
    """Every target and type."""
    for target in program.targets:
        for dtype in DTYPES:
            yield target, dtype, run(program, target, dtype)
