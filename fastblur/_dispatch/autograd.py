"""The operation as differentiable functions over the operators of a backend.

There is one Function per operator. Given its winners the operation is linear, so the derivative of
each Function is another of them. Three paths lead to them, with the same bits and the same
derivatives (``tests/pytorch/test_paths.py`` tests all):

- On a plain tensor, with nothing else active, a layer calls the kernels directly: ``direct.py``.
- Otherwise the call goes through the dispatcher, whose Autograd key starts the Functions.
  ``torch.compile`` and ``torch.export`` put this path into their graphs.
- Under a transform of ``torch.func``, this module starts the Functions above the dispatcher,
  because a Function cannot start below a transform's layer.

Each Function takes the operators that it calls as its first argument.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import forward_ad
from torch.autograd.function import Function

from .. import _compat
from .._geometry import Geometry
from .._geometry.upsampling import Upsampling
from .operators import Operators, batch_of, check_dense, fold, is_channels_last, unfold
from .plain import is_plain, states

_Context = Any  # attributes are added to torch's context


def max_blur_pool(x: Tensor, geometry: Geometry, operators: Operators) -> Tensor:
    """The fused operation on a checked input [N, C, H, W]."""
    if not torch.compiler.is_compiling() and _transforms_at_work():
        channels_last = not is_mapped(x) and is_channels_last(x)
        y: Tensor = MaxBlurPool.apply(operators, x, *geometry.arguments(), channels_last)[0]
        return y
    # A trace keeps need_codes for good, and torch checks traces without grad: always True there.
    need_codes = (x.requires_grad and torch.is_grad_enabled()) or is_tracing()
    return operators.forward(x, (*geometry.arguments(), is_channels_last(x)), need_codes)[0]


def blur_upsample(x: Tensor, upsampling: Upsampling, operators: Operators) -> Tensor:
    """The transpose of a blur on a checked map [N, C, H, W]."""
    transformed = not torch.compiler.is_compiling() and _transforms_at_work()
    # Before the edges are repeated, which can change the layout of maps of one row or column.
    channels_last = not (transformed and is_mapped(x)) and is_channels_last(x)
    x = upsampling.repeat_edges(x)
    arguments = (*upsampling.blur.arguments(), channels_last)
    if transformed:
        x, codes, size, _ = operators.backward_of_blur(x, *arguments)
        y: Tensor = MaxBlurPoolBackward.apply(operators, x, codes, size, *arguments)
        return y
    return operators.upsample(x, arguments)


def is_tracing() -> bool:
    """Whether ``torch.jit.trace`` is recording."""
    return torch._C._get_tracing_state() is not None  # faster than torch.jit.is_tracing


def _transforms_at_work() -> bool:
    innermost = torch._C._functorch.peek_interpreter_stack()
    # functionalize supports operators, but not Functions.
    return innermost is not None and innermost.key() != TransformType.Functionalize


def is_mapped(x: Tensor) -> bool:
    """Whether ``torch.func.vmap`` maps the tensor, which then does not report its layout."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


class MaxBlurPool(Function):
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
        return MaxBlurPoolApply.apply(ctx.operators, x_tangent, codes, *ctx.arguments), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], operators: Operators, x: Tensor, *arguments: Any
    ) -> Any:
        folded = fold(x, in_dims[1], info.batch_size)
        y, codes = MaxBlurPool.apply(operators, folded, *arguments)
        b, n = info.batch_size, batch_of(x, in_dims[1])
        return (unfold(y, b, n), unfold(codes, b, n)), (0, 0)


