"""The Triton backend: its operators, their shapes and derivatives, and which kernel runs a call.

``torch.ops.fastblur.triton_max_blur_pool_{forward,backward,apply}`` have the schemas of the
compiled operators and their meaning, but for the codes, which are this backend's own. The functions
``forward``, ``backward`` and ``apply`` are what ``fastblur/_autograd.py`` calls, as those of
``fastblur/_ops.py`` are for the compiled operators.

Importing this imports triton; ``fastblur/_backends.py`` does so when the backend is first used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from ._triton_launch import Call

Arguments = tuple[Any, ...]  # Geometry.arguments() and channels_last
HAS_FORWARD_MODE = False  # torch.library derives for reverse mode only; see _autograd.py

_GEOMETRY = (
    "int[] kernel_size, int[] stride, int[] padding, float[] taps_h, float[] taps_w, "
    "int[] blur_padding, str padding_mode, bool relu, bool channels_last"
)
_NAME = "fastblur::triton_max_blur_pool_"


def forward(x: Tensor, arguments: Arguments, need_codes: bool) -> tuple[Tensor, Tensor]:
    """Chooses winners and blurs: (y, codes); codes are empty unless asked for."""
    result: tuple[Tensor, Tensor] = torch.ops.fastblur.triton_max_blur_pool_forward(
        x, *arguments, need_codes
    )
    return result


def backward(
    dy: Tensor, codes: Tensor, input_size: tuple[int, ...], arguments: Arguments
) -> Tensor:
    """The gradient of x, from that of y and the winners."""
    dx: Tensor = torch.ops.fastblur.triton_max_blur_pool_backward(dy, codes, input_size, *arguments)
    return dx


def apply(x: Tensor, codes: Tensor, arguments: Arguments) -> Tensor:
    """Forward with the winners given: linear in x."""
    y: Tensor = torch.ops.fastblur.triton_max_blur_pool_apply(x, codes, *arguments)
    return y


@triton_op(
    _NAME + "forward",
    mutates_args={},
    schema=f"(Tensor x, {_GEOMETRY}, bool need_codes) -> (Tensor, Tensor)",
)
def _forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *rest, need_codes = arguments
    return Call("input", x, x.shape, rest).forward(x, need_codes)


@triton_op(
    _NAME + "backward",
    mutates_args={},
    schema=f"(Tensor grad_output, Tensor codes, SymInt[] input_size, {_GEOMETRY}) -> Tensor",
)
def _backward(dy: Tensor, codes: Tensor, input_size: Sequence[int], *arguments: Any) -> Tensor:
    call = Call("grad_output", dy, input_size, arguments)
    call.check_codes(codes, dy)
    call.check_grad_output(dy)
    return call.backward(dy, codes)


@triton_op(
    _NAME + "apply", mutates_args={}, schema=f"(Tensor x, Tensor codes, {_GEOMETRY}) -> Tensor"
)
def _apply(x: Tensor, codes: Tensor, *arguments: Any) -> Tensor:
    call = Call("input", x, x.shape, arguments)
    call.check_codes(codes, x)
    return call.apply(x, codes)


# ---- derivatives: each operator's is another of them -------------------------------------------


def _remember_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *arguments, need_codes = inputs
    if not need_codes:
        raise ValueError("need_codes must be True for an input that requires grad, got False")
    ctx.mark_non_differentiable(output[1])
    _remember(ctx, output[1], x.shape, arguments)


def _remember_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, codes, input_size, *arguments = inputs
    _remember(ctx, codes, input_size, arguments)


def _remember_apply(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, codes, *arguments = inputs
    _remember(ctx, codes, x.shape, arguments)


def _remember(ctx: Any, codes: Tensor, input_size: Sequence[int], arguments: list[Any]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(codes)
    ctx.input_size, ctx.arguments = tuple(input_size), tuple(arguments)


def _to_input(ctx: Any, dy: Tensor | None) -> Tensor | None:
    if dy is None:
        return None
    return backward(dy, ctx.saved_tensors[0], ctx.input_size, ctx.arguments)


def _derive_forward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
    return _to_input(ctx, dy), *(None for _ in ctx.arguments), None


def _derive_backward(ctx: Any, ddx: Tensor | None) -> tuple[Any, ...]:
    ddy = None if ddx is None else apply(ddx, ctx.saved_tensors[0], ctx.arguments)
    return ddy, None, None, *(None for _ in ctx.arguments)


def _derive_apply(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
    return _to_input(ctx, dy), None, *(None for _ in ctx.arguments)


_forward.register_autograd(_derive_forward, setup_context=_remember_forward)
_backward.register_autograd(_derive_backward, setup_context=_remember_backward)
_apply.register_autograd(_derive_apply, setup_context=_remember_apply)
