"""What a call must not do to its surroundings, and they not to it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastblur
from fastblur import functional as fb
from fastblur._geometry import Geometry
from fastblur.integrations import antialiased_cnns, kornia, timm
from testing.cases import Case, fill, in_format, upsampling

from ..conftest import needs_extension
from .runners import (
    BACKENDS,
    GEOMETRIES,
    each_dtype,
    each_format,
    each_geometry,
    each_target,
    run,
    same,
)

Layer = Callable[..., nn.Module]
# Every kind of layer and the shape of an input; drop-ins have no argument ``backend``.
LAYERS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "max": (fastblur.FusedMaxBlurPool, (2, 3, 8, 9)),
    "blur": (fastblur.FusedBlurPool, (2, 3, 8, 9)),
    "max, unbatched": (fastblur.FusedMaxBlurPool, (3, 8, 9)),
    "max 1d": (fastblur.FusedMaxBlurPool1d, (2, 3, 9)),
    "blur 1d": (fastblur.FusedBlurPool1d, (2, 3, 9)),
    "max 3d": (fastblur.FusedMaxBlurPool3d, (2, 3, 6, 7, 8)),
    "blur 3d": (fastblur.FusedBlurPool3d, (2, 3, 6, 7, 8)),
    "upsample": (fastblur.FusedBlurUpsample, (2, 3, 6, 7)),
    "upsample 1d": (fastblur.FusedBlurUpsample1d, (2, 3, 7)),
    "timm": (lambda backend: timm.BlurPool2d(3), (2, 3, 8, 9)),
    "kornia": (lambda backend: kornia.MaxBlurPool2D(3), (2, 3, 8, 9)),
    "antialiased_cnns": (lambda backend: antialiased_cnns.BlurPool(3), (2, 3, 8, 9)),
}
each_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=list(LAYERS))
each_backend = pytest.mark.parametrize("backend", BACKENDS)
NOTHING = {  # layers that could return their input
    "max 2d": lambda x, backend: fb.max_blur_pool2d(x, 1, 1, filter_size=1, backend=backend),
    "blur 2d": lambda x, backend: fb.blur_pool2d(x, 1, 1, backend=backend),
    "max 1d": lambda x, backend: fb.max_blur_pool1d(x[0], 1, 1, filter_size=1, backend=backend),
    "max 3d": lambda x, backend: fb.max_blur_pool3d(x[None], 1, 1, filter_size=1, backend=backend),
    "up 2d": lambda x, backend: fb.blur_upsample2d(x, 1, 1, backend=backend),
    "up 1d": lambda x, backend: fb.blur_upsample1d(x[0], 1, 1, backend=backend),
    "up 2d, replicate": lambda x, backend: fb.blur_upsample2d(
        x, 1, 1, padding_mode="replicate", backend=backend
    ),
}


def memory(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


# ---- aliases -----------------------------------------------------------------------------------


@each_format
@each_target
def test_outputs_share_no_memory(target: Any, memory_format: torch.memory_format) -> None:
    """y, dx and their sources are apart, also where all of them are equal; so are two calls.

    Found in: https://github.com/Vahe1994/AQLM/pull/26 (a view as the output of a Function).
    """
    geometry = Geometry.resolve(1, 1, filter_size=1)
    x = fill((2, 8, 4, 4), "normal", torch.float32).to(memory_format=memory_format)
    dy = x.clone()
    y, dx = run(target, geometry, x, dy)
    again, dx_again = run(target, geometry, x, dy)
    same(y, x)
    same(dx, dy)
    assert len({memory(t) for t in (x, dy, y, dx, again, dx_again)}) == 6
    y.zero_()
    dx.zero_()
    same(again, x)
    same(dx_again, dy)


@each_backend
@pytest.mark.parametrize("call", NOTHING.values(), ids=list(NOTHING))
def test_what_changes_nothing_is_no_alias(call: Callable[..., Tensor], backend: str) -> None:
    """The same of the public functions in every number of dimensions.

    Found in: https://github.com/Vahe1994/AQLM/pull/26.
    """
    x = torch.randn(2, 3, 4, 4)
    for layout in (x, x.to(memory_format=torch.channels_last)):
        y, before = call(layout, backend), layout.clone()
        assert torch.equal(y.flatten(), (layout if y.dim() >= 4 else layout[0]).flatten())
        assert memory(y) != memory(layout)
        y.zero_()
        assert torch.equal(layout, before)


@each_backend
@each_layer
def test_in_place_on_an_output(make: Layer, shape: tuple[int, ...], backend: str) -> None:
    """A ReLU in place behind a layer, or a slice that is changed, has the right gradient.

    Found in: https://github.com/Vahe1994/AQLM/pull/26 ("is a view and is being modified inplace").
    """
    layer = make(backend=backend)
    for change in (Tensor.relu_, lambda y: y.mul_(2), lambda y: y[..., :1].mul_(3)):
        gradients = []
        for copy in (False, True, False):
            x = fill(shape, "normal", torch.float32).requires_grad_()
            y = layer(x * 1)
            y = y.clone() if copy else y
            change(y)
            gradients += torch.autograd.grad(y.square().sum(), x)
        same(gradients[0], gradients[1])
        same(gradients[2], gradients[1])


# ---- nothing -----------------------------------------------------------------------------------


@each_format
@each_dtype
@each_geometry
@each_target
def test_an_empty_batch(
    target: Any, case: Case, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """Of no images y and dx are empty, and so are second derivatives.

    Found in: https://github.com/pytorch/pytorch/issues/64306 (the second derivative raises),
    https://github.com/pytorch/pytorch/issues/12013,
    https://github.com/pytorch/pytorch/issues/78868 (a crash in backward).
    """
    geometry = case.geometry()
    x = torch.empty(0, 5, 13, 18, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    size = (0, 5, *geometry.output_size(13, 18))
    y = target(x, geometry)
    assert (y.shape, y.dtype) == (size, dtype)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    assert (dx.shape, dx.dtype) == (x.shape, dtype)
    (ddx,) = torch.autograd.grad(dx.square().sum(), x)
    assert ddx.shape == x.shape
    assert target.upsample(x, upsampling(4, 2).upsampling()).shape == (0, 5, 26, 36)


@each_backend
@each_layer
def test_empty_inputs(make: Layer, shape: tuple[int, ...], backend: str) -> None:
    """A batch may be empty; of any other axis the error shows the shape that was given.

    Found in: https://github.com/pytorch/pytorch/issues/76587 (the error of MaxPool1d shows four
    axes, and is not raised without grad).
    """
    layer = make(backend=backend)
    batched = "Pool" not in type(layer).__name__ or len(shape) != 3 or "1d" in type(layer).__name__
    for axis in range(len(shape)):
        size = tuple(0 if i == axis else n for i, n in enumerate(shape))
        for x in (torch.zeros(size), torch.zeros(size, requires_grad=True)):
            if axis == 0 and batched:
                y = layer(x)
                assert y.shape == (0, *layer(torch.zeros(shape)).shape[1:])
                if x.requires_grad:
                    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
                    (ddx,) = torch.autograd.grad(dx.square().sum(), x)
                    assert dx.shape == ddx.shape == size
                continue
            with pytest.raises((ValueError, RuntimeError)) as raised:
                layer(x)
            assert str(size) in str(raised.value)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["max", "blur", "max 1d", "max 3d", "upsample", "timm"])
@pytest.mark.usefixtures("_fresh_compiler")
def test_empty_batches_of_compiled_layers(name: str) -> None:
    """A graph that was made for some images takes none, and the other way round.

    Found in: https://github.com/pytorch/pytorch/issues/64306.
    """
    make, shape = LAYERS[name]
    layer = make(backend=BACKENDS[0])
    graph = torch.compile(layer, backend="aot_eager")
    for n in (2, 0, 3, 0):
        x = fill((n, *shape[1:]), "normal", torch.float32).requires_grad_()
        y = graph(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x)
        want = layer(x)
        torch.testing.assert_close(y, want)
        torch.testing.assert_close(dx, torch.autograd.grad(want.square().sum(), x)[0])


# ---- the same bits -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "zeros"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@each_dtype
@needs_extension
def test_deterministic_at_every_border(dtype: torch.dtype, channels_last: bool, mode: Any) -> None:
    """Same bits in every run and by any number of threads; use_deterministic_algorithms is content.

    Found in: https://github.com/pytorch/pytorch/issues/98925 (reflection_pad2d's backward),
    https://github.com/pytorch/pytorch/issues/95578 (replication_pad2d's),
    https://github.com/torch/cunn/issues/84 (max pooling's).
    """
    layers: list[nn.Module] = [
        fastblur.FusedMaxBlurPool(3, 2, 1, filter_size=5, padding_mode=mode),
        fastblur.FusedBlurPool(5, padding_mode=mode),
    ]
    if mode in ("zeros", "replicate"):
        layers.append(fastblur.FusedBlurUpsample(5, padding_mode=mode))
    x = in_format(fill((3, 19, 40, 45), "ties", dtype), channels_last)
    torch.use_deterministic_algorithms(True)
    try:
        for layer in layers:
            first: list[Tensor] = []
            for threads in (1, 2, 3, 5, 8, 1):
                torch.set_num_threads(threads)
                leaf = x.clone().requires_grad_()
                with warnings.catch_warnings(action="error"):
                    y = layer(leaf)
                    dy = fill(tuple(y.shape), "normal", dtype, seed=2)
                    (dx,) = torch.autograd.grad(y, leaf, dy)
                first = first or [y, dx]
                same(y, first[0])
                same(dx, first[1])
    finally:
        torch.use_deterministic_algorithms(False)


@each_format
@each_geometry
@each_target
def test_a_second_backward(target: Any, case: Case, memory_format: torch.memory_format) -> None:
    """Backward changes neither codes nor gradients: it may be repeated, and the sum is kept.

    Found in: https://github.com/pytorch/executorch/issues/21686 (sums begin at what was there).
    """
    x = fill(case.shape, "normal", torch.float32).to(memory_format=memory_format).requires_grad_()
    y = target(x, case.geometry())
    dy = fill(tuple(y.shape), "normal", torch.float32, seed=1)
    before = dy.clone()
    first, second = (torch.autograd.grad(y, x, dy, retain_graph=True)[0] for _ in range(2))
    same(second, first)
    same(dy, before)
    y.backward(dy, retain_graph=True)
    y.backward(dy)
    assert x.grad is not None
    same(x.grad, first + second)


# ---- autocast ----------------------------------------------------------------------------------


def check_autocast(layer: nn.Module, called: Any, shape: tuple[int, ...]) -> None:
    for dtype in (torch.bfloat16, torch.float16, None, torch.bfloat16, None, torch.float16):
        around = torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)
        scale = 1.0 if dtype == torch.float16 else 2.0**20  # beyond the range of float16
        for inside in (False, True):
            x = fill(shape, "normal", torch.float32).requires_grad_()
            with around:
                y = called(x)
                loss = y.float().square().sum() * scale
                if inside:
                    loss.backward()
            if not inside:
                loss.backward()
            assert y.dtype == (dtype or torch.float32)
            assert x.grad is not None
            assert x.grad.dtype == torch.float32
            cast = x.detach().to(y.dtype).requires_grad_()
            want = layer(cast)
            (want.float().square().sum() * scale).backward()
            torch.testing.assert_close(y, want)
            # The reference adds up an element's gradients in float32 under autocast, and in 16 bits
            # without: some roundings apart.
            some = dict(rtol=4 * torch.finfo(y.dtype).eps, atol=1e-5)
            apart = some if getattr(layer, "backend", "") == "reference" else {}
            torch.testing.assert_close(x.grad.to(y.dtype), cast.grad, **apart)


@each_backend
@each_layer
def test_autocast_changes_between_calls(make: Layer, shape: tuple[int, ...], backend: str) -> None:
    """A call knows nothing of the autocast of the last one, nor backward of the one around it.

    Found in: https://github.com/pytorch/pytorch/issues/87979 (backward in float16 after bfloat16).
    """
    layer = make(backend=backend)
    check_autocast(layer, layer, shape)


@pytest.mark.parametrize("name", ["max", "blur 1d", "max 3d", "upsample"])
@pytest.mark.usefixtures("_fresh_compiler")
def test_autocast_changes_between_graphs(name: str) -> None:
    """The same of compiled layers.

    Found in: https://github.com/pytorch/pytorch/pull/181564 (one graph for both 16-bit types).
    """
    make, shape = LAYERS[name]
    layer = make(backend=BACKENDS[0])
    check_autocast(layer, torch.compile(layer, backend="aot_eager"), shape)


# ---- a process ---------------------------------------------------------------------------------


@needs_extension
def test_threads_keep_their_floating_point_modes() -> None:
    """No call switches the flushing of denormals on or off, in any thread that it runs in.

    Found in: https://github.com/pytorch/pytorch/issues/135758.
    """
    tiny = torch.tensor(1e-40)

    def flushes() -> bool:
        return bool((tiny * 1.0) == 0)

    found: list[bool] = []

    def work() -> None:
        x = torch.randn(4, 32, 64, 64, requires_grad=True)
        for flush in (True, False):
            torch.set_flush_denormal(flush)
            found.append(flushes() == flush)
            for case in GEOMETRIES.values():
                layer = fastblur.FusedMaxBlurPool(backend="cpu")
                layer.compute(x, case.geometry()).sum().backward()
                found.append(flushes() == flush)

    torch.set_num_threads(2)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True] * 2 * (1 + len(GEOMETRIES))
    assert not flushes()
