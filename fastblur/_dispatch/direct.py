"""The direct path: a layer's call on a plain tensor goes to the kernels without the dispatcher.

A call is plain if only reverse-mode autograd and autocast are active (no transform, mode, trace,
profiler or tangent) and the tensor is memory in one of the two layouts. All other calls get None
here and go through the operators, which also raise the errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler
from torch.autograd.function import Function
from torch.nn import Parameter

from .. import _compat
from .operators import Size
from .plain import function_modes, included, is_plain, keys_of, states

# Bound once, because every call reads all of them.
_is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
_any_autocast = torch._C._is_any_autocast_enabled
_autocast_on = torch.is_autocast_enabled
_with_grad = torch.is_grad_enabled
_CAST = {torch.float32, torch.float16, torch.bfloat16}  # what autocast casts, of what kernels take
_AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality


class DirectCall(Protocol):
    """A call to a compiled backend: of a pooling or of an upsampling."""

    input_size: Size
    output_size: Size
    codes_shape: tuple[int, ...]
    codes_dtype: torch.dtype
    dtype: torch.dtype
    memory_format: torch.memory_format
    alignment: int
    plain: tuple[frozenset[int], frozenset[int]]  # of _plain.states

    def output(self, x: Tensor) -> Tensor:
        """Returns y; keeps no codes."""
        ...

    def forward(self, x: Tensor, need_codes: bool) -> tuple[Tensor, Tensor]: ...
    def backward(self, dy: Tensor, codes: Tensor) -> Tensor: ...
    def differentiable_backward(self, dy: Tensor, codes: Tensor) -> Tensor:
        """:meth:`backward` of any tensors, recorded by autograd."""
        ...


class Direct:
    """One geometry on one device: ``(x) -> y``, or None if the call is not plain.

    Args:
        plan: the plan of all calls, of ``_backends/calls.py``.
        calls: makes the calls, from the plan, the size of x, its layout, dtype and device.
        device: the device of all inputs.
    """

    def __init__(self, plan: Any, calls: Callable[..., Any], device: torch.device) -> None:
        self._plan, self._calls = plan, calls
        self._device = None if device.type == "cpu" else device  # there is only one CPU device
        self._device_type = device.type
        self._alignment = plan.backend.alignment
        self._keys, self._around = states(device.type)
        self._last: DirectCall | None = None  # most layers see one size repeatedly

    def __call__(self, x: Tensor) -> Tensor | None:
        # One function: a call per question would double the time.
        kind = type(x)
        if (
            (kind is not Tensor and kind is not Parameter)
            or keys_of(x).raw_repr() not in self._keys
            or included().raw_repr() not in self._around
            or function_modes()
            or forward_ad._current_level >= 0
            or profiler._is_profiler_enabled  # it shows operators by name, but no direct call
            or (self._device is not None and x.device != self._device)
        ):
            return None
        dtype = x.dtype
        if _any_autocast() and dtype in _CAST and _autocast_on(self._device_type):
            dtype = torch.get_autocast_dtype(self._device_type)
        call = self._last
        if (
            call is None
            or x.shape != call.input_size
            or dtype is not call.dtype
            or not x.is_contiguous(memory_format=call.memory_format)
        ):
            call = self._call_of(x, dtype)
            if call is None:
                return None
        if self._alignment > 1 and x.data_ptr() % self._alignment:
            return None
        if x.requires_grad and _with_grad() and not _is_excluded(_AUTOGRAD):
            y: Tensor = _apply(x, call)
            return y
        return call.output(x if x.dtype is dtype else x.to(dtype))

    def _call_of(self, x: Tensor, dtype: torch.dtype) -> DirectCall | None:
        """The call for x's size and layout in a dtype; None if there is none."""
        if x.dim() != 4:
            return None
        channels_last = not x.is_contiguous()
        if channels_last and not x.is_contiguous(memory_format=torch.channels_last):
            return None
        try:
            call: DirectCall = self._calls(self._plan, x.shape, channels_last, dtype, x.device)
        except (KeyError, ValueError):  # the dtype, or the sizes
            return None
        self._last = call
        return call


class DirectMaxBlurPool(Function):
    """``(x, call) -> y``, differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: DirectCall) -> Tensor:
        if x.dtype is not call.dtype:  # under autocast; autograd casts the gradient back by itself
            x = x.to(call.dtype)
        y, codes = call.forward(x, True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(codes)
        ctx.call = call
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, None]:
        if dy is None:
            return None, None
        call: DirectCall = ctx.call
        (codes,) = ctx.saved_tensors
        if _with_grad() or not _fits(call, dy, codes):
            dx = call.differentiable_backward(dy, codes)
        else:
            if not dy.is_contiguous(memory_format=call.memory_format):  # faster than contiguous()
                dy = dy.contiguous(memory_format=call.memory_format)
            dx = call.backward(dy, codes)
        return dx, None


_apply = _compat.plain_apply(DirectMaxBlurPool)


def _fits(call: DirectCall, dy: Tensor, codes: Tensor) -> bool:
    """Whether a kernel accepts them; a hook may have replaced either with anything."""
    return (
        is_plain(call.plain, dy, codes)
        and dy.shape == call.output_size
        and dy.dtype is call.dtype
        and codes.shape == call.codes_shape
        and codes.dtype is call.codes_dtype
        and codes.is_contiguous()
        and (
            call.alignment == 1  # on the CPU, which is one device
            or (
                dy.device == codes.device
                and dy.data_ptr() % call.alignment == codes.data_ptr() % call.alignment == 0
            )
        )
    )