class MaxBlurPoolBackward(Function):
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
        ddy = (
            None
            if ddx is None
            else MaxBlurPoolApply.apply(ctx.operators, ddx, codes, *ctx.arguments)
        )
        return None, ddy, None, None, *(None for _ in ctx.arguments)

    @staticmethod
    def jvp(ctx: _Context, _: Any, dy_tangent: Tensor, *__: Any) -> Tensor:
        (codes,) = ctx.saved_tensors
        return MaxBlurPoolBackward.apply(  # type: ignore[no-any-return]
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
        folded = fold(dy, in_dims[1], b), fold(codes, in_dims[2], b)
        size = (b * input_size[0], *input_size[1:])
        dx = MaxBlurPoolBackward.apply(operators, *folded, size, *arguments)
        return unfold(dx, b, input_size[0]), 0


class MaxBlurPoolApply(Function):
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
        return MaxBlurPoolApply.apply(ctx.operators, x_tangent, codes, *ctx.arguments)  # type: ignore[no-any-return]

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
        folded = fold(x, in_dims[1], b), fold(codes, in_dims[2], b)
        y = MaxBlurPoolApply.apply(operators, *folded, *arguments)
        return unfold(y, b, batch_of(x, in_dims[1])), 0


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
    return MaxBlurPoolBackward.apply(  # type: ignore[no-any-return]
        ctx.operators, dy, codes, ctx.input_size, *ctx.arguments
    )


# ---- the Autograd key --------------------------------------------------------------------------


def register(operators: Operators) -> None:
    """Registers the derivatives of a family: reverse mode by Functions, tangents by operators."""
    for name, function in {
        "forward": MaxBlurPool,
        "backward": MaxBlurPoolBackward,
        "apply": MaxBlurPoolApply,
    }.items():
        rule = functools.partial(_at_key, operators, name, _compat.plain_apply(function))
        operators.library.impl(f"{operators.family}_{name}", rule, "Autograd")


def _at_key(
    operators: Operators, name: str, record: Callable[..., Any], x: Tensor, *rest: Any
) -> Any:
    """The operator ``name``; ``x`` is its first tensor, grad_output or the input."""
    check_dense("grad_output" if name == "backward" else "input", x)
    if name != "forward":
        check_dense("codes", rest[0])
    device_type = x.device.type
    kernels = operators.on.get(device_type)
    tensors = (x,) if name == "forward" else (x, rest[0])
    # Skips the dispatcher, which takes longer than the kernels in compiled code.
    not_recorded = kernels and not (x.requires_grad and torch.is_grad_enabled())
    if not_recorded and is_plain(states(device_type), *tensors):
        return getattr(kernels, name)(x, *rest)
    x, tangent = _split(x)
    recorded = _is_recorded(x)
    need_codes: tuple[bool, ...] = ()
    if name == "forward":
        if recorded and not rest[-1]:
            raise ValueError("need_codes must be True for an input that requires grad, got False")
        rest, need_codes = rest[:-1], (rest[-1] or tangent is not None,)
    if recorded:
        result = record(operators, x, *rest)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            result = operators.named(name)(x, *rest, *need_codes)
    if tangent is None:
        return result
    if name == "forward":  # given its winners it is linear, like the others
        y, codes = result
        return _join(y, operators.apply(tangent, codes, rest)), codes
    return _join(result, operators.named(name)(tangent, *rest))


def _is_recorded(t: Tensor) -> bool:
    if not (t.requires_grad and torch.is_grad_enabled()):
        return False
    if _transforms_at_work():  # a Function cannot start below their layers
        raise RuntimeError(
            "torch.func.grad, vjp, jacrev and hessian cannot differentiate fastblur's operators: "
            "call a layer or function of fastblur instead, outside torch.compile"
        )
    return True


# Forward mode has one level in torch, number 0. Which the compiler enters without telling Python.
def _split(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The primal of a dual number and its tangent, None if there is none."""
    if forward_ad._current_level < 0 and not _transforms_at_work():
        return x, None
    primal, tangent = torch._VF._unpack_dual(x, level=0)
    return (x, None) if tangent is None else (primal, tangent)


def _join(primal: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = torch._VF._make_dual(primal, tangent, level=0)
    return dual
