"""The short cut that a layer takes once it has seen a device: when it is taken, and that it changes
nothing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastblur import FusedBlurPool, FusedMaxBlurPool
from fastblur.functional import run
from fastblur.modules import Pool

from .conftest import needs_extension
from .measure import peak_bytes

pytestmark = needs_extension


def known(layer: Pool) -> Pool:
    layer(torch.randn(1, 2, 8, 8))
    assert layer._known is not None
    return layer


def is_short(layer: Pool, x: Any) -> bool:
    return layer._known is not None and layer._known.call(x) is not None


LAYERS: dict[str, Callable[[], Pool]] = {
    "max 3": lambda: FusedMaxBlurPool(3, 2, 1),
    "max 2": lambda: FusedMaxBlurPool(2, filter_size=3, padding_mode="zeros", relu=True),
    "blur": lambda: FusedBlurPool(5, (1, 2), blur_padding=(1, 2)),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grad", [False, True], ids=["no grad", "grad"])
def test_equals_the_long_road(
    make: Callable[[], Pool], dtype: torch.dtype, memory_format: torch.memory_format, grad: bool
) -> None:
    layer = known(make())
    x = torch.randn(2, 3, 9, 12, dtype=dtype).to(memory_format=memory_format).requires_grad_(grad)
    assert is_short(layer, x)
    got, want = layer(x), run(x, layer.geometry, "auto")
    assert got.dtype == want.dtype
    assert got.stride() == want.stride()
    assert got.requires_grad == want.requires_grad == grad
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    if grad:
        dy = torch.randn_like(got)
        (dx,), (dx_want,) = (torch.autograd.grad(y, x, dy) for y in (got, want))
        assert dx.stride() == dx_want.stride()
        torch.testing.assert_close(dx, dx_want, rtol=0, atol=0)


def test_parameters_and_views_are_plain() -> None:
    layer = known(FusedMaxBlurPool())
    assert is_short(layer, torch.nn.Parameter(torch.randn(1, 2, 8, 8)))
    assert is_short(layer, torch.randn(4, 2, 8, 8)[1:3])
    assert is_short(layer, torch.empty(0, 2, 8, 8))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_keeps_codes_only_for_a_backward(mode: Callable[[], AbstractContextManager[Any]]) -> None:
    layer = known(FusedMaxBlurPool(2, filter_size=3))
    x = torch.randn(1, 4, 32, 32, requires_grad=True)
    with mode():
        assert is_short(layer, x)
        assert is_short(layer, torch.randn(1, 4, 32, 32))
        y = layer(x)
        assert not y.requires_grad
        assert y.is_inference() == (mode is torch.inference_mode)
        assert peak_bytes(lambda: layer(x)) == y.nbytes
    torch.testing.assert_close(layer(x), y, rtol=0, atol=0)
    assert peak_bytes(lambda: layer(x)) > y.nbytes


class _Watch(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _WatchDispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Sub(Tensor):
    pass


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a function mode": _Watch,
    "a dispatch mode": _WatchDispatch,
}
INPUTS: dict[str, Callable[[], Any]] = {
    "three axes": lambda: torch.randn(2, 8, 8),
    "no format's strides": lambda: torch.randn(2, 8, 8, 3).permute(0, 3, 2, 1),
    "a negated view": lambda: torch._neg_view(torch.randn(1, 2, 8, 8)),
    "a subclass": lambda: torch.randn(1, 2, 8, 8).as_subclass(_Sub),
    "meta": lambda: torch.empty(1, 2, 8, 8, device="meta"),
}
WRONG: dict[str, Callable[[], Any]] = {
    "too small": lambda: torch.randn(1, 2, 1, 8),
    "no channel": lambda: torch.randn(1, 0, 8, 8),
    "integers": lambda: torch.ones(1, 2, 8, 8, dtype=torch.int32),
    "complex": lambda: torch.randn(1, 2, 8, 8, dtype=torch.complex64),
    "sparse": lambda: torch.randn(1, 2, 8, 8).to_sparse(),
    "five axes": lambda: torch.randn(1, 1, 2, 8, 8),
    "no tensor": lambda: [[1.0]],
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_is_not_taken_where_something_is_at_work(
    around: Callable[[], AbstractContextManager[Any]],
) -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8)
    with around():
        assert not is_short(layer, x)
        got, want = layer(x), run(x, layer.geometry, "auto")
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert is_short(layer, x)


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
def test_is_not_taken_for_what_is_not_plain(make: Callable[[], Any]) -> None:
    layer, x = known(FusedMaxBlurPool()), make()
    assert not is_short(layer, x)
    got, want = layer(x), run(x, layer.geometry, "auto")
    assert type(got) is type(want)
    assert got.shape == want.shape
    assert got.stride() == want.stride()
    if got.device.type != "meta":
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_errors_are_those_of_the_first_call(make: Callable[[], Any]) -> None:
    x = make()
    with pytest.raises((TypeError, ValueError)) as first:
        FusedMaxBlurPool()(x)
    with pytest.raises(first.type) as later:
        known(FusedMaxBlurPool())(x)
    assert str(later.value) == str(first.value)


def test_transforms_and_traces_go_the_long_road() -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(3, 1, 2, 8, 8)
    want = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    asked = []

    def ask(x: Tensor) -> Tensor:
        asked.append(is_short(layer, x))
        return layer(x)

    torch.testing.assert_close(torch.vmap(ask)(x), want, rtol=0, atol=0)
    primal, tangent = torch.func.jvp(ask, (x[0],), (torch.ones_like(x[0]),))
    torch.testing.assert_close(primal, want[0], rtol=0, atol=0)
    torch.testing.assert_close(tangent, torch.ones_like(tangent))
    traced = torch.jit.trace(ask, x[0], check_trace=False)
    torch.testing.assert_close(traced(x[1]), want[1], rtol=0, atol=0)
    assert asked
    assert not any(asked)


def test_carries_tangents() -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        primal, tangent = torch.autograd.forward_ad.unpack_dual(layer(dual))
    assert tangent is not None
    torch.testing.assert_close(primal, layer(x))
    torch.testing.assert_close(tangent, torch.ones_like(tangent))


def test_follows_a_changed_layer() -> None:
    layer, x = known(FusedMaxBlurPool(2)), torch.randn(1, 2, 8, 8)
    layer.geometry = FusedMaxBlurPool(3, 2, 1).geometry
    assert layer(x).shape == FusedMaxBlurPool(3, 2, 1)(x).shape
    assert is_short(layer, x)
    assert layer(x).shape == FusedMaxBlurPool(3, 2, 1)(x).shape
    layer.backend = "cuda"
    with pytest.raises(RuntimeError, match="'cuda' cannot run"):
        layer(x)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_only_compiled_backends_have_it(backend: Any) -> None:
    layer = FusedMaxBlurPool(backend=backend)
    layer(torch.randn(1, 2, 8, 8))
    assert layer._known is not None
    assert (layer._known.call is not None) == (backend == "cpu")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_is_not_saved_with_the_layer(again: Callable[[Pool], Pool]) -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8)
    other = again(layer)
    assert other._known is None
    assert layer._known is not None
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)


def test_copies_of_a_compiled_layer_are_their_own() -> None:
    layer, x = known(FusedMaxBlurPool(2)), torch.randn(1, 2, 8, 8)
    layer.compile(backend="eager")
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        other.geometry = FusedMaxBlurPool(3, 2, 1).geometry
        assert not torch.equal(other(x), layer(x))
