"""Determines what a call of a module does, what observes it, and what holds its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .fresh import returns_new

# Classes whose result is a new tensor, which nobody else holds.
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.GroupNorm)
# As torch has them: what somebody has put in their place may do anything.
_CALL = nn.Module.__call__
_FORWARDS: dict[type, Any] = {
    kind: kind.forward
    for kind in (nn.ReLU, nn.MaxPool2d, nn.MaxPool1d, nn.Identity, *_CONVS, *_NORMS)
}
_CONV_FORWARDS: dict[type, Any] = {kind: kind._conv_forward for kind in _CONVS}
_SEQUENTIAL = nn.Sequential.forward


@dataclass(frozen=True)
class Tail:
    """The last call in the ``forward`` of a class, whose result it returns.

    Attributes:
        name: of the attribute that is called.
        before: of those that are called right before, each of whose results the next alone gets.
        fresh: whether nobody else holds what the first of all of them gets.
        rest: the ``forward`` without the call.
    """

    name: str
    before: tuple[str, ...]
    fresh: bool
    rest: Callable[..., Any]


class Head:
    """A module without its tail."""

    def __init__(self, module: nn.Module, tail: Tail) -> None:
        self._module = module
        self._tail = tail

    def __call__(self, x: Any) -> Any:
        """What the tail would get."""
        return self._tail.rest(self._module, x)

    def is_fresh(self) -> bool:
        """Whether nobody else will hold the result, as things are before the call."""
        return is_fresh([attribute(self._module, n) for n in self._tail.before], self._tail.fresh)


def may_join(x: Any) -> bool:
    """Whether nobody watches all there is, and this is a tensor and not a tracer's stand-in."""
    return (
        isinstance(x, Tensor)
        and not hooks_of_all_modules()
        and torch._C._len_torch_function_stack() == 0
    )


def hooks_of_all_modules() -> bool:
    """Whether somebody watches every module there is."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def attribute(module: Any, name: str) -> Any:
    """``module.a.b`` for the name "a.b"."""
    for part in name.split("."):
        module = getattr(module, part)
    return module


def is_unwatched(module: nn.Module) -> bool:
    """Whether a call of the module is that of its class's ``forward``, and no hook sees it."""
    own = module.__dict__
    return (
        not has_call_hooks(module)
        and type(module).__call__ is _CALL
        and "forward" not in own
        and "_call_impl" not in own
        and own.get("_compiled_call_impl") is None
    )


def is_as_made(module: nn.Module) -> bool:
    """Whether a call of one of torch's own modules does what torch wrote, and no hook sees it."""
    return is_unwatched(module) and type(module).forward is _FORWARDS[type(module)]


def has_call_hooks(module: nn.Module) -> bool:
    """Whether a call of the module, or its gradient, is watched."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_fresh(makers: Sequence[Any], fresh: bool) -> bool:
    """Whether nobody else will hold what the last of the makers returns, if they are called now.

    Args:
        makers: modules, in turn; None where something else is called.
        fresh: whether nobody else holds what the first of them gets.
    """
    for maker in reversed(makers):
        if _makes_new(maker):
            return True
        if not is_identity(maker):
            return False
    return fresh


def _makes_new(module: Any) -> bool:
    """Whether nobody else will hold the result of a convolution, a norm or proven arithmetic."""
    while isinstance(module, nn.Sequential) and calls_in_turn(module) and is_unwatched(module):
        module = next(reversed(module._modules.values()), None)
    if isinstance(module, Head):
        return module.is_fresh()
    kind = type(module)
    if kind not in _CONVS + _NORMS:
        return isinstance(module, nn.Module) and is_unwatched(module) and returns_new(module)
    if not is_as_made(module):
        return False
    if kind in _NORMS:
        return True
    return kind._conv_forward is _CONV_FORWARDS[kind] and "_conv_forward" not in module.__dict__


def is_identity(module: Any) -> bool:
    """Whether a call gives back what it gets."""
    return type(module) is nn.Identity and is_as_made(module)


def calls_in_turn(module: nn.Sequential) -> bool:
    """Whether a call of a Sequential calls its children in turn, and does nothing else."""
    kind = type(module)
    usual = kind.forward is _SEQUENTIAL or getattr(kind.forward, "calls_in_turn", False)
    return usual and kind.__iter__ is nn.Sequential.__iter__
