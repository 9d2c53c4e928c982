"""Sizes from 1 to 40 on a coarse grid, against the unfused chain: values, gradients, errors."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastblur import _backends
from fastblur._geometry import Geometry
from testing.cases import MODES, fill, in_format
from testing.judge import answer, binomial, judge

from ..conftest import needs_extension

SIZES = (1, 2, 3, 4, 5, 7, 8, 11, 15, 16, 17, 23, 32, 33, 40)


@needs_extension
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pool", [1, 2, 3, 4])
def test_sizes(pool: int, mode: str) -> None:
    """Every pair of sizes; taps, strides and paddings go round, so that all of them meet."""
    cpu = _backends.choose("cpu", torch.device("cpu"))
    settings = itertools.cycle(itertools.product((0, pool // 2), range(1, 8), (1, 2, 3, 4)))
    checked = refused = 0
    for (h, w), channels_last in itertools.product(itertools.product(SIZES, SIZES), (False, True)):
        pad, f, s = next(settings)
        taps, b = binomial(f), ((f - 1) // 2, f // 2) * 2
        chain = ((pool, pool), (s, s), (pad, pad), taps, taps, b, mode)
        geometry = Geometry.resolve(pool, s, pad, f, padding_mode=mode)
        x = fill((2, 3, h, w), "ties", torch.float32, seed=h * 64 + w)
        try:
            geometry.check_input(x)
        except ValueError:
            with pytest.raises(RuntimeError):  # plain PyTorch must refuse it too
                judge(x, *chain)
            refused += 1
            continue
        leaf = in_format(x, channels_last).requires_grad_()
        y = cpu.run(leaf, geometry)
        dy = torch.randn(y.shape)
        (dx,) = torch.autograd.grad(y, leaf, dy)
        answer(x, dy, *chain).check(f"{geometry} {h}x{w}", y, dx)
        checked += 1
    assert checked > 300
    assert refused + checked == 2 * len(SIZES) ** 2
