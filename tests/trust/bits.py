"""Which results have the same bits: over the case list, in every dtype, layout and kind of values.

``python -m tests.trust.bits`` writes tests/records/bits.json. Compared are y, the codes, dx and the
result of apply, as bytes: by one CPU target with other numbers of threads, and by each target
against the others. The maps of the case list are too small for a second thread, so each input has
as many of them as images as eight threads need.
"""

# ruff: noqa: T201

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from math import prod
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from fastblur._backends import compiled
from testing import records
from testing.cases import CASES, Case, fill, in_format

THREADS = (1, 2, 3, 5, 8)
ELEMENTS = 8 * 32768  # of x: eight threads get a part each (kGrain of csrc/cpu/backend.cpp)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
KINDS = ("normal", "ties", "nan")
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Results(NamedTuple):
    """Of one call, forwards and backwards."""

    y: Tensor
    codes: Tensor
    dx: Tensor
    applied: Tensor


def same(a: Tensor, b: Tensor) -> bool:
    """Whether the bits are, of NaN too."""
    integer = INTEGERS[a.element_size()]
    return torch.equal(a.contiguous().view(integer), b.contiguous().view(integer))


def units(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units in the last place of the largest result."""
    one, two = (t.double().nan_to_num(nan=0.0) for t in (a, b))
    if not one.any():
        return 0.0
    return ((one - two).abs().max() / one.abs().max()).item() / torch.finfo(a.dtype).eps


def run(case: Case, x: Tensor, channels_last: bool) -> Results:
    arguments = (*case.geometry().arguments(), channels_last)
    y, codes = compiled.OPERATORS.forward(x, arguments, True)
    dy = in_format(fill(tuple(y.shape), "normal", x.dtype, seed=1), channels_last)
    dx = compiled.OPERATORS.backward(dy, codes, list(x.shape), arguments)
    return Results(y, codes, dx, compiled.OPERATORS.apply(x, codes, arguments))


def inputs(
    cases: Sequence[Case], dtypes: Sequence[torch.dtype], elements: int = 0
) -> Iterator[tuple[Case, Tensor, bool]]:
    """What is compared: case, x with so many images that it has the elements, its layout."""
    for case, dtype, last, kind in product(cases, dtypes, (False, True), KINDS):
        n, *image = case.shape
        shape = (max(n, -(-elements // prod(image))), *image)
        yield case, in_format(fill(shape, kind, dtype), last), last


def by_threads(case: Case, x: Tensor, channels_last: bool) -> tuple[Results, int]:
    """The results of the target in force, and how many calls gave other bits than the first."""
    found = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        found.append(run(case, x, channels_last))
    return found[0], sum(not all(map(same, found[0], other)) for other in found[1:])


def compare() -> Iterator[dict[str, Any]]:
    """The figures so far, after each input; the last are those of all."""
    assert compiled.C is not None
    names = compiled.C.cpu.targets()
    pairs: dict[str, dict[str, Any]] = {
        f"{a} and {b}": {"inputs": 0, "differ": Counter(), "units": {}}
        for a, b in combinations(names, 2)
    }
    figures: dict[str, Any] = {"calls": 0, "calls that differ": 0, "threads": THREADS}
    for case, x, channels_last in inputs(CASES, DTYPES, ELEMENTS):
        found = {}
        for name in names:
            compiled.C.cpu.set_target(name)
            found[name], differ = by_threads(case, x, channels_last)
            figures["calls"] += len(THREADS)
            figures["calls that differ"] += differ
        for (a, b), pair in zip(combinations(names, 2), pairs.values(), strict=True):
            pair["inputs"] += 1
            count(pair, found[a], found[b])
        yield figures | {"pairs": pairs}


def count(pair: dict[str, Any], one: Results, other: Results) -> None:
    """Adds what two targets made of an input."""
    for what, a, b in zip(Results._fields, one, other, strict=True):
        if same(a, b):
            continue
        pair["differ"][what] += 1
        if what != "codes":
            most = max(pair["units"].get(what, 0.0), units(a, b))
            pair["units"][what] = float(f"{most:.3g}")


def main() -> None:
    total = len(CASES) * len(DTYPES) * 2 * len(KINDS)
    *_, figures = track(compare(), "Bits", total)
    print(records.write("bits", "python -m tests.trust.bits", figures))


if __name__ == "__main__":
    main()
