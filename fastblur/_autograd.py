"""The op as differentiable functions, over the operators of a backend.

Two roads lead to the operators, with the same derivatives (``tests/test_autograd.py`` walks both):

- plainly through the dispatcher, with the derivatives that the operators have there (in
  ``csrc/autograd.cpp`` and ``_triton.py``): the fastest, and what ``torch.compile`` and
  ``torch.export`` put in their graphs;
- through the three Functions here, which add what those derivatives cannot have: the transforms of
  ``torch.func``. They are taken when one of those is at work.

The derivative of each is another of the three: the op is linear once its winners are known. Which
operators they call is an argument of all: the module that has them.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import forward_ad
from torch.autograd.function import Function

from . import _extension, _ops
from ._geometry import Geometry

_Context = Any  # torch's context grows attributes


class Operators(Protocol):
    """A backend's three operators: ``_ops`` has the compiled ones, ``_triton`` those in Triton."""

    HAS_FORWARD_MODE: bool  # whether the operators themselves carry tangents

    def forward(
        self, x: Tensor, arguments: tuple[Any, ...], need_codes: bool
    ) -> tuple[Tensor, Tensor]: ...
    def backward(
        self,
        dy: Tensor,
        codes: Tensor,
        input_size: tuple[int, ...],
        arguments: tuple[Any, ...],
    ) -> Tensor: ...
    def apply(self, x: Tensor, codes: Tensor, arguments: tuple[Any, ...]) -> Tensor: ...


def max_blur_pool(x: Tensor, geometry: Geometry, operators: Operators = _ops) -> Tensor:
    """The fused op on a checked ``[N, C, H, W]`` input."""
    if not torch.compiler.is_compiling() and (
        _transforms_at_work() or not (operators.HAS_FORWARD_MODE or forward_ad._current_level < 0)
    ):
        # A mapped tensor does not tell its memory format.
        channels_last = not _is_mapped(x) and _ops.is_channels_last(x)
        y: Tensor = _Forward.apply(operators, x, *geometry.arguments(), channels_last)[0]
        return y
    # A trace keeps the answer for good, and torch checks a trace without grad: so, one answer.
    need_codes = (x.requires_grad and torch.is_grad_enabled()) or _ops.is_tracing()
    return operators.forward(x, (*geometry.arguments(), _ops.is_channels_last(x)), need_codes)[0]


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


class _Forward(Function):
    """``(operators, x, *arguments) -> (y, codes)``, differentiable any number of times."""

    @staticmethod
    def forward(operators: Operators, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        return operators.forward(x, arguments, True)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        operators, x, *arguments = inputs
        _, codes = output
        ctx.mark_non_differentiable(codes)
        _remember(ctx, operators, codes, tuple(arguments), x.shape)

    @staticmethod
    def backward(ctx: _Context, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
        return None, _to_input(ctx, dy), *(None for _ in ctx.arguments)

    @staticmethod
    def jvp(ctx: _Context, _: Any, x_tangent: Tensor, *__: Any) -> tuple[Tensor, None]:
        (codes,) = ctx.saved_tensors
        return _Apply.apply(ctx.operators, x_tangent, codes, *ctx.arguments), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], operators: Operators, x: Tensor, *arguments: Any
    ) -> Any:
        folded = _ops.fold(x, in_dims[1], info.batch_size)
        y, codes = _Forward.apply(operators, folded, *arguments)
        b, n = info.batch_size, _batch_of(x, in_dims[1])
        return (_ops.unfold(y, b, n), _ops.unfold(codes, b, n)), (0, 0)


_ARGUMENTS = (*(field.name for field in fields(Geometry)), "channels_last")


