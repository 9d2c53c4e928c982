"""What is kept for backward, and what is not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch

from fastblur import FusedBlurPool, FusedMaxBlurPool, explain
from fastblur._geometry import Geometry
from testing import measure
from testing.cases import in_format

from ..conftest import needs_extension

pytestmark = needs_extension


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_codes_are_as_large_as_said(channels_last: bool) -> None:
    """To the compiler and by explain, where the two formats keep different numbers of bytes."""
    x = in_format(torch.randn(2, 6, 13, 13), channels_last).requires_grad_()
    layer = FusedMaxBlurPool()
    arguments = (*Geometry.resolve().arguments(), channels_last, True)
    forward = torch.ops.fastblur.max_blur_pool_forward
    _, codes = forward(x, *arguments)
    _, said = forward(x.detach().to("meta"), *arguments)
    assert said.shape == codes.shape
    assert explain(x, layer).bytes_saved == codes.nbytes == saved_bytes(layer, x)


def saved_bytes(layer: Callable[[torch.Tensor], object], x: torch.Tensor) -> int:
    return measure.saved_bytes(lambda: layer(x))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [7, 8, 14, 15, 28, 29, 30, 31, 33, 56, 112])
@pytest.mark.parametrize(("pool", "pad", "share"), [(2, 0, 16), (3, 0, 8), (3, 1, 8)])
def test_saved_for_backward(
    pool: int, pad: int, share: int, size: int, channels_last: bool
) -> None:
    """At most 1/16 (pool 2) or 1/8 (pool 3) of float32 x, x itself included if it were saved.

    Rows of contiguous maps count in whole bytes of codes: as if x had whole multiples of 8 columns.
    """
    x = in_format(torch.randn(2, 16, size, size), channels_last).requires_grad_()
    saved = saved_bytes(FusedMaxBlurPool(pool, 2, pad), x)
    columns = size if channels_last else (size + 7) // 8 * 8
    assert 0 < saved <= 2 * 16 * size * columns * x.element_size() / share


def test_blur_saves_nothing() -> None:
    x = torch.randn(2, 16, 28, 28, requires_grad=True)
    assert saved_bytes(FusedBlurPool(), x) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_save_the_same_codes(dtype: torch.dtype) -> None:
    x = torch.randn(2, 16, 28, 28)
    codes = saved_bytes(FusedMaxBlurPool(), x.requires_grad_())
    assert saved_bytes(FusedMaxBlurPool(), x.detach().to(dtype).requires_grad_()) == codes


def test_input_can_be_freed() -> None:
    leaf = torch.randn(2, 4, 12, 12, requires_grad=True)
    x = leaf * 2
    y = FusedMaxBlurPool()(x)
    storage = weakref.ref(x)
    del x
    gc.collect()
    assert storage() is None  # multiplication by a constant does not keep its result either
    y.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0


def test_input_may_be_overwritten_before_backward() -> None:
    """Nothing of x is needed, so changing it in place afterwards is no error and no change."""
    leaf = torch.randn(2, 4, 12, 12, requires_grad=True)
    (want,) = torch.autograd.grad(FusedMaxBlurPool()(leaf * 1).sum(), leaf)
    x = leaf * 1
    y = FusedMaxBlurPool()(x)
    x.zero_()
    (got,) = torch.autograd.grad(y.sum(), leaf)
    assert torch.equal(got, want)


@pytest.mark.parametrize("why", ["no_grad", "inference_mode", "input without grad"])
@pytest.mark.parametrize("call", ["first", "later"])  # by the operators, and without them
def test_no_codes_without_grad(why: str, call: str) -> None:
    layer, x = FusedMaxBlurPool(), torch.randn(2, 4, 64, 64)
    guards = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
    if call == "later":
        layer(x)
    with guards.get(why, torch.enable_grad)():
        if why in guards:
            x.requires_grad_()
        y_bytes = layer(x).nbytes
        if call == "first":
            layer = FusedMaxBlurPool()
        assert saved_bytes(layer, x) == 0
        assert measure.peak_bytes(lambda: layer(x)) == y_bytes
    x.requires_grad_()
    assert measure.peak_bytes(lambda: layer(x)) == y_bytes + saved_bytes(layer, x)


def test_peak_of_a_known_sequence() -> None:
    def call() -> None:
        a = torch.zeros(2**18)
        b = a + 1
        del a
        c, d = b * 2, torch.zeros(2**16)
        del b, c, d

    assert measure.peak_bytes(call) == 2**20 + 2**20 + 2**18


@pytest.mark.parametrize(("pool", "pad", "f"), [(2, 0, 4), (3, 1, 3)])
def test_peak_of_forward_and_backward(pool: int, pad: int, f: int) -> None:
    """The input's gradient, an output with its gradient, the codes, and next to nothing more."""
    x = torch.randn(2, 64, 56, 56, requires_grad=True)
    layer = FusedMaxBlurPool(pool, 2, pad, filter_size=f)
    dy = torch.randn_like(layer(x))
    peak = measure.peak_bytes(lambda: torch.autograd.grad(layer(x), x, dy))
    assert x.nbytes + dy.nbytes <= peak <= 1.4 * x.nbytes
