"""Counts the operations of the layers as those of the convolution that they replace.

``torch.utils.flop_counter`` knows the operators as soon as fastblur is imported. fvcore has no
table that a package can add to, so :func:`fvcore_handles` returns what its analysis takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._operators import Operators

__all__ = ["fvcore_handles"]

# Where an operator of each kind has its taps among its arguments; see the schemas in _operators.py.
_TAPS = {"forward": 4, "backward": 6, "apply": 5}


def fvcore_handles() -> dict[str, Callable[[list[Any], list[Any]], int]]:
    """What ``fvcore.nn.FlopCountAnalysis`` needs to count the layers.

    Returns:
        For the name of each forward operator a handle. fvcore counts multiply-adds, so a handle
        returns ``numel(y) * f_h * f_w``, as fvcore's own does for the depthwise convolution.

    Example:
        >>> from fastblur.flops import fvcore_handles
        >>> sorted(fvcore_handles())
        ['fastblur::max_blur_pool_forward', 'fastblur::triton_max_blur_pool_forward']

        ``FlopCountAnalysis(model, x).set_op_handle(**fvcore_handles())``
    """
    families = ("max_blur_pool", "triton_max_blur_pool")
    return {f"fastblur::{family}_forward": _fvcore_forward for family in families}


def _fvcore_forward(inputs: list[Any], outputs: list[Any]) -> int:
    # A list in a graph is a node with an input for each entry.
    taps_h, taps_w = (list(value.node().inputs()) for value in inputs[_TAPS["forward"] :][:2])
    return _multiply_adds(outputs[0].type().sizes(), taps_h, taps_w)


def register(operators: Operators) -> None:
    """Tells ``torch.utils.flop_counter`` what the operators of a family count as.

    A multiply-add is two operations there. Max, padding and ReLU count as nothing, so a fused model
    counts as the unfused one does.
    """
    # The counter imports Triton. Where that fails, nobody can count anyway.
    with contextlib.suppress(Exception):
        from torch.utils.flop_counter import register_flop_formula

        for name, first in _TAPS.items():
            register_flop_formula(operators.named(name))(_formula(name, first))


def _formula(name: str, first: int) -> Callable[..., int]:
    def formula(*arguments: Any, out_shape: Any = None, **_: Any) -> int:
        # On the small side of the blur: y's, or that of its gradient, the first argument.
        small = {"forward": out_shape and out_shape[0], "backward": arguments[0]}
        return 2 * _multiply_adds(small.get(name, out_shape), *arguments[first : first + 2])

    return formula


def _multiply_adds(size: Sequence[int], taps_h: Sequence[Any], taps_w: Sequence[Any]) -> int:
    return prod(size) * len(taps_h) * len(taps_w)
