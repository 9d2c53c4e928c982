"""The compiled operators as Python sees them: calls, shapes for fake tensors, memory formats.

``torch.ops.fastblur.max_blur_pool_{forward,backward,apply}`` are defined in ``csrc/operators.cpp``,
with kernels in ``csrc/cpu`` and ``csrc/cuda`` and derivatives in ``csrc/autograd.cpp``. Here is
what the compiler and ``fastblur/_autograd.py`` need to know of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _codes, _extension
from ._geometry import Geometry

AVAILABLE = _extension.C is not None
_BUILD: dict[str, Any] = {} if _extension.C is None else _extension.C.build_info()
# "sm_90" for machine code, "compute_90" for PTX; none if the extension was built without CUDA.
CUDA_ARCHS: tuple[str, ...] = tuple(_BUILD["cuda_archs"]) if _BUILD.get("cuda") else ()
HAS_FORWARD_MODE = True  # the operators carry tangents; see fastblur/_autograd.py

Arguments = tuple[Any, ...]  # Geometry.arguments() and channels_last


def is_channels_last(x: Tensor) -> bool:
    """Whether a 4-D tensor is, or would best be made, channels_last, by torch's rule.

    Going out from the channels over columns and rows to the images, no stride is less than the
    extent of what lies inside it.
    """
    if x.is_contiguous():
        return False
    if x.is_contiguous(memory_format=torch.channels_last):
        return True
    size, stride = x.shape, x.stride()
    if stride[1] == 0:
        return False
    extent = 0
    for axis in (1, 3, 2, 0):
        if size[axis] == 0 or stride[axis] < extent:
            return False
        if axis == 0 and extent == stride[1]:  # one element an image: both formats, so contiguous
            return False
        extent = stride[axis] * size[axis]
    return True


def is_tracing() -> bool:
    """Whether ``torch.jit.trace`` is recording."""
    return torch._C._get_tracing_state() is not None  # faster than torch.jit.is_tracing


def forward(x: Tensor, arguments: Arguments, need_codes: bool) -> tuple[Tensor, Tensor]:
    """Chooses winners and blurs: (y, codes); codes are empty unless asked for."""
    result: tuple[Tensor, Tensor] = torch.ops.fastblur.max_blur_pool_forward(
        x, *arguments, need_codes
    )
    return result


def backward(
    dy: Tensor, codes: Tensor, input_size: tuple[int, ...], arguments: Arguments
) -> Tensor:
    """The gradient of x, from that of y and the winners."""
    dx: Tensor = torch.ops.fastblur.max_blur_pool_backward(dy, codes, input_size, *arguments)
    return dx


def apply(x: Tensor, codes: Tensor, arguments: Arguments) -> Tensor:
    """Forward with the winners given: linear in x."""
    y: Tensor = torch.ops.fastblur.max_blur_pool_apply(x, codes, *arguments)
    return y


def plain_call(geometry: Geometry, device: torch.device) -> Any:
    """``(x) -> y`` for plain tensors of a device: y, or None where the call is not that plain.

    What plain means is written down in ``csrc/plain_call.cpp``.
    """
    assert _extension.C is not None  # else no backend would have chosen this
    return _extension.C.PlainCall(*geometry.arguments(), device)


def _empty(like: Tensor, size: tuple[int, ...], channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _fake_forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *geometry, channels_last, need_codes = arguments
    g = geometry_from(geometry)
    n, c, h, w = x.shape
    y = _empty(x, (n, c, *g.output_size(h, w)), channels_last)
    shape, dtype = _codes.shape_and_dtype(g, (n, c, h, w), channels_last, x.device.type, x.dtype)
    return y, torch.empty(shape if need_codes else (n, 0), dtype=dtype, device=x.device)


def _fake_backward(
    dy: Tensor, codes: Tensor, input_size: tuple[int, ...], *arguments: Any
) -> Tensor:
    _check_device(codes, dy)
    return _empty(dy, tuple(input_size), arguments[-1])


def _fake_apply(x: Tensor, codes: Tensor, *arguments: Any) -> Tensor:
    _check_device(codes, x)
    *geometry, channels_last = arguments
    n, c, h, w = x.shape
    return _empty(x, (n, c, *geometry_from(geometry).output_size(h, w)), channels_last)


def _check_device(codes: Tensor, beside: Tensor) -> None:
    """As in csrc: one meta tensor is enough to send a call here instead."""
    if codes.device != beside.device:
        raise RuntimeError(
            f"codes must be on the input's device {beside.device}, got {codes.device}"
        )


def geometry_from(arguments: list[Any]) -> Geometry:
    """Undoes Geometry.arguments() once they crossed a schema, where tuples become lists."""
    fields: list[Any] = [tuple(a) if isinstance(a, list) else a for a in arguments]
    return Geometry(*fields)


def fold(x: Tensor, dim: int | None, batch_size: int) -> Tensor:
    """Folds a mapped axis, [B, N, ...] wherever B stands, into the batch: [B N, ...]."""
    x = x.expand(batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def unfold(x: Tensor, batch_size: int, n: int) -> Tensor:
    """Undoes :func:`fold`, the mapped axis first, before the ``n`` images of each."""
    return x.reshape(batch_size, n, *x.shape[1:])


if AVAILABLE:
    torch.library.register_fake("fastblur::max_blur_pool_forward", _fake_forward)
    torch.library.register_fake("fastblur::max_blur_pool_backward", _fake_backward)
    torch.library.register_fake("fastblur::max_blur_pool_apply", _fake_apply)
