"""The paths to the kernels, direct, by the operators and under transforms: the same bits and the
same derivatives on each. When the direct one is taken is in test_direct.py."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastblur import FusedBlurPool, FusedMaxBlurPool, MaxBlurPoolFunction
from fastblur._backends import compiled
from fastblur._dispatch.direct import Direct
from fastblur._geometry import DTYPES
from fastblur.functional import run
from fastblur.modules import Pool
from fastblur.surgery import FilteredPool
from testing.cases import fill, in_format

from ..conftest import needs_extension

pytestmark = needs_extension


def known(layer: Pool, like: Tensor | None = None) -> Pool:
    layer(torch.randn(1, 2, 8, 8) if like is None else like.detach())
    assert layer._path.operation is layer.geometry
    return layer


def is_direct(layer: Pool, x: Any) -> bool:
    direct = layer._path.direct
    return direct is not None and direct(x) is not None


def filtered(geometry: Any) -> FilteredPool:
    plane = torch.outer(*(torch.tensor(t) for t in (geometry.taps_h, geometry.taps_w)))
    return FilteredPool(geometry, plane)


LAYERS: dict[str, Callable[[], Pool]] = {
    "max 3": lambda: FusedMaxBlurPool(3, 2, 1),
    "max 2": lambda: FusedMaxBlurPool(2, filter_size=3, padding_mode="zeros", relu=True),
    "blur": lambda: FusedBlurPool(5, (1, 2), blur_padding=(1, 2)),
}


# ---- the same on each --------------------------------------------------------------------------


def by_the_direct_path(layer: Pool, x: Tensor) -> Tensor:
    assert is_direct(known(layer, x), x)
    return layer(x)


def by_the_filtered_layer(layer: Pool, x: Tensor) -> Tensor:
    return by_the_direct_path(filtered(layer.geometry), x)


def by_the_operators(layer: Pool, x: Tensor) -> Tensor:
    return run(x, layer.geometry, "cpu")


def by_the_function(layer: Pool, x: Tensor) -> Tensor:
    channels_last = not x.is_contiguous()
    return MaxBlurPoolFunction.apply(x, *layer.geometry.arguments(), channels_last)[0]


def by_a_transform(layer: Pool, x: Tensor) -> Tensor:
    """y and x of one map, mapped."""
    return torch.vmap(known(layer, x))(x.unsqueeze(1)).squeeze(1)


def by_a_graph(layer: Pool, x: Tensor) -> Tensor:
    torch._dynamo.reset()
    y: Tensor = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    return y


def by_a_trace(layer: Pool, x: Tensor) -> Tensor:
    y: Tensor = torch.jit.trace(known(layer, x), x, check_trace=False)(x)
    return y


def again(reentrant: bool) -> Callable[[Pool, Tensor], Tensor]:
    def path(layer: Pool, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(known(layer, x), x, use_reentrant=reentrant)
        return y

    return path


def with_hooks(layer: Pool, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return by_the_direct_path(layer, x)


PATHS: dict[str, Callable[[Pool, Tensor], Tensor]] = {
    "direct": by_the_direct_path,
    "filtered": by_the_filtered_layer,
    "operators": by_the_operators,
    "function": by_the_function,
    "vmap": by_a_transform,
    "compiled": by_a_graph,
    "traced": by_a_trace,
    "checkpoint": again(False),
    "reentrant checkpoint": again(True),
    "saved-tensor hooks": with_hooks,
}


def same(got: Tensor, want: Tensor) -> None:
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_every_path_gives_the_same(
    make: Callable[[], Pool], dtype: torch.dtype, channels_last: bool
) -> None:
    """Values, first and second derivatives, bit for bit, in the same layout.

    But a mapped tensor does not tell its layout and goes as a contiguous one, where gradients are
    summed in another order.
    """
    layer = make()
    plain = in_format(fill((2, 3, 9, 12), "ties", dtype), channels_last)
    found: dict[str, list[Tensor]] = {}
    for name, path in PATHS.items():
        x = plain.clone().requires_grad_()
        y = path(layer, x)
        dy = fill(tuple(y.shape), "normal", dtype, 1).requires_grad_()
        twice = name not in ("compiled", "reentrant checkpoint")  # which torch refuses there
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=twice) if twice else back(y, x, dy)
        found[name] = [y.detach(), dx.detach()]
        if twice:
            (ddy,) = torch.autograd.grad(dx, dy, fill(tuple(dx.shape), "normal", dtype, 2))
            found[name].append(ddy)
        with torch.no_grad():
            same(path(layer, plain), y)
        for ours, theirs in zip(found[name], found["direct"], strict=False):
            if name == "vmap" and channels_last:
                torch.testing.assert_close(ours, theirs)
            else:
                same(ours, theirs)
                assert ours.stride() == theirs.stride()
    assert all(len(results) >= 2 for results in found.values())


def back(y: Tensor, x: Tensor, dy: Tensor) -> tuple[Tensor]:
    y.backward(dy)
    assert x.grad is not None
    return (x.grad,)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_paths_under_autocast(make: Callable[[], Pool], dtype: torch.dtype) -> None:
    layer, plain = known(make()), fill((2, 3, 9, 12), "ties", dtype)
    found = []
    for path in (by_the_direct_path, by_the_filtered_layer, by_the_operators, by_a_graph):
        x = plain.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = path(layer, x)
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert y.dtype == (torch.float64 if dtype == torch.float64 else torch.bfloat16)
        assert dx.dtype == dtype
        found.append((y.detach(), dx))
    for y, dx in found[1:]:
        same(y, found[0][0])
        same(dx, found[0][1])


# ---- what a hook can put in the place of codes and gradients -----------------------------------


HOOKS: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "shorter": (lambda c: c[:, :-1].contiguous(), ValueError, "codes must belong"),
    "of another dtype": (lambda c: c.int(), TypeError, "codes must be the uint8 tensor"),
    "without memory": (lambda c: c.to("meta"), RuntimeError, "codes must be on the input's device"),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_wrong_codes_from_a_hook(hook: str) -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8, requires_grad=True)
    unpack, error, message = HOOKS[hook]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        assert is_direct(layer, x)
        y = layer(x)
    with pytest.raises(error, match=message):
        y.sum().backward()


def test_strided_codes_and_gradients_are_right() -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(2, 2, 9, 8, requires_grad=True)
    apart = torch.autograd.graph.saved_tensors_hooks(
        lambda c: torch.stack([c, c], -1), lambda c: c[..., 1]
    )
    results = []
    for around in (apart, torch.enable_grad()):
        with around:  # type: ignore[attr-defined]
            y = layer(x)
        for dy in (torch.ones(()).expand(y.shape), torch._neg_view(-torch.ones_like(y))):
            results += torch.autograd.grad(y, x, dy, retain_graph=True)
    for dx in results[1:]:
        same(dx, results[0])


# ---- the layer that takes it -------------------------------------------------------------------


def test_calls_in_turn_do_not_mix() -> None:
    """One layer meets sizes, types and layouts in turn; a new one goes the long road first."""
    layer = FusedMaxBlurPool(3, 2, 1)
    calls = [
        (dtype, size, channels_last)
        for size in (12, 13)
        for channels_last in (False, True)
        for dtype in (torch.float32, torch.float64, torch.float16)
    ]
    for dtype, size, channels_last in itertools.chain(*itertools.product(calls, repeat=2)):
        x = in_format(torch.randn(2, 3, size, size).to(dtype), channels_last)
        y, want = layer(x), FusedMaxBlurPool(3, 2, 1)(x)
        assert (y.dtype, y.stride()) == (dtype, want.stride())
        assert torch.equal(y, want)


def test_follows_a_changed_layer() -> None:
    layer, x = known(FusedMaxBlurPool(2)), torch.randn(1, 2, 8, 8)
    layer.geometry = FusedMaxBlurPool(3, 2, 1).geometry
    assert layer(x).shape == FusedMaxBlurPool(3, 2, 1)(x).shape
    assert is_direct(layer, x)
    assert layer(x).shape == FusedMaxBlurPool(3, 2, 1)(x).shape
    layer.backend = "cuda"
    with pytest.raises(RuntimeError, match="'cuda' cannot run"):
        layer(x)


def test_follows_a_changed_filter() -> None:
    layer, x = filtered(FusedMaxBlurPool().geometry), torch.randn(1, 2, 8, 8)
    y = known(layer)(x)
    layer.filter.mul_(2)
    same(layer(x), 2 * y)
    assert is_direct(layer, x)
    layer.filt = layer.filter / 2
    same(layer(x), y)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_only_compiled_backends_have_it(backend: Any) -> None:
    layer = FusedMaxBlurPool(backend=backend)
    layer(torch.randn(1, 2, 8, 8))
    assert isinstance(layer._path.direct, Direct) == (backend == "cpu")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_is_not_saved_with_the_layer(again: Callable[[Pool], Pool]) -> None:
    layer, x = known(FusedMaxBlurPool()), torch.randn(1, 2, 8, 8)
    other = again(layer)
    assert other._path.direct is None
    assert layer._path.direct is not None
    same(other(x), layer(x))


def test_copies_of_a_compiled_layer_are_their_own() -> None:
    layer, x = known(FusedMaxBlurPool(2)), torch.randn(1, 2, 8, 8)
    layer.compile(backend="eager")
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        other.geometry = FusedMaxBlurPool(3, 2, 1).geometry
        assert not torch.equal(other(x), layer(x))


def test_plans_and_calls_are_shared() -> None:
    x = torch.randn(1, 2, 8, 8)
    layers = [known(FusedMaxBlurPool(), x) for _ in range(2)]
    before = compiled.CPU.calls.cache_info().misses
    for layer in layers:
        layer(x)
    assert compiled.CPU.calls.cache_info().misses == before
