"""Offsets of more than 31 bits, in tensors that take little memory.

Found in: https://github.com/intel/torch-xpu-ops/pull/3940 (channels_last backward of max pooling),
https://github.com/pytorch/pytorch/issues/129785 (that of average pooling),
https://github.com/triton-lang/triton/issues/6748 (Triton's offsets are int32 where numbers are).
The CUDA kernels are in `tests/cuda_on_host/test_cuda_on_host.py`.
"""

from __future__ import annotations

import builtins
import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fastblur._backends import compiled
from fastblur._geometry import Geometry
from testing.cases import fill

from ..conftest import needs_extension
from .mapped import Mapped
from .runners import INTERPRETED, same

FAR = 2**31
DTYPE = torch.bfloat16
GEOMETRIES = {
    "max 2": Geometry.resolve(2),
    "max 3": Geometry.resolve(3, 2, 1, filter_size=3),
    "blur": Geometry.resolve(1, filter_size=3),
    "generic": Geometry.resolve((2, 3), 3, (0, 1), filter_size=2),
}
each_geometry = pytest.mark.parametrize(
    "geometry",
    [
        pytest.param(geometry, id=name, marks=[pytest.mark.slow] if name != "max 2" else [])
        for name, geometry in GEOMETRIES.items()
    ],
)
each_layout = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "nhwc"])


def in_memory_order(t: Tensor, channels_last: bool) -> Tensor:
    return (t.permute(0, 2, 3, 1) if channels_last else t).contiguous().flatten()


def from_memory(flat: Tensor, size: tuple[int, ...], channels_last: bool) -> Tensor:
    n, c, h, w = size
    return flat.view(n, h, w, c).permute(0, 3, 1, 2) if channels_last else flat.view(size)


# ---- the CPU -----------------------------------------------------------------------------------


def native(geometry: Geometry, size: tuple[int, ...], channels_last: bool) -> Any:
    plan = compiled.C.Plan(*geometry.arguments())
    return compiled.C.cpu.Call(plan, 3, channels_last, *size)


