"""What differs between the versions of torch that fastblur runs on, 2.8 to 2.15, and nothing else.

Each entry says which versions lack it and what is done there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import Function

# Codes belong to the strides that a call was traced with, so a compiler must keep those of the
# arguments. Before 2.8.0 final there is no such tag; inductor then keeps strides by default.
OPERATOR_TAGS = tuple(
    getattr(torch.Tag, name)
    for name in ("needs_exact_strides", "pt2_compliant_tag")
    if hasattr(torch.Tag, name)
)


def plain_apply(function: type[Function]) -> Callable[..., Any]:
    """``function.apply`` without its questions about the transforms of ``torch.func``.

    Below the layers of those, and where there are none. Up to 2.13 the questions are in Python and
    cost 2 µs a call; from 2.14 they are in C++ and ``apply`` is the same as this.
    """
    apply: Callable[..., Any] = super(Function, function).apply  # type: ignore[misc]
    return apply


def keeps_triton_operators() -> bool:
    """Whether ``torch.export`` is at work, which keeps Triton's operators whole (from 2.7)."""
    from torch.export._trace import custom_triton_ops_decomposition_disabled

    disabled: bool = custom_triton_ops_decomposition_disabled()  # type: ignore[no-untyped-call]
    return disabled
