"""The direct road: a layer's call on a plain tensor goes to the kernels without the dispatcher.

Plain means that nothing is at work but autograd in reverse mode and autocast: no transform, mode,
trace or tangent, and a tensor that is memory in one of the two layouts. All else gets None here and
goes through the operators, where errors are raised too.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function
from torch.nn import Parameter

from . import _autograd, _compat
from ._geometry import Geometry
from ._operators import Call, Operators, Size, autocast, memory_format

# Bound here, for a call asks all of them.
_keys_of = torch._C._dispatch_keys
_transform = torch._C._functorch.peek_interpreter_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_trace = torch._C._get_tracing_state
_any_autocast = torch._C._is_any_autocast_enabled
_is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
_with_grad = torch.is_grad_enabled


class DirectCall(Call, Protocol):
    """A call of a compiled backend."""

    input_size: Size
    dtype: torch.dtype

    def output(self, x: Tensor, codes: int) -> Tensor:
        """y; codes are written to this address, unless it is 0."""
        ...


@functools.cache
def _plain_keys(device_type: str) -> frozenset[int]:
    """The dispatch keys of a tensor that is memory and nothing else, made in inference mode or not.

    Asked in a thread of its own, where nothing is at work whatever surrounds this call.
    """
    keys: set[int] = set()

    def ask() -> None:
        for inference in (False, True):
            with torch.inference_mode(inference):
                keys.add(_keys_of(torch.empty(0, device=device_type)).raw_repr())

    with ThreadPoolExecutor(1) as other:
        other.submit(ask).exception()  # of a torch that is not known yet: then nothing is plain
    return frozenset(keys)


class Direct:
    """One geometry on one device: ``(x) -> y``, or None for what is not plain.

    Args:
        backend: one of the compiled ones.
        plan: of all calls.
        geometry: of the plan.
        device: of all inputs.
    """

    def __init__(self, backend: Any, plan: Any, geometry: Geometry, device: torch.device) -> None:
        self._plan = plan
        self._calls = backend.calls
        self._arguments = geometry.arguments()
        self._operators: Operators = backend.operators
        self._device, self._device_type = device, device.type
        self._alignment = backend.alignment
        self._keys = _plain_keys(device.type)
        self._autograd = getattr(torch._C.DispatchKey, f"Autograd{device.type.upper()}")

    def __call__(self, x: Tensor) -> Tensor | None:
        if not (self._is_memory(x) and x.dim() == 4) or _is_disturbed() or _trace() is not None:
            return None
        if _any_autocast():
            x = autocast(x)
        channels_last = not x.is_contiguous()
        if channels_last and not x.is_contiguous(memory_format=torch.channels_last):
            return None
        try:
            call = self._calls(self._plan, x.shape, channels_last, x.dtype)
        except (KeyError, ValueError):  # of the dtype, of the sizes
            return None
        y: Tensor
        if x.requires_grad and _with_grad() and not _is_excluded(self._autograd):
            y = _apply(x, call, self, channels_last)
        else:
            y = call.output(x, 0)
        return y

    def _is_memory(self, t: Tensor) -> bool:
        """Whether this is memory of the device that a kernel can read, and nothing else.

        Not a subclass, sparse, quantised, mapped, a view that is negated ...
        """
        kind = type(t)
        return (
            (kind is Tensor or kind is Parameter)
            and _keys_of(t).raw_repr() in self._keys
            and t.device == self._device
            and (self._alignment == 1 or t.data_ptr() % self._alignment == 0)
        )

    def backward(self, call: DirectCall, channels_last: bool, dy: Tensor, codes: Tensor) -> Tensor:
        """The gradient of x; a hook may have put anything in the place of dy or codes."""
        if (
            not _with_grad()
            and not _is_disturbed()
            and self._is_memory(dy)
            and self._is_memory(codes)
            and dy.shape == call.output_size
            and dy.dtype is call.dtype
            and codes.shape == call.codes_shape
            and codes.dtype is call.codes_dtype
            and codes.is_contiguous()
        ):
            return call.backward(dy.contiguous(memory_format=memory_format(channels_last)), codes)
        dx: Tensor = _autograd.Backward.apply(
            self._operators, dy, codes, call.input_size, *self._arguments, channels_last
        )
        return dx


def _is_disturbed() -> bool:
    """Whether a transform, a mode or forward mode is at work."""
    return (
        _transform() is not None
        or _dispatch_modes() > 0
        or _function_modes() > 0
        or forward_ad._current_level >= 0
    )


class _Direct(Function):
    """``(x, call, direct, channels_last) -> y``, differentiable any number of times."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, call: DirectCall, direct: Direct, channels_last: bool
    ) -> Tensor:
        codes = x.new_empty(call.codes_shape, dtype=call.codes_dtype)
        y = call.output(x, codes.data_ptr())
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(codes)
        ctx.made = direct, call, channels_last
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if dy is None:
            return None, None, None, None
        direct, call, channels_last = ctx.made
        return direct.backward(call, channels_last, dy, *ctx.saved_tensors), None, None, None


_apply = _compat.plain_apply(_Direct)
