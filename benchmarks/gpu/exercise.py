"""Runs every kernel once or twice on small, awkward inputs: what compute-sanitizer looks at.

Inputs come from the CPU, so that few kernels but fastblur's run.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fastblur._backends import compiled
from fastblur._geometry import DTYPES, Geometry

SHAPES = [(2, 5, 13, 19), (1, 16, 8, 30), (3, 1, 7, 65), (2, 16, 48, 32)]


def geometries() -> list[Geometry]:
    """Each specialised size with each border, with and without ReLU; and generic ones."""
    sizes = [
        Geometry.resolve(k, 2, p, f, padding_mode=mode, relu=relu)
        for (k, p), f in itertools.product([(1, 0), (2, 0), (3, 0), (3, 1)], (2, 3, 4, 5))
        for mode, relu in itertools.product(("reflect", "replicate", "zeros"), (False, True))
    ]
    return [
        *sizes,
        Geometry.resolve((2, 5), (1, 3), (1, 2), (6, 3), padding_mode="circular"),
        Geometry.resolve((1, 3), 2, (0, 1), filter_size=7, relu=True),
        Geometry.resolve(4, 1, 2, 2, padding_mode="zeros"),
        Geometry.resolve(2, 2, 0, 1),
    ]


def unit(y: torch.Tensor) -> float:
    """In the last place of the largest."""
    return torch.finfo(y.dtype).eps * y.abs().max().item()


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=60.0, help="stop then, saying so")
    options = parser.parse_args()
    calls = list(itertools.product(geometries(), DTYPES, (False, True)))
    random.Random(0).shuffle(calls)  # so that a part of them is a fair sample
    start, done = time.monotonic(), 0
    for (geometry, dtype, channels_last), shape in zip(
        calls, itertools.cycle(SHAPES), strict=False
    ):
        if time.monotonic() - start > options.seconds:
            break
        arguments = (*geometry.arguments(), channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        n, c, h, w = shape
        x = torch.randn(shape).to(dtype=dtype, memory_format=memory_format).to(options.device)
        y, codes = compiled.OPERATORS.forward(x, arguments, True)
        alone, _ = compiled.OPERATORS.forward(x, arguments, False)
        dy = torch.randn(n, c, *geometry.output_size(h, w)).to(dtype=dtype)
        dx = compiled.OPERATORS.backward(dy.to(options.device), codes, shape, arguments)
        again = compiled.OPERATORS.apply(x, codes, arguments)
        if not torch.equal(y.cpu(), alone.cpu()):
            print(f"forward with and without codes disagree: {geometry} {dtype} {shape}")
            return 1
        # Not to the bit: apply sums in another order.
        if not torch.allclose(y.cpu().double(), again.cpu().double(), rtol=0, atol=8 * unit(y)):
            print(f"forward and apply disagree: {geometry} {dtype} {shape}")
            return 1
        if not dx.cpu().isfinite().all():
            print(f"backward is not finite: {geometry} {dtype} {shape}")
            return 1
        done += 1
    print(f"{done} of {len(calls)} combinations of size, border, dtype and format ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
