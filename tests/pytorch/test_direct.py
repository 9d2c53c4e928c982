"""When the direct path to the kernels is taken: where nothing but autograd is at work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastblur import FusedMaxBlurPool
from fastblur.functional import run
from fastblur.modules import Pool

from ..conftest import needs_extension
from .test_paths import LAYERS, is_direct, known, same

pytestmark = needs_extension


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_parameters_and_views_are_plain(make: Callable[[], Pool]) -> None:
    layer = known(make())
    assert is_direct(layer, torch.nn.Parameter(torch.randn(1, 2, 8, 8)))
    assert is_direct(layer, torch.randn(4, 2, 8, 8)[1:3])
    assert is_direct(layer, torch.randn(2, 2, 9, 9).to(memory_format=torch.channels_last))
    assert is_direct(layer, torch.empty(0, 2, 8, 8))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_is_taken_without_grad(mode: Callable[[], AbstractContextManager[Any]]) -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8, requires_grad=True)
    with mode():
        assert is_direct(layer, x)
        made = torch.randn(1, 2, 8, 8)
        assert is_direct(layer, made)
        y = layer(x)
        assert not y.requires_grad
        assert y.is_inference() == (mode is torch.inference_mode)
    assert is_direct(layer, made)
    same(layer(x), y.clone())


def test_builds_no_graph_below_autograd() -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8, requires_grad=True)
    with torch._C._AutoDispatchBelowAutograd():
        y = layer(x)
    assert y.grad_fn is None
    same(y, layer(x))


class _Watch(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _WatchDispatch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class _Sub(Tensor):
    pass


class _SubParameter(torch.nn.Parameter):
    pass


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a function mode": _Watch,
    "a dispatch mode": _WatchDispatch,
    "forward mode": torch.autograd.forward_ad.dual_level,
}
INPUTS: dict[str, Callable[[], Any]] = {
    "three axes": lambda: torch.randn(2, 8, 8),
    "no format's strides": lambda: torch.randn(2, 8, 8, 3).permute(0, 3, 2, 1),
    "a negated view": lambda: torch._neg_view(torch.randn(1, 2, 8, 8)),
    "a subclass": lambda: torch.randn(1, 2, 8, 8).as_subclass(_Sub),
    "a subclass of Parameter": lambda: _SubParameter(torch.randn(1, 2, 8, 8)),
    "zeros without memory": lambda: torch._efficientzerotensor((1, 2, 8, 8)),
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
        assert not is_direct(layer, x)
        got, want = layer(x), run(x, layer.geometry, "auto")
    same(got, want)
    assert is_direct(layer, x)


def test_a_dispatch_mode_sees_the_operator_and_its_derivative() -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8, requires_grad=True)
    y = layer(x)
    with _WatchDispatch() as mode:
        y.sum().backward()
        layer(x)
    names = [name for name in mode.seen if "fastblur" in name]
    assert [name.split(".")[1] for name in names] == [
        "max_blur_pool_backward",
        "max_blur_pool_forward",
    ]


def test_a_profiler_sees_the_operator_and_its_derivative() -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8, requires_grad=True)
    y = layer(x)
    with torch.profiler.profile() as profile:
        layer(x)
        y.sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"fastblur::max_blur_pool_forward", "DirectMaxBlurPoolBackward"} <= names
    assert is_direct(layer, x)


def test_autocast_casts_in_the_function() -> None:
    """A node less; and the gradient arrives in the dtype of the input, twice differentiable."""
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert is_direct(layer, x)
    assert y.dtype == torch.bfloat16
    assert y.grad_fn is not None
    ((leaf, _), *_) = y.grad_fn.next_functions
    assert "AccumulateGrad" in str(leaf)
    dy = torch.ones_like(y, requires_grad=True)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    cast = x.detach().bfloat16().requires_grad_()
    (want,) = torch.autograd.grad(layer(cast), cast, dy.detach())
    assert dx.dtype == torch.float32
    assert torch.equal(dx, want.float())
    assert torch.autograd.grad(dx.sum(), dy)[0].dtype == torch.bfloat16


def test_autocast_does_not_cast_integers() -> None:
    layer, x = known(FusedMaxBlurPool()), torch.ones(1, 2, 8, 8, dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match="input must be"):
        layer(x)


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
def test_is_not_taken_for_what_is_not_plain(make: Callable[[], Any]) -> None:
    layer, x = known(FusedMaxBlurPool()), make()
    assert not is_direct(layer, x)
    got, want = layer(x), run(x, layer.geometry, "auto")
    assert type(got) is type(want)
    assert got.shape == want.shape
    assert got.stride() == want.stride()
    if got.device.type != "meta":
        same(got, want)


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_errors_are_those_of_the_first_call(make: Callable[[], Any]) -> None:
    x = make()
    with pytest.raises((TypeError, ValueError)) as first:
        FusedMaxBlurPool()(x)
    with pytest.raises(first.type) as later:
        known(FusedMaxBlurPool())(x)
    assert str(later.value) == str(first.value)


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_is_seen_by_make_fx(pre_dispatch: bool) -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8)
    graph = make_fx(lambda x: layer(x) + 1, tracing_mode="real", pre_dispatch=pre_dispatch)(x)
    assert "fastblur.max_blur_pool_forward" in str(graph.code)
    other = torch.randn_like(x)
    same(graph(other), layer(other) + 1)


def test_transforms_and_traces_go_the_long_path() -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(3, 1, 2, 8, 8)
    want = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    asked = []

    def ask(x: Tensor) -> Tensor:
        asked.append(is_direct(layer, x))
        return layer(x)

    same(torch.vmap(ask)(x), want)
    primal, tangent = torch.func.jvp(ask, (x[0],), (torch.ones_like(x[0]),))
    same(primal, want[0])
    torch.testing.assert_close(tangent, torch.ones_like(tangent))
    traced = torch.jit.trace(ask, x[0], check_trace=False)
    same(traced(x[1]), want[1])
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
