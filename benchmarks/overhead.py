"""What a call costs beside its work: ``python -m benchmarks.overhead``, on a map of 256 elements.

Each entry takes its turn in every round, so that a busy machine is busy for all of them; what is
shown is the median over the rounds, in microseconds a call.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from fastblur import FusedBlurUpsample, FusedMaxBlurPool
from fastblur.surgery import FilteredPool

SHAPE = (1, 4, 8, 8)
COLUMNS = ("no grad", "with grad", "forward + backward")
Around = Callable[[], AbstractContextManager[object]]


def filtered_pool() -> nn.Module:
    """The layer that ``fuse_`` and ``antialias_`` install."""
    geometry = FusedMaxBlurPool().geometry
    taps = torch.tensor(geometry.taps_h)
    return FilteredPool(geometry, torch.outer(taps, taps).expand(SHAPE[1], 1, -1, -1).clone())


def entries(compiled: bool) -> Iterator[tuple[str, Callable[[Tensor], Tensor], Around]]:
    """Name, layer, and what it is called in."""
    layers: dict[str, nn.Module] = {
        "nn.MaxPool2d": nn.MaxPool2d(2),
        "FusedMaxBlurPool": FusedMaxBlurPool(),
        "FilteredPool": filtered_pool(),
        "nn.Upsample": nn.Upsample(scale_factor=2, mode="bilinear"),
        "FusedBlurUpsample": FusedBlurUpsample(padding_mode="replicate"),
    }
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    for name, layer in layers.items():
        yield name, layer, nullcontext
    for name, layer in layers.items():
        yield f"{name}, autocast", layer, autocast
    for name, layer in layers.items() if compiled else ():
        yield f"{name}, compiled", torch.compile(layer, fullgraph=True), nullcontext


def calls(layer: Callable[[Tensor], Tensor]) -> Iterator[Callable[[], object]]:
    """One for each of COLUMNS."""
    x = torch.randn(SHAPE)
    leaf = x.clone().requires_grad_()
    ones = torch.ones_like(layer(leaf))
    yield torch.no_grad()(partial(layer, x))
    yield partial(layer, leaf)
    yield lambda: layer(leaf).backward(ones)


def seconds(call: Callable[[], object], around: Around, count: int) -> float:
    with around():
        start = time.thread_time()
        for _ in range(count):
            call()
        return (time.thread_time() - start) / count


def measure(rounds: int, count: int, compiled: bool) -> dict[str, list[float]]:
    """Microseconds a call of each entry, in the order of COLUMNS."""
    timed = {}
    for name, layer, around in entries(compiled):
        with around():
            timed[name] = list(calls(layer)), around
    found: dict[str, list[list[float]]] = {name: [[] for _ in COLUMNS] for name in timed}
    for turn in range(rounds + 1):
        for name, (each, around) in timed.items():
            for column, call in enumerate(each):
                taken = seconds(call, around, count)
                if turn:  # the first warms up
                    found[name][column].append(1e6 * taken)
    return {name: list(map(statistics.median, columns)) for name, columns in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--count", type=int, default=200, help="calls a round")
    parser.add_argument("--no-compile", action="store_true", help="leaves compiled layers out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = measure(options.rounds, options.count, not options.no_compile)
    lines = [f"{'µs a call':<28}" + "".join(f"{column:>20}" for column in COLUMNS)]
    lines += [
        f"{name:<28}" + "".join(f"{taken:>20.1f}" for taken in row) for name, row in table.items()
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
