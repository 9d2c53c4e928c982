"""The direct road: a layer's call on a plain tensor goes to the kernels without the dispatcher.

Plain means that nothing is at work but autograd in reverse mode and autocast: no transform, mode,
trace or tangent, and a tensor that is memory in one of the two layouts. All else gets None here and
goes through the operators, where errors are raised too.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function
from torch.nn import Parameter

from . import _autograd, _compat
from ._operators import Arguments, Call, Operators, Size, autocast

# Bound here, for a call asks all of them.
_keys_of = torch._C._dispatch_keys
_included = torch._C._dispatch_tls_local_include_set
_is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
_function_modes = torch._C._len_torch_function_stack
_any_autocast = torch._C._is_any_autocast_enabled
_autocast_on = torch.is_autocast_enabled
_with_grad = torch.is_grad_enabled
_AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality


class DirectCall(Call, Protocol):
    """A call of a compiled backend."""

    operators: Operators
    arguments: Arguments
    input_size: Size
    dtype: torch.dtype
    memory_format: torch.memory_format
    device_type: str
    alignment: int

    def output(self, x: Tensor, codes: int) -> Tensor:
        """y; codes are written to this address, unless it is 0."""
        ...


@functools.cache
def _states(device_type: str) -> tuple[frozenset[int], frozenset[int]]:
    """What the dispatcher says where nothing is at work, of a tensor and of what is around it.

    Asked in a thread of its own, where nothing is at work whatever surrounds this call.
    """
    keys: set[int] = set()
    around: set[int] = set()

    def ask() -> None:
        for inference in (False, True):
            with torch.inference_mode(inference):
                keys.add(_keys_of(torch.empty(0, device=device_type)).raw_repr())
                around.add(_included().raw_repr())

    # In a torch that is not known yet, or in a process that ends, nothing is plain.
    with contextlib.suppress(RuntimeError), ThreadPoolExecutor(1) as other:
        other.submit(ask).exception()
    return frozenset(keys), frozenset(around)


@functools.cache
def _tests(device_type: str, alignment: int) -> tuple[Callable[[Tensor], bool], Callable[[], bool]]:
    """(is_memory, is_disturbed), for kernels that read aligned memory on such a device."""
    keys, around = _states(device_type)

    def is_memory(t: Tensor) -> bool:
        # Not a subclass, sparse, quantised, mapped, a view that is negated ...
        kind = type(t)
        return (
            (kind is Tensor or kind is Parameter)
            and _keys_of(t).raw_repr() in keys
            and (alignment == 1 or t.data_ptr() % alignment == 0)
        )

    def is_disturbed() -> bool:
        # By a transform, a mode, a trace or forward mode; autocast may be at work.
        return (
            _included().raw_repr() not in around
            or _function_modes() > 0
            or forward_ad._current_level >= 0
        )

    return is_memory, is_disturbed


class Direct:
    """One geometry on one device: ``(x) -> y``, or None for what is not plain.

    Args:
        plan: of all calls, as ``_backends/compiled.py`` makes it.
        device: of all inputs.
    """

    def __init__(self, plan: Any, device: torch.device) -> None:
        self._plan = plan
        self._device = None if device.type == "cpu" else device  # the only one of its kind
        self._device_type = device.type
        self._calls = plan.backend.calls
        self._is_memory, self._is_disturbed = _tests(device.type, plan.backend.alignment)

    def __call__(self, x: Tensor) -> Tensor | None:
        if (
            not self._is_memory(x)
            or (self._device is not None and x.device != self._device)
            or x.dim() != 4
            or self._is_disturbed()
        ):
            return None
        if _any_autocast() and _autocast_on(self._device_type):
            x = autocast(x)
        channels_last = not x.is_contiguous()
        if channels_last and not x.is_contiguous(memory_format=torch.channels_last):
            return None
        try:
            call = self._calls(self._plan, x.shape, channels_last, x.dtype)
        except (KeyError, ValueError):  # of the dtype, of the sizes
            return None
        y: Tensor
        if x.requires_grad and _with_grad() and not _is_excluded(_AUTOGRAD):
            y = _apply(x, call)
        else:
            y = call.output(x, 0)
        return y


class _Direct(Function):
    """``(x, call) -> y``, differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: DirectCall) -> Tensor:
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
            dx = _autograd.Backward.apply(
                call.operators, dy, codes, call.input_size, *call.arguments
            )
        else:
            dx = call.backward(dy.contiguous(memory_format=call.memory_format), codes)
        return dx, None


_apply = _compat.plain_apply(_Direct)


def _fits(call: DirectCall, dy: Tensor, codes: Tensor) -> bool:
    """Whether a kernel can have them; a hook may have put anything in the place of either."""
    is_memory, is_disturbed = _tests(call.device_type, call.alignment)
    return (
        is_memory(dy)
        and is_memory(codes)
        and dy.shape == call.output_size
        and dy.dtype is call.dtype
        and codes.shape == call.codes_shape
        and codes.dtype is call.codes_dtype
        and codes.is_contiguous()
        and dy.device == codes.device
        and not is_disturbed()
    )