def sizes(call: Any, size: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The size of y, and the bytes of an image's codes."""
    h, w, codes = call.sizes
    return (*size[:2], h, w), codes


@needs_extension
@each_layout
@each_geometry
def test_the_last_image_on_the_cpu(geometry: Geometry, channels_last: bool) -> None:
    """Of a batch of 2**31 elements and more: as alone, forwards and backwards, to the bit."""
    image = (64, 128, 130)
    images = FAR // math.prod(image) + 2
    near, far = ((n, *image) for n in (1, images))
    x = fill(near, "ties", DTYPE)
    call = native(geometry, near, channels_last)
    y_size, n_codes = sizes(call, near)
    flat = in_memory_order(x, channels_last)
    dy = torch.randn(math.prod(y_size)).to(DTYPE)
    y, dx = torch.empty_like(dy), torch.empty_like(flat)
    codes = torch.empty(n_codes, dtype=torch.uint8)
    call.forward(flat.data_ptr(), y.data_ptr(), codes.data_ptr() if n_codes else 0, 1)
    call.backward(dy.data_ptr(), codes.data_ptr(), dx.data_ptr(), 1)

    with contextlib.ExitStack() as stack:

        def mapped(last: Tensor) -> Tensor:
            room = Mapped(images * last.numel(), last.numel(), last.dtype)
            return stack.enter_context(room)

        far_x, far_y, far_dy, far_dx = (mapped(t) for t in (flat, y, dy, dx))
        far_codes = mapped(codes) if n_codes else codes
        assert far_x.numel() > FAR + flat.numel()
        far_x[-flat.numel() :] = flat
        far_dy[-dy.numel() :] = dy
        call = native(geometry, far, channels_last)
        call.forward(far_x.data_ptr(), far_y.data_ptr(), far_codes.data_ptr() if n_codes else 0, 1)
        call.backward(far_dy.data_ptr(), far_codes.data_ptr(), far_dx.data_ptr(), 1)
        same(far_y[-y.numel() :].clone(), y, "y")
        same(far_dx[-dx.numel() :].clone(), dx, "dx")
        if n_codes:
            same(far_codes[-n_codes:].clone(), codes, "codes")
    assert dx.any()


@needs_extension
@each_layout
@pytest.mark.parametrize("name", ["max 2", "blur"])
def test_the_last_rows_on_the_cpu(name: str, channels_last: bool) -> None:
    """The same of one image of 2**31 elements: rows far from its beginning."""
    geometry = GEOMETRIES[name]
    c, w = (64, 256) if channels_last else (1, 16_384)
    few, margin = 64, 16
    rows = FAR // (c * w) + 2 * few
    near, far = (1, c, few, w), (1, c, rows, w)
    flat = in_memory_order(fill(near, "ties", DTYPE), channels_last)
    found = []
    for size in (near, far):
        call = native(geometry, size, channels_last)
        y_size, n_codes = sizes(call, size)
        line, y_line = c * w, c * y_size[3]
        with contextlib.ExitStack() as stack:

            def mapped(elements: int, own: int) -> Tensor:
                return stack.enter_context(Mapped(elements, own, DTYPE))

            x, dx = (mapped(math.prod(size), few * line) for _ in range(2))
            y, dy = (mapped(math.prod(y_size), few // 2 * y_line) for _ in range(2))
            codes = torch.empty(max(n_codes, 1), dtype=torch.uint8)
            x[-flat.numel() :] = flat
            dy[-few // 2 * y_line :] = fill((few // 2 * y_line,), "normal", DTYPE, seed=1)
            call.forward(x.data_ptr(), y.data_ptr(), codes.data_ptr() if n_codes else 0, 1)
            call.backward(dy.data_ptr(), codes.data_ptr(), dx.data_ptr(), 1)
            lines = (few // 2 - margin) * y_line, (few - margin) * line
            found.append([t[-n:].clone() for t, n in zip((y, dx), lines, strict=True)])
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs)
        assert ours.any()


# ---- Triton ------------------------------------------------------------------------------------


@pytest.fixture
def _last_programs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs the last programs of large grids alone, and copies no storage."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def last(*bounds: int) -> Iterator[int]:
        if len(bounds) == 1 and bounds[0] > 100:
            return builtins.range(bounds[0] - 2, bounds[0])  # type: ignore[return-value]
        return builtins.range(*bounds)  # type: ignore[return-value]

    monkeypatch.setattr(interpreter, "range", last, raising=False)
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *_: None)


@pytest.mark.skipif(
    not INTERPRETED, reason="runs in Triton's interpreter, where TRITON_INTERPRET is set"
)
@pytest.mark.usefixtures("_last_programs_only")
@each_layout
@each_geometry
def test_the_last_image_by_triton(geometry: Geometry, channels_last: bool) -> None:
    """The programs of the last image find it, forwards, backwards and with given winners."""
    from fastblur._backends.triton import TRITON

    image = (16, 16, 96)  # of a program or two
    images = FAR // math.prod(image) + 2
    near, far = ((n, *image) for n in (1, images))
    arguments = (*geometry.arguments(), channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = fill(near, "ties", torch.float16).contiguous(memory_format=layout)
    y, codes = TRITON.operators.forward(x, arguments, True)
    dy = torch.randn(y.shape).half().contiguous(memory_format=layout)
    dx = TRITON.operators.backward(dy, codes, near, arguments)
    applied = TRITON.operators.apply(x, codes, arguments)
    with contextlib.ExitStack() as stack:

        def mapped(last: Tensor, layout: torch.memory_format) -> Tensor:
            flat = in_memory_order(last, layout is torch.channels_last)
            room = Mapped(images * flat.numel(), flat.numel(), last.dtype)
            t = stack.enter_context(room)
            t[-flat.numel() :] = flat
            return from_memory(t, (images, *last.shape[1:]), layout is torch.channels_last)

        far_x, far_dy = mapped(x, layout), mapped(dy, layout)
        assert far_x[-1].storage_offset() > FAR
        far_y, far_codes = TRITON.operators.forward(far_x, arguments, True)
        same(far_y[-1:], y, "y")
        if not geometry.linear:
            same(far_codes[-1:], codes, "codes")
        far_dx = TRITON.operators.backward(far_dy, far_codes, far, arguments)
        same(far_dx[-1:], dx, "dx")
        same(TRITON.operators.apply(far_x, far_codes, arguments)[-1:], applied, "applied")
    assert dx.any()
