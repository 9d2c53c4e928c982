"""The op as differentiable functions, over the compiled operators.

Two roads lead to the operators, with the same derivatives (``tests/test_autograd.py`` walks both):

- plainly through the dispatcher, whose C++ derivatives (``csrc/autograd.cpp``) are the fastest, and
  which ``torch.compile`` and ``torch.export`` put in their graphs;
- through the three Functions here, which add what C++ derivatives cannot have: the transforms of
  ``torch.func``. They are taken when one of those is at work.

The derivative of each is another of the three: the op is linear once its winners are known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd.function import Function

from . import _extension, _ops
from ._geometry import Geometry

_Context = Any  # torch's context grows attributes


def max_blur_pool(x: Tensor, geometry: Geometry) -> Tensor:
    """The fused op on a checked ``[N, C, H, W]`` input."""
    if not torch.compiler.is_compiling() and _transforms_at_work():
        # A mapped tensor does not tell its memory format.
        channels_last = not _is_mapped(x) and _ops.is_channels_last(x)
        y: Tensor = MaxBlurPoolFunction.apply(x, *geometry.arguments(), channels_last)[0]
        return y
    # A trace keeps the answer for good, and torch checks a trace without grad: so, one answer.
    need_codes = (x.requires_grad and torch.is_grad_enabled()) or _ops.is_tracing()
    return _ops.forward(x, (*geometry.arguments(), _ops.is_channels_last(x)), need_codes)[0]


def _transforms_at_work() -> bool:
    innermost = torch._C._functorch.peek_interpreter_stack()
    # functionalize has a rule for operators, and none for Functions.
    return innermost is not None and innermost.key() != TransformType.Functionalize


def _is_mapped(x: Tensor) -> bool:
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


class MaxBlurPoolFunction(Function):
    """``(x, *arguments) -> (y, codes)``, differentiable any number of times, in both modes.

    ``arguments`` are those of ``torch.ops.fastblur.max_blur_pool_forward`` between ``x`` and
    ``need_codes``: kernel_size, stride, padding, taps_h, taps_w, blur_padding, padding_mode, relu,
    channels_last. ``x`` is [N, C, H, W]; ``codes`` are opaque, and all that is kept for backward.
    Most users want :func:`fastblur.functional.max_blur_pool2d`.

    Raises:
        RuntimeError: the compiled extension is not there.
    """

    @staticmethod
    def forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        if not _ops.AVAILABLE:
            raise RuntimeError(f"MaxBlurPoolFunction cannot run: {_extension.WHY_NOT}")
        return _ops.forward(x, arguments, True)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        x, *arguments = inputs
        _, codes = output
        ctx.mark_non_differentiable(codes)
        _remember(ctx, codes, tuple(arguments), x.shape)

    @staticmethod
    def backward(ctx: _Context, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
        return _to_input(ctx, dy), *(None for _ in ctx.arguments)

    @staticmethod
    def jvp(ctx: _Context, x_tangent: Tensor, *_: Any) -> tuple[Tensor, None]:
        (codes,) = ctx.saved_tensors
        return _Apply.apply(x_tangent, codes, *ctx.arguments), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *arguments: Any) -> Any:
        folded = _ops.fold(x, in_dims[0], info.batch_size)
        y, codes = MaxBlurPoolFunction.apply(folded, *arguments)
        b, n = info.batch_size, _batch_of(x, in_dims[0])
        return (_ops.unfold(y, b, n), _ops.unfold(codes, b, n)), (0, 0)


class _Backward(Function):
    """``(dy, codes, input_size, *arguments) -> dx``, linear in dy."""

    @staticmethod
    def forward(dy: Tensor, codes: Tensor, input_size: Any, *arguments: Any) -> Tensor:
        return _ops.backward(dy, codes, input_size, arguments)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        _, codes, input_size, *arguments = inputs
        _remember(ctx, codes, tuple(arguments), input_size)

    @staticmethod
    def backward(ctx: _Context, ddx: Tensor | None) -> tuple[Any, ...]:
        (codes,) = ctx.saved_tensors
        ddy = None if ddx is None else _Apply.apply(ddx, codes, *ctx.arguments)
        return ddy, None, None, *(None for _ in ctx.arguments)

    @staticmethod
    def jvp(ctx: _Context, dy_tangent: Tensor, *_: Any) -> Tensor:
        (codes,) = ctx.saved_tensors
        return _Backward.apply(dy_tangent, codes, ctx.input_size, *ctx.arguments)  # type: ignore[no-any-return]

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        dy: Tensor,
        codes: Tensor,
        input_size: Any,
        *arguments: Any,
    ) -> Any:
        b = info.batch_size
        folded = _ops.fold(dy, in_dims[0], b), _ops.fold(codes, in_dims[1], b)
        size = (b * input_size[0], *input_size[1:])
        return _ops.unfold(_Backward.apply(*folded, size, *arguments), b, input_size[0]), 0


class _Apply(Function):
    """``(x, codes, *arguments) -> y``, linear in x."""

    @staticmethod
    def forward(x: Tensor, codes: Tensor, *arguments: Any) -> Tensor:
        return _ops.apply(x, codes, arguments)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        x, codes, *arguments = inputs
        _remember(ctx, codes, tuple(arguments), x.shape)

    @staticmethod
    def backward(ctx: _Context, dy: Tensor | None) -> tuple[Any, ...]:
        return _to_input(ctx, dy), None, *(None for _ in ctx.arguments)

    @staticmethod
    def jvp(ctx: _Context, x_tangent: Tensor, *_: Any) -> Tensor:
        (codes,) = ctx.saved_tensors
        return _Apply.apply(x_tangent, codes, *ctx.arguments)  # type: ignore[no-any-return]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, codes: Tensor, *arguments: Any) -> Any:
        b = info.batch_size
        folded = _ops.fold(x, in_dims[0], b), _ops.fold(codes, in_dims[1], b)
        y = _Apply.apply(*folded, *arguments)
        return _ops.unfold(y, b, _batch_of(x, in_dims[0])), 0


def _batch_of(x: Tensor, mapped: int | None) -> int:
    return x.shape[1 if mapped == 0 else 0]


def _remember(
    ctx: _Context, codes: Tensor, arguments: tuple[Any, ...], input_size: tuple[int, ...]
) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(codes)
    ctx.save_for_forward(codes)
    ctx.arguments = arguments
    ctx.input_size = tuple(input_size)


def _to_input(ctx: _Context, dy: Tensor | None) -> Tensor | None:
    if dy is None:
        return None
    (codes,) = ctx.saved_tensors
    return _Backward.apply(dy, codes, ctx.input_size, *ctx.arguments)  # type: ignore[no-any-return]