class MaxBlurPoolFunction(_Forward):
    """``(x, *arguments) -> (y, codes)`` by the compiled operators, differentiable in both modes.

    ``arguments`` are those of ``torch.ops.fastblur.max_blur_pool_forward`` between ``x`` and
    ``need_codes``: kernel_size, stride, padding, taps_h, taps_w, blur_padding, padding_mode, relu,
    channels_last. ``x`` is [N, C, H, W]; ``codes`` are opaque, and all that is kept for backward.
    Most users want :func:`fastblur.functional.max_blur_pool2d`.

    Raises:
        RuntimeError: the compiled extension is not there.
        TypeError: there are not so many arguments.
    """

    @classmethod
    def apply(cls, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Runs it; any number of derivatives can be taken."""
        if not _ops.AVAILABLE:
            raise RuntimeError(f"MaxBlurPoolFunction cannot run: {_extension.WHY_NOT}")
        if len(arguments) != len(_ARGUMENTS):
            raise TypeError(
                f"MaxBlurPoolFunction.apply takes x and {', '.join(_ARGUMENTS)}, all by position, "
                f"got x and {len(arguments)} more"
            )
        result: tuple[Tensor, Tensor] = _Forward.apply(_ops, x, *arguments)
        return result


class _Backward(Function):
    """``(operators, dy, codes, input_size, *arguments) -> dx``, linear in dy."""

    @staticmethod
    def forward(
        operators: Operators, dy: Tensor, codes: Tensor, input_size: Any, *arguments: Any
    ) -> Tensor:
        return operators.backward(dy, codes, input_size, arguments)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        operators, _, codes, input_size, *arguments = inputs
        _remember(ctx, operators, codes, tuple(arguments), input_size)

    @staticmethod
    def backward(ctx: _Context, ddx: Tensor | None) -> tuple[Any, ...]:
        (codes,) = ctx.saved_tensors
        ddy = None if ddx is None else _Apply.apply(ctx.operators, ddx, codes, *ctx.arguments)
        return None, ddy, None, None, *(None for _ in ctx.arguments)

    @staticmethod
    def jvp(ctx: _Context, _: Any, dy_tangent: Tensor, *__: Any) -> Tensor:
        (codes,) = ctx.saved_tensors
        return _Backward.apply(  # type: ignore[no-any-return]
            ctx.operators, dy_tangent, codes, ctx.input_size, *ctx.arguments
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        operators: Operators,
        dy: Tensor,
        codes: Tensor,
        input_size: Any,
        *arguments: Any,
    ) -> Any:
        b = info.batch_size
        folded = _ops.fold(dy, in_dims[1], b), _ops.fold(codes, in_dims[2], b)
        size = (b * input_size[0], *input_size[1:])
        dx = _Backward.apply(operators, *folded, size, *arguments)
        return _ops.unfold(dx, b, input_size[0]), 0


class _Apply(Function):
    """``(operators, x, codes, *arguments) -> y``, linear in x."""

    @staticmethod
    def forward(operators: Operators, x: Tensor, codes: Tensor, *arguments: Any) -> Tensor:
        return operators.apply(x, codes, arguments)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Any) -> None:
        operators, x, codes, *arguments = inputs
        _remember(ctx, operators, codes, tuple(arguments), x.shape)

    @staticmethod
    def backward(ctx: _Context, dy: Tensor | None) -> tuple[Any, ...]:
        return None, _to_input(ctx, dy), None, *(None for _ in ctx.arguments)

    @staticmethod
    def jvp(ctx: _Context, _: Any, x_tangent: Tensor, *__: Any) -> Tensor:
        (codes,) = ctx.saved_tensors
        return _Apply.apply(ctx.operators, x_tangent, codes, *ctx.arguments)  # type: ignore[no-any-return]

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        operators: Operators,
        x: Tensor,
        codes: Tensor,
        *arguments: Any,
    ) -> Any:
        b = info.batch_size
        folded = _ops.fold(x, in_dims[1], b), _ops.fold(codes, in_dims[2], b)
        y = _Apply.apply(operators, *folded, *arguments)
        return _ops.unfold(y, b, _batch_of(x, in_dims[1])), 0


def _batch_of(x: Tensor, mapped: int | None) -> int:
    return x.shape[1 if mapped == 0 else 0]


def _remember(
    ctx: _Context,
    operators: Operators,
    codes: Tensor,
    arguments: tuple[Any, ...],
    input_size: tuple[int, ...],
) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(codes)
    ctx.save_for_forward(codes)
    ctx.operators, ctx.arguments = operators, arguments
    ctx.input_size = tuple(input_size)


def _to_input(ctx: _Context, dy: Tensor | None) -> Tensor | None:
    if dy is None:
        return None
    (codes,) = ctx.saved_tensors
    return _Backward.apply(  # type: ignore[no-any-return]
        ctx.operators, dy, codes, ctx.input_size, *ctx.arguments
    )
