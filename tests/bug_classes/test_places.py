"""Tensors that lie in memory as kernels of other libraries did not expect."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastblur._backends import compiled
from fastblur._dispatch.operators import is_channels_last
from fastblur._geometry import Geometry
from testing.cases import Case, fill, in_format

from ..kernels.test_values import gradient_for
from .runners import (
    INTERPRETED,
    OnHost,
    each_dtype,
    each_format,
    each_geometry,
    each_target,
    run,
    same,
)

SHAPE = (2, 18, 8, 16)


def sized(case: Case, shape: tuple[int, ...] = SHAPE) -> Case:
    return Case(*case.chain()[:8], shape=shape)  # type: ignore[arg-type]


def inside(t: Tensor, offset: int) -> Tensor:
    """The same values and strides, so many elements into a larger storage that is NaN elsewhere."""
    room = torch.full((t.numel() + 32,), torch.nan, dtype=t.dtype)
    moved = room.as_strided(t.shape, t.stride(), offset)
    return moved.copy_(t)


@each_format
@each_dtype
@each_geometry
@each_target
def test_any_storage_offset(
    target: Any, case: Case, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """Tensors that begin at any of 16 elements of a storage give the same bits.

    Found in: https://github.com/Jim137/qkan/issues/26 (vectors at an address that is no multiple of
    theirs), https://github.com/apache/tvm/issues/8540, https://github.com/torch-spyre/torch-spyre/pull/3018
    (the offset ignored).
    """
    case = sized(case)
    x = fill(case.shape, "ties", dtype).to(memory_format=memory_format)
    dy = gradient_for(case, dtype).to(memory_format=memory_format)
    want = run(target, case.geometry(), x, dy)
    for offset in (1, 7) if INTERPRETED else range(1, 17):
        if isinstance(target, OnHost):
            got = run(target.at(offset), case.geometry(), x, dy)
        else:
            got = run(target, case.geometry(), inside(x, offset), inside(dy, (offset * 7) % 16))
        for ours, theirs in zip(got, want, strict=True):
            same(ours, theirs, f"offset {offset}")


@each_format
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=["float16", "float64"])
@each_geometry
@each_target
def test_slices_of_a_larger_tensor(
    target: Any, case: Case, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """x and dy cut out of NaNs along every axis: nothing beside them is read.

    Found in: https://github.com/NVIDIA/TransformerEngine/issues/2734 (a row's stride taken for its
    length), https://github.com/pytorch/pytorch/issues/197888.
    """
    case = sized(case)
    x, dy = fill(case.shape, "normal", dtype), gradient_for(case, dtype)
    want = run(target, case.geometry(), x.to(memory_format=memory_format), dy)
    for axis in range(4):
        cut = []
        for t in (x, dy):
            size = list(t.shape)
            size[axis] += 3
            room = torch.full(size, torch.nan, dtype=dtype).to(memory_format=memory_format)
            cut.append(room.narrow(axis, 1, t.shape[axis]).copy_(t))
        got = run(target, case.geometry(), *cut)
        for ours, theirs in zip(got, want, strict=True):
            same(ours, theirs, f"axis {axis}")


@each_geometry
@each_target
def test_expanded_inputs_and_gradients(target: Any, case: Case) -> None:
    """Strides of 0 along any axes, in x and in dy; y.sum() gives the latter.

    Found in: https://github.com/ROCm/TransformerEngine/pull/623 (one element read as a whole row),
    https://github.com/pytorch/pytorch/pull/2993, https://github.com/Dao-AILab/flash-attention/issues/355.
    """
    case = sized(case)
    geometry = case.geometry()
    dense = fill(case.shape, "normal", torch.float32)
    for axes in itertools.chain.from_iterable(
        itertools.combinations(range(4), n) for n in (1, 2, 4)
    ):
        leaf = dense
        for axis in axes:
            leaf = leaf.narrow(axis, 0, 1)
        leaf = leaf.contiguous().requires_grad_()
        x = leaf.expand(case.shape)
        y = target(x, geometry)
        copy = x.detach().clone().contiguous().requires_grad_()
        want = target(copy, geometry)
        torch.testing.assert_close(y, want)  # in the order of sums of x's own layout
        (dx,) = torch.autograd.grad(y.sum(), leaf, retain_graph=True)
        (want_dx,) = torch.autograd.grad(want.sum(), copy, retain_graph=True)
        torch.testing.assert_close(dx, want_dx.sum(axes, keepdim=True), rtol=1e-4, atol=1e-4)
        dy = gradient_for(case, torch.float32)
        for axis in axes:
            dy = dy.narrow(axis, 0, 1)
        (dx,) = torch.autograd.grad(want, copy, dy.expand(y.shape), retain_graph=True)
        (want_dx,) = torch.autograd.grad(want, copy, dy.expand(y.shape).contiguous())
        same(dx, want_dx, f"axes {axes}")


@each_target
def test_strides_of_axes_of_one(target: Any) -> None:
    """The stride of an axis of one element means nothing, so it may be anything.

    Found in: https://github.com/pytorch/pytorch/issues/68430, https://github.com/pytorch/pytorch/issues/78611,
    https://github.com/pytorch/pytorch/issues/150408.
    """
    geometry = Geometry.resolve(2, 2, 1, filter_size=3, padding_mode="replicate")
    for shape in itertools.product((1, 2), (1, 3), (1, 4), (1, 5)):
        for channels_last in (False, True):
            dense = in_format(fill(shape, "normal", torch.float32), channels_last)
            want = target(dense, geometry)
            dy = torch.ones(()).expand(want.shape)
            _, want_dx = run(target, geometry, dense, dy)
            for stride in (0, 1, 2, 7, 2**40):
                pairs = zip(shape, dense.stride(), strict=True)
                strides = [stride if n == 1 else s for n, s in pairs]
                x = torch.as_strided(dense, shape, strides)
                y, dx = run(target, geometry, x, dy)
                torch.testing.assert_close(y, want)
                torch.testing.assert_close(dx, want_dx)


@pytest.mark.parametrize("shape", list(itertools.product((1, 2), (1, 3), (1, 4), (1, 5))), ids=str)
@each_format
@each_target
def test_formats_of_axes_of_one(
    target: Any, shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    """y is dense in the formats in which torch's own pooling and convolution make it so.

    Found in: https://github.com/pytorch/pytorch/issues/24090 (one channel or one pixel has both).
    """
    x = fill(shape, "normal", torch.float32).to(memory_format=memory_format)
    y = target(x, Geometry.resolve(1, 1, filter_size=1))
    pooled = nn.functional.max_pool2d(x, 1)
    convolved = nn.functional.conv2d(x, torch.ones(shape[1], 1, 1, 1), groups=shape[1])
    for wanted in (torch.contiguous_format, torch.channels_last):
        dense = y.is_contiguous(memory_format=wanted)
        assert dense == pooled.is_contiguous(memory_format=wanted)
        assert dense == convolved.is_contiguous(memory_format=wanted)
    assert is_channels_last(y) == is_channels_last(x)


@each_format
@each_dtype
@each_geometry
@each_target
def test_memory_that_was_used_before(
    target: Any,
    case: Case,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every element of y and dx is written: new memory that holds NaN gives the same results.

    Found in: https://github.com/pytorch/executorch/issues/21686 (dx holds what was there before),
    https://github.com/Theano/Theano/issues/4220, https://github.com/pytorch/pytorch/issues/112006.
    """
    case = sized(case)
    x = fill(case.shape, "normal", dtype).to(memory_format=memory_format)
    dy = gradient_for(case, dtype)
    want = run(target, case.geometry(), x, dy)
    if compiled.C is not None:  # to torch.empty_strided, which the mode below fills
        monkeypatch.setattr("fastblur._compat._empty_strided_cpu", None)
        compiled.CPU.calls.cache_clear()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(3).isnan().all()
        got = run(target, case.geometry(), x, dy)
    finally:
        torch.use_deterministic_algorithms(False)
        if compiled.C is not None:
            compiled.CPU.calls.cache_clear()
    for ours, theirs in zip(got, want, strict=True):
        same(ours, theirs)
