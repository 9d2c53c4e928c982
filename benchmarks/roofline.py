"""What bounds the CPU kernels: the same call on maps that stay in cache, and on maps that do not.

Nanoseconds of one thread's own time per 16 elements of x, the best of many calls. Where both are
alike, memory is not what the kernels wait for.
"""

from __future__ import annotations

import json
import math
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fastblur._backends import compiled

from .instruction_counts import calls
from .pages.results import Row
from .pages.tables import in_cache
from .workloads import Workload, both_layouts

WORKLOADS = [
    Workload((1, 32, 112, 112), *layer, dtype)
    for dtype in (torch.float32, torch.bfloat16)
    for layer in ((3, 1, 3), (2, 0, 4))
]
LARGER = (8, 64)  # images and channels of the maps that are past the caches
CALLS = 40


def best(call: Callable[[], object], elements: int) -> float:
    """Nanoseconds per 16 elements."""
    shortest = float("inf")
    for _ in range(CALLS):
        begin = time.process_time()
        call()
        shortest = min(shortest, time.process_time() - begin)
    return shortest * 1e9 * 16 / elements


def measure() -> list[Row]:
    """For each layer and call, the time on maps that stay in cache, and on maps that do not."""
    rows = []
    for small in (workload for base in WORKLOADS for workload in both_layouts(base)):
        sizes = (small, replace(small, shape=(*LARGER, *small.shape[2:])))
        both = [(calls(workload), math.prod(workload.shape)) for workload in sizes]
        layer = small.layer.split(" ", 1)[1]
        row: Row = {"layer": layer, "dtype": small.kind, "layout": small.layout}
        for name in ("training forward", "backward"):
            row[name] = [round(best(of[name], elements), 1) for of, elements in both]
        rows.append(row)
    return rows


def main() -> int:
    parser = ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file; else the table is shown only")
    options = parser.parse_args()
    if compiled.C is None:
        parser.error(f"there is nothing to time: {compiled.WHY_NOT}")
    torch.set_num_threads(1)
    rows = measure()
    sys.stdout.write(in_cache(rows) + "\n")
    if options.out is not None:
        lines = ",\n ".join(json.dumps(row) for row in rows)
        options.out.write_text(f'{{"simd": "{compiled.C.cpu.target()}", "rows": [\n {lines}\n]}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
