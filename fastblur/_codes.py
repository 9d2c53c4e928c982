"""Shapes of the codes that each backend keeps for backward.

The C++ statements, which also describe what the codes hold, are ``csrc/cpu/codes.h`` and
``csrc/cuda/codes.h`` with ``csrc/cuda/specialisation.h``; ``tests/test_geometry.py`` holds them
together with this one.
"""

from __future__ import annotations

import torch

from ._geometry import Geometry, Pair

Size = tuple[int, int, int, int]  # of x, [N, C, H, W]


def shape_and_dtype(
    geometry: Geometry, size: Size, channels_last: bool, device_type: str, dtype: torch.dtype
) -> tuple[Pair, torch.dtype]:
    """Of the codes for an input of ``size``, which may be symbolic, and ``dtype``."""
    if device_type == "cuda":
        return (size[0], _cuda_words(geometry, size, dtype)), torch.int32
    return (size[0], _cpu_bytes(geometry, size, channels_last)), torch.uint8


def _cpu_bytes(geometry: Geometry, size: Size, channels_last: bool) -> int:
    """Of one image: bit planes, whose rows are as long as those of x or of m, in whole bytes."""
    _, channels, height, width = size
    m_h, _ = geometry.pooled_size(height, width)
    row = width + max(0, 2 * geometry.padding[1] - geometry.kernel_size[1] + 1)
    units, step = (1, channels) if channels_last else (channels, 1)
    return units * geometry.code_bits * m_h * ((row * step + 7) // 8)


def _cuda_words(geometry: Geometry, size: Size, dtype: torch.dtype) -> int:
    """Of one image, in whole vectors of four: the tiles of a specialised kernel, or bit planes."""
    _, channels, height, width = size
    m_h, m_w = geometry.pooled_size(height, width)
    if is_specialised(geometry, size, dtype):
        tile_bytes = channels * _tile_rows(geometry, m_h) * ((m_w + 3) // 4)
        code_bytes = tile_bytes * _tile_code_bytes(geometry)
    else:
        code_bytes = (channels * m_h * m_w + 31) // 32 * geometry.code_bits * 4
    return (code_bytes + 15) // 16 * 4


def is_specialised(geometry: Geometry, size: Size, dtype: torch.dtype) -> bool:
    (k, _), (p, _), f = geometry.kernel_size, geometry.padding, len(geometry.taps_h)
    square = (
        geometry.kernel_size == (k, k)
        and geometry.padding == (p, p)
        and len(geometry.taps_w) == f
        and geometry.stride == (2, 2)
    )
    top, bottom, left, right = geometry.blur_padding
    before, after = (f - 1) // 2, f // 2
    # A size that the compiler does not know yet is not taken for enormous.
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


def _tile_code_bytes(geometry: Geometry) -> int:
    pool = geometry.kernel_size[0]
    bits = 16 * (pool - 1) + (8 if geometry.relu and pool < 3 else 0)
    return 4 if bits > 16 else (bits + 7) // 8


def _tile_rows(geometry: Geometry, m_h: int) -> int:
    """Rows of tiles, two rows of the pooled map each; see TileRows in csrc/cuda/codes.h."""
    f, ahead = len(geometry.taps_h), geometry.kernel_size[0] - 1 - geometry.padding[0]
    shift = (2 if ahead > 1 else 1) if f >= 4 else (ahead + 1) // 2
    first_row = -2 * shift - (f - 1) // 2 + f - 2
    return (m_h - 1 - first_row) // 2 + 1


def triton_shape_and_dtype(
    geometry: Geometry, size: tuple[int, ...], channels_last: bool
) -> tuple[tuple[int, int, int, int], torch.dtype]:
    """Of the codes of the Triton backend, in the memory order of its x: a word a strip.

    What a word holds is at the top of ``fastblur/_triton_forward.py``. The four dimensions are
    what no other backend's codes have, so that none takes them for its own.
    """
    images, channels, height, width = size
    if geometry.linear:
        return (images, 0, 0, 0), torch.int8
    _, m_w = geometry.pooled_size(height, width)
    (k_h, _), (p_h, _) = geometry.kernel_size, geometry.padding
    rows = height + max(0, 2 * p_h - k_h + 1)  # of x or of m, whichever has more
    strips = (m_w + 3) // 4
    shape = (images, rows, strips, channels) if channels_last else (images, channels, rows, strips)
    bits = 4 * geometry.code_bits
    return shape, torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32
