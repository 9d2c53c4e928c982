"""Calls to the compiled backends: what is known before the tensors come, kept for equal ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _compat
from .._dispatch import autograd
from .._dispatch.operators import Arguments, Size, memory_format
from .._dispatch.plain import states
from .._geometry import Geometry

Allocate = Callable[[], Tensor]

_NUMBERS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}  # as in csrc


class Plan:
    """A checked geometry on a backend, one of those of ``compiled.py``.

    Raises:
        ValueError: a field is not allowed.
    """

    def __init__(self, backend: Any, geometry: Arguments) -> None:
        self.backend, self.geometry = backend, geometry
        self.native = backend.extension.Plan(*geometry)


class CompiledCall:
    """A call whose geometry and sizes ``_C`` has checked; immutable, shared by all equal calls.

    Raises:
        ValueError: the sizes do not fit.
    """

    def __init__(
        self, plan: Plan, size: Size, channels_last: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.native = plan.backend.library.Call(plan.native, _NUMBERS[dtype], channels_last, *size)
        self._forward, self._backward = self.native.forward, self.native.backward
        self._place = plan.backend.place
        h, w, codes, *scratch = self.native.sizes
        n, c = size[:2]
        self.operators = plan.backend.operators
        self.alignment, self.plain = plan.backend.alignment, states(plan.backend.device_type)
        self.arguments = (*plan.geometry, channels_last)
        self._linear = Geometry(*plan.geometry).linear
        self.dtype, self.memory_format = dtype, memory_format(channels_last)
        self.input_size, self.output_size = tuple(size), (n, c, h, w)
        self.codes_shape, self.codes_dtype = (n, codes), plan.backend.codes_dtype

        def new(size: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Allocate:
            return functools.partial(_compat.empty_strided(device), size, strides, dtype)

        self._new_x = new(self.input_size, _strides(size, channels_last), dtype)
        self._new_y = new(self.output_size, _strides(self.output_size, channels_last), dtype)
        self._new_codes = new(self.codes_shape, (codes or 1, 1), self.codes_dtype)
        self._no_codes = new((n, 0), (1, 1), self.codes_dtype)
        # For codes that are not kept, if the kernels need memory for them nevertheless.
        (length,) = scratch or (0,)
        self._new_scratch = new((n, length), (length, 1), self.codes_dtype) if length else None

    def output(self, x: Tensor) -> Tensor:
        """Returns y; keeps no codes."""
        y, scratch = self._new_y(), self._new_scratch and self._new_scratch()
        codes = 0 if scratch is None else scratch.data_ptr()
        self._forward(x.data_ptr(), y.data_ptr(), codes, *self._place(x))
        return y

    def forward(self, x: Tensor, need_codes: bool) -> tuple[Tensor, Tensor]:
        if not need_codes:
            return self.output(x), self._no_codes()
        y, codes = self._new_y(), self._new_codes()
        self._forward(x.data_ptr(), y.data_ptr(), codes.data_ptr(), *self._place(x))
        return y, codes

    def backward(self, dy: Tensor, codes: Tensor) -> Tensor:
        dx = self._new_x()
        self._backward(dy.data_ptr(), codes.data_ptr(), dx.data_ptr(), *self._place(dy))
        return dx

    def apply(self, x: Tensor, codes: Tensor) -> Tensor:
        if self._linear:  # a blur has no winners: this is forward, whose kernels are faster
            return self.output(x)
        y = self._new_y()
        self.native.apply(x.data_ptr(), codes.data_ptr(), y.data_ptr(), *self._place(x))
        return y

    def no_codes(self) -> Tensor:
        """What stands for the codes of a call that keeps none."""
        return self._no_codes()

    def differentiable_backward(self, dy: Tensor, codes: Tensor) -> Tensor:
        """:meth:`backward` of any tensors, recorded by autograd."""
        dx: Tensor = autograd.MaxBlurPoolBackward.apply(
            self.operators, dy, codes, self.input_size, *self.arguments
        )
        return dx


class UpsamplingCall:
    """A blur's call with input and output in each other's place: its forward is the transpose."""

    def __init__(
        self, plan: Plan, size: Size, channels_last: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        blurred: Size = (*size[:2], *Geometry(*plan.geometry).largest_map(*size[2:]))
        call: CompiledCall = plan.backend.calls(plan, blurred, channels_last, dtype, device)
        self._blur = call
        self.operators, self.alignment, self.plain = call.operators, call.alignment, call.plain
        self.dtype, self.memory_format = dtype, call.memory_format
        self.input_size, self.output_size = call.output_size, call.input_size
        self.codes_shape, self.codes_dtype = call.codes_shape, call.codes_dtype

    def output(self, x: Tensor) -> Tensor:
        return self._blur.backward(x, self._blur.no_codes())

    def forward(self, x: Tensor, need_codes: bool) -> tuple[Tensor, Tensor]:
        codes = self._blur.no_codes()
        return self._blur.backward(x, codes), codes

    def backward(self, dy: Tensor, codes: Tensor) -> Tensor:
        return self._blur.apply(dy, codes)

    def differentiable_backward(self, dy: Tensor, codes: Tensor) -> Tensor:
        call = self._blur
        dx: Tensor = autograd.MaxBlurPoolApply.apply(call.operators, dy, codes, *call.arguments)
        return dx


def _strides(size: Size, channels_last: bool) -> Size:
    """The strides that torch gives a tensor of this size; only the batch may be empty."""
    _, c, h, w = size
    return (h * w * c, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)
