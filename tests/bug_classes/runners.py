"""The backends as these tests call them, and what one of them cannot show."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fastblur import FusedMaxBlurPool
from fastblur._backends import compiled
from fastblur._dispatch.operators import is_channels_last
from fastblur._geometry import Geometry
from testing.cases import Case, targets, zhang

from ..cuda_on_host import HostCuda, Options, why_not
from ..cuda_on_host.target import HostTarget

INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
# Each program takes the interpreter as long as a large map takes the CPU: of everything a part.
DTYPES = (
    (torch.float16,)
    if INTERPRETED
    else (torch.float32, torch.float64, torch.float16, torch.bfloat16)
)
FORMATS = (torch.contiguous_format, torch.channels_last)
# Of each family of kernels: max 2, max 3, blur, ReLU, and a generic one.
GEOMETRIES: dict[str, Case] = {
    "max 2": zhang(2, 4),
    "max 3": zhang(3, 3, pad=(1, 1)),
    "blur": zhang(1, 3),
    "relu": zhang(2, 3, relu=True),
    "generic": Case((2, 3), (1, 2), (0, 1), mode="zeros"),
}
if INTERPRETED:
    GEOMETRIES = {name: GEOMETRIES[name] for name in ("max 3", "relu", "generic")}

Run = Callable[[Tensor, Geometry], Tensor]


class Layer:
    """A layer on the CPU, by the direct path: it has seen such an input before."""

    def __call__(self, x: Tensor, operation: Any) -> Tensor:
        layer = FusedMaxBlurPool(backend="cpu")
        layer.compute(x.detach(), operation)
        return layer.compute(x, operation)

    upsample = __call__

    def __str__(self) -> str:
        return "layer"


class OnHost:
    """The CUDA kernels, run on the CPU, at any alignment."""

    def __call__(self, x: Tensor, geometry: Geometry) -> Tensor:
        return _on_host(is_channels_last(x))(x, geometry)

    def upsample(self, x: Tensor, upsampling: Any) -> Tensor:
        return _on_host(is_channels_last(x)).upsample(x, upsampling)

    def at(self, offset: int) -> Run:
        """With x, y and their gradients so many elements behind an aligned address."""
        way = Options(offset=offset)
        return lambda x, geometry: HostTarget(_host(), is_channels_last(x), (way,))(x, geometry)

    def __str__(self) -> str:
        return "cuda on host"


class Interpreted:
    """The Triton kernels in Triton's interpreter, where TRITON_INTERPRET is set."""

    def __call__(self, x: Tensor, geometry: Geometry) -> Tensor:
        return _triton().run(x, geometry)

    def upsample(self, x: Tensor, upsampling: Any) -> Tensor:
        return _triton().upsample(x, upsampling)

    def __str__(self) -> str:
        return "triton interpreted"


def _triton() -> Any:
    from fastblur._backends.triton import TRITON

    return TRITON


@cache
def _host() -> HostCuda:
    return HostCuda("plain")


@cache
def _on_host(channels_last: bool) -> HostTarget:
    return HostTarget(_host(), channels_last)


def _found() -> list[Any]:
    if INTERPRETED:
        return [Interpreted()]
    layer = [] if compiled.C is None else [Layer()]
    return [*targets(), *layer, *([] if why_not() else [OnHost()])]


TARGETS = _found()
# Names of backends that run tensors of the CPU, for the public functions.
BACKENDS = ["reference"] if compiled.C is None else ["cpu", "reference"]
each_target = pytest.mark.parametrize("target", TARGETS, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
each_format = pytest.mark.parametrize("memory_format", FORMATS, ids=["contiguous", "channels_last"])
each_geometry = pytest.mark.parametrize("case", GEOMETRIES.values(), ids=list(GEOMETRIES))

_COPIES = "its runner copies tensors: only Options(offset=) says how they lie"
_NANS = "every output of its runner begins as NaN, in all tests"
_TRANSPOSE = "plain PyTorch: conv_transpose2d of an empty batch has no second derivative"
_BLOCKS = "minutes for so many blocks: the tests beside it ask for the launches"
_ONEDNN = "plain PyTorch: oneDNN multiplies what a window does not hold by zero in bfloat16"
_FLUSHES = "plain PyTorch: oneDNN takes denormals of bfloat16 for zeros"
_ROUNDS = "plain PyTorch: gradients of windows that share a winner are summed in 16 bits"
# (target or backend, test or the beginning of its id) -> why it does not run there.
CANNOT: dict[tuple[str, str], str] = {
    ("reference", "test_a_nan_gradient_leaves_its_neighbours[reference-relu-bfloat16"): _ONEDNN,
    ("reference", "test_a_nan_gradient_leaves_its_neighbours[reference-generic-bfloat16"): _ONEDNN,
    ("reference", "test_a_nan_in_an_upsampling"): _ONEDNN,
    ("reference", "test_finite_results_beyond_the_range_of_half[reference-max"): _ROUNDS,
    **{
        ("cuda on host", test): _COPIES
        for test in (
            "test_slices_of_a_larger_tensor",
            "test_expanded_inputs_and_gradients",
            "test_strides_of_axes_of_one",
            "test_formats_of_axes_of_one",
            "test_outputs_share_no_memory",
        )
    },
    ("cuda on host", "test_long_axes"): _BLOCKS,
    ("triton interpreted", "test_long_axes"): _BLOCKS,
    ("cuda on host", "test_an_empty_batch"): "it launches nothing then, and is differentiable once",
    ("reference", "test_empty_inputs[upsample"): _TRANSPOSE,
    ("cuda on host", "test_memory_that_was_used_before"): _NANS,
    **{("reference", f"test_denormals[reference-{name}-bfloat16"): _FLUSHES for name in GEOMETRIES},
}


def why_skipped(target: Any, test: str) -> str | None:
    """The reason by which a test does not run on a target, or None."""
    for (name, start), reason in CANNOT.items():
        if name == str(target) and test.startswith(start):
            return reason
    return None


def run(target: Run, geometry: Geometry, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """y and dx; x is a leaf that lies as it is given."""
    leaf = x.detach().requires_grad_()
    y = target(leaf, geometry)
    (dx,) = torch.autograd.grad(y, leaf, dy)
    return y.detach(), dx


def same(ours: Tensor, theirs: Tensor, what: str = "") -> None:
    """The same bits, but for which NaN it is."""
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )
