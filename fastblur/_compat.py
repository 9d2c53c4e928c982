"""Every difference between the torch versions that fastblur supports, 2.8 to 2.15.

Each entry says which versions lack a feature and what happens there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

# The layout of codes depends on the strides at trace time, so a compiler must keep the strides of
# the arguments. The tag does not exist before 2.8.0 final; inductor keeps strides by default there.
OPERATOR_TAGS = tuple(
    getattr(torch.Tag, name)
    for name in ("needs_exact_strides", "pt2_compliant_tag")
    if hasattr(torch.Tag, name)
)


def plain_apply(function: type[Function]) -> Callable[..., Any]:
    """``function.apply`` without its checks for transforms of ``torch.func``.

    For use below the transforms' layers, or without transforms. Up to 2.13 the checks are in
    Python and cost 2 µs per call; from 2.14 they are in C++ and ``apply`` equals this.
    """
    apply: Callable[..., Any] = super(Function, function).apply  # type: ignore[misc]
    return apply


def keeps_triton_operators() -> bool:
    """Whether ``torch.export`` is active, which keeps Triton's operators whole (from 2.7)."""
    from torch.export._trace import custom_triton_ops_decomposition_disabled

    disabled: bool = custom_triton_ops_decomposition_disabled()  # type: ignore[no-untyped-call]
    return disabled


def empty_strided(device: torch.device) -> Callable[[Any, Any, torch.dtype], Tensor]:
    """``(size, strides, dtype) -> `` new memory on a device; size and strides are tuples of ints.

    On a CPU that is the allocator of torch.compile's own code, without the dispatcher: half the
    time. All supported versions have it, but it is private, so it may go.
    """
    if device.type == "cpu" and _empty_strided_cpu is not None:
        return _empty_strided_cpu
    return lambda size, strides, dtype: torch.empty_strided(
        size, strides, dtype=dtype, device=device
    )


_empty_strided_cpu: Callable[[Any, Any, torch.dtype], Tensor] | None = getattr(
    torch._C._dynamo.guards, "_empty_strided_cpu", None
)
