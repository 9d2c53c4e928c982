"""The direct road: a layer's call on a plain tensor goes to the kernels without the dispatcher.

Plain means that nothing is at work but autograd in reverse mode and autocast: no transform, mode,
trace or tangent, and a tensor that is memory in one of the two layouts. All else gets None here and
goes through the operators, where errors are raised too.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function
from torch.nn import Parameter

from . import _autograd, _compat
from ._geometry import Geometry
from ._operators import Call, Operators, Size, memory_format

_keys_of = torch._C._dispatch_keys
_included = torch._C._dispatch_tls_local_include_set
_excluded = torch._C._dispatch_tls_local_exclude_set
_function_modes = torch._C._len_torch_function_stack


class DirectCall(Call, Protocol):
    """A call of a compiled backend."""

    input_size: Size
    dtype: torch.dtype

    def output(self, x: Tensor, codes: int) -> Tensor:
        """y; codes are written to this address, unless it is 0."""
        ...


class _Plain(NamedTuple):
    """What torch's dispatcher says where nothing is at work, on one type of device."""

    keys: frozenset[int]  # of a tensor
    around: dict[tuple[int, int], bool]  # included and excluded keys -> whether autocast is on


@functools.cache
def _plain(device_type: str) -> _Plain:
    """Asked in a thread of its own, where nothing is at work whatever surrounds this call."""
    keys: set[int] = set()
    around: dict[tuple[int, int], bool] = {}

    def ask() -> None:
        for inference, cast in itertools.product((False, True), repeat=2):
            with torch.inference_mode(inference), torch.autocast(device_type, enabled=cast):
                keys.add(_keys_of(torch.empty(0, device=device_type)).raw_repr())
                around[_included().raw_repr(), _excluded().raw_repr()] = cast

    with ThreadPoolExecutor(1) as other:
        other.submit(ask).exception()  # of a torch that is not known yet: then nothing is plain
    return _Plain(frozenset(keys), around)


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
        self._device = device
        self._alignment = backend.alignment
        self._keys, self._around = _plain(device.type)

    def __call__(self, x: Tensor) -> Tensor | None:
        cast = self._around.get((_included().raw_repr(), _excluded().raw_repr()))
        if (
            cast is None
            or not self._is_memory(x)
            or forward_ad._current_level >= 0
            or _function_modes()
            or x.dim() != 4
        ):
            return None
        if cast and x.dtype is not torch.float64:
            x = x.to(torch.get_autocast_dtype(self._device.type))
        channels_last = not x.is_contiguous()
        if channels_last and not x.is_contiguous(memory_format=torch.channels_last):
            return None
        y: Tensor
        try:
            call = self._calls(self._plan, x.shape, channels_last, x.dtype)
        except (KeyError, ValueError):  # of the dtype, of the sizes
            return None
        if x.requires_grad and torch.is_grad_enabled():
            y = _apply(x, call, self, channels_last)
            return y
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
            not torch.is_grad_enabled()
            and (_included().raw_repr(), _excluded().raw_repr()) in self._around
            and forward_ad._current_level < 0
            and not _function_modes()
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
