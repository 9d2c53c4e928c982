"""What bounds the CPU kernels: the same call on maps that stay in cache, and on maps that do not.

Nanoseconds of one thread's own time per 16 elements of x, the best of many calls. Where both are
alike, memory is not what the kernels wait for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from .instruction_counts import calls
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


def main() -> None:
    torch.set_num_threads(1)
    table = Table("layer", "dtype", "layout", "call", "in cache, ns", "not, ns")
    for small in (workload for base in WORKLOADS for workload in both_layouts(base)):
        sizes = (small, replace(small, shape=(*LARGER, *small.shape[2:])))
        both = [(calls(workload), math.prod(workload.shape)) for workload in sizes]
        _, layer = small.layer.split(" ", 1)
        for name in ("training forward", "backward"):
            times = [best(of[name], elements) for of, elements in both]
            table.add_row(layer, small.kind, small.layout, name, *(f"{t:.1f}" for t in times))
    Console().print(table)


if __name__ == "__main__":
    main()
