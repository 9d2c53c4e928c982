"""Which calls run on GPU kernels that know their sizes at compile time."""

from __future__ import annotations

import torch

from .._dispatch.operators import Size
from .._geometry import Geometry


def is_specialised(geometry: Geometry, size: Size, dtype: torch.dtype) -> bool:
    """Whether specialised kernels run a call, not generic ones; sizes may be symbolic."""
    (k, _), (p, _), f = geometry.kernel_size, geometry.padding, len(geometry.taps_h)
    square = (
        geometry.kernel_size == (k, k)
        and geometry.padding == (p, p)
        and len(geometry.taps_w) == f
        and geometry.stride == (2, 2)
    )
    top, bottom, left, right = geometry.blur_padding
    before, after = (f - 1) // 2, f // 2
    # A symbolic size is assumed to be below the limits.
    limits = (2**28, 2**30, 2**30)
    small = all(
        not isinstance(n, int) or n < most for n, most in zip(size[1:], limits, strict=True)
    )
    return (
        square
        and (k, p) in {(1, 0), (2, 0), (3, 0), (3, 1)}
        and 2 <= f <= 5
        and top == left == before
        and max(bottom, right) <= after
        and geometry.padding_mode in ("reflect", "replicate", "zeros")
        and dtype != torch.float64
        and small
    )
