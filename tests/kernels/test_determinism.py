"""The same bits in every run, for any number of threads."""

from __future__ import annotations

import pytest
import torch

from fastblur._backends import compiled
from fastblur._geometry import Geometry
from testing.cases import fill, in_format

from ..conftest import needs_extension

pytestmark = needs_extension
OPERATORS = compiled.OPERATORS

SHAPES = [(1, 3, 200, 150), (3, 5, 61, 67), (64, 32, 9, 9), (1, 64, 40, 40), (2, 7, 1, 900)]
# Maps enough to be cut nowhere by few threads, and too few for many.
SHAPES += [(18, 7, 35, 35)]
# Channels of several vectors, the last of which is no whole one, with bits in whole bytes or not.
SHAPES += [(2, 67, 23, 31), (1, 40, 30, 18)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bit_equal(shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype) -> None:
    x = in_format(fill(shape, "normal", dtype), channels_last)
    for g in (
        Geometry.resolve(3, 2, 1, padding_mode="replicate"),
        Geometry.resolve(2, filter_size=3, relu=True, padding_mode="circular", blur_padding=0),
        Geometry.resolve((1, 2), (3, 1), padding_mode="replicate"),
        Geometry.resolve(1, padding_mode="replicate"),
    ):
        if shape[2] < 3 and g.kernel_size[0] > 1 and g.padding[0] == 0:
            continue
        arguments = (*g.arguments(), channels_last)
        for level in compiled.C.cpu.targets():
            compiled.C.cpu.set_target(level)
            first: list[torch.Tensor] | None = None
            for threads in (1, 2, 3, 5, 8, 1):
                torch.set_num_threads(threads)
                y, codes = OPERATORS.forward(x, arguments, True)
                dx = OPERATORS.backward(y, codes, list(shape), arguments)
                again = OPERATORS.apply(x, codes, arguments)
                alone, _ = OPERATORS.forward(x, arguments, False)
                assert torch.equal(y, alone)
                results = [y, codes, dx, again]
                first = first or results
                assert all(map(torch.equal, results, first)), (g, level, threads)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("width", [9, 14, 35, 56, 70])  # of rows that fill their bytes, and do not
def test_codes_of_what_is_not_finite(width: int, channels_last: bool) -> None:
    """A NaN changes how the rows around it are done, which depends on how the rows were cut."""
    x = in_format(fill((1, 3, 4001, width), "normal", torch.float32), channels_last)
    for at in range(7, 4001, 41):
        x[0, at % 3, at, at % width] = float("nan" if at % 2 else "-inf")
    for g in (Geometry.resolve(2), Geometry.resolve(2, relu=True), Geometry.resolve(3, 2, 1)):
        arguments = (*g.arguments(), channels_last)
        for level in compiled.C.cpu.targets():
            compiled.C.cpu.set_target(level)
            first: list[torch.Tensor] | None = None
            for threads in (1, 2, 3, 5, 8):
                torch.set_num_threads(threads)
                y, codes = OPERATORS.forward(x, arguments, True)
                results = [y.contiguous().view(torch.int32), codes]
                first = first or results
                assert all(map(torch.equal, results, first)), (g, level, threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "width", [64, 48, 40, 45]
)  # rows of whole lines, of pieces of them, and not
@pytest.mark.parametrize(
    "geometry",
    [Geometry.resolve(3, 2, 1), Geometry.resolve(2), Geometry.resolve(1), Geometry.resolve(1, 3)],
    ids=["max 3", "max 2", "blur", "blur by 3"],
)
def test_large_results_are_those_of_their_parts(
    geometry: Geometry, width: int, channels_last: bool, dtype: torch.dtype
) -> None:
    """From 4 and 2 MiB on y and dx can go past the caches, in stores of their own."""
    shape, part = (104, 32, 64, width), 2
    arguments = (*geometry.arguments(), channels_last)
    x = in_format(fill(shape, "normal", dtype), channels_last)
    assert x.nbytes >= 2 << 20 > part * x[0].nbytes
    for level in compiled.C.cpu.targets():
        compiled.C.cpu.set_target(level)
        y, codes = OPERATORS.forward(x, arguments, True)
        dx = OPERATORS.backward(y, codes, list(shape), arguments)
        assert y.nbytes >= 4 << 20 or geometry.stride[0] > 2
        for n in range(0, shape[0], part):
            few = slice(n, n + part)
            assert torch.equal(OPERATORS.forward(x[few], arguments, True)[0], y[few])
            alone = OPERATORS.backward(y[few], codes[few], [part, *shape[1:]], arguments)
            assert torch.equal(dx[few], alone)
