"""B_h' of the Triton kernel that sweeps an image backward, its border included."""

from __future__ import annotations

import triton
import triton.language as tl

from .sweep import vector


@triton.jit
def _load_columns(
    row, strip, step, lane, y_w, exists, FIRST: tl.constexpr, LAST: tl.constexpr,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """Columns FIRST to LAST of a row of dy, counted from the first one of the lane's strip."""
    dy = ()
    if PAIRS:
        own = vector(row, tl.multiple_of(2 * strip + lane, 2), exists, 2, 0)
    for j in tl.static_range(FIRST, LAST + 1):
        if PAIRS and (j == 0 or j == 1):
            dy = dy + (own[j],)
        else:
            column = 2 * strip + j
            there = exists & (column >= 0) & (column < y_w)
            value = tl.load(row + (column * step + lane), mask=there, other=0.0)
            dy = dy + (value.to(tl.float32),)
    return dy


@triton.jit
def _add_product(total, value, tap: tl.constexpr, FIRST: tl.constexpr):
    if FIRST:
        total = value * tap
    else:
        total += value * tap
    return total


@triton.jit
def _spread_inside(
    dy, strip, at_end, c: tl.constexpr, TAPS: tl.constexpr, FIRST: tl.constexpr,
    USUAL: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """B_h' for column c of dm, from columns FIRST to USUAL of dy; nothing beyond the map."""
    B: tl.constexpr = (len(TAPS) - 1) // 2
    value = dy[0] * 0.0
    for j in tl.static_range(FIRST, USUAL + 1):
        if c + B - 2 * j >= 0 and c + B - 2 * j < len(TAPS):
            value = _add_product(
                value, dy[j - FIRST], TAPS[c + B - 2 * j],
                j == FIRST or c + B - 2 * j + 2 >= len(TAPS),
            )  # fmt: skip
    if c < 0:
        value = tl.where(strip == 0, 0.0, value)
    for beyond in tl.static_range(2):
        for l in tl.static_range(1, 5):
            if (LAST == 0 or LAST == l) and c >= l - 4 * beyond:
                value = tl.where(at_end[4 * (beyond + 1) + l - 1], 0.0, value)
    return value


@triton.jit
def _spread_padding(
    value, dy, strip, at_end, c: tl.constexpr, TAPS: tl.constexpr, FIRST: tl.constexpr,
    REFLECT: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Adds to column c of dm what the padding receives of which it is the source."""
    F: tl.constexpr = len(TAPS)
    B: tl.constexpr = (F - 1) // 2
    # Padding before the first column: only the first column of y reads it.
    for n in tl.static_range(1, B + 1):
        for s in tl.static_range(2):
            if c == (n if REFLECT else 0) - 4 * s and -2 * s >= FIRST:
                value = tl.where(strip == s, value + dy[-2 * s - FIRST] * TAPS[B - n], value)
    # And behind the last one: only the last column of y.
    for t in tl.static_range(F // 2):
        for l in tl.static_range(1, 5):
            for beyond in tl.static_range(-1, 2):
                if (
                    (LAST == 0 or LAST == l)
                    and c == (l - 2 - t if REFLECT else l - 1) - 4 * beyond
                    and l + t + B - 2 * ((l + 1) // 2 - 1) < F
                    and (l + 1) // 2 - 1 - 2 * beyond >= FIRST
                ):
                    part = dy[(l + 1) // 2 - 1 - 2 * beyond - FIRST]
                    part *= TAPS[l + t + B - 2 * ((l + 1) // 2 - 1)]
                    value = tl.where(at_end[4 * (beyond + 1) + l - 1], value + part, value)
    return value


@triton.jit
def spread_columns(
    row, strip, at_end, step, lane, y_w, exists, TAPS: tl.constexpr, K: tl.constexpr,
    P: tl.constexpr, MODE: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """B_h' of a row of dy: the window's columns of dm, what padding receives given to its source.

    `at_end` tells whether a lane is -1, 0 or 1 strips beyond the last one of m, and whether that
    one has 1, 2, 3 or 4 columns: 3 x 4 conditions.
    """
    F: tl.constexpr = len(TAPS)
    B: tl.constexpr = (F - 1) // 2
    R: tl.constexpr = K - 1 - P
    FIRST: tl.constexpr = -((R + F - 1 - B) // 2)
    USUAL: tl.constexpr = (3 + P + B) // 2
    FAR: tl.constexpr = 0 if LAST > 0 else 3 if P > 0 and F > 3 else 2
    dy = _load_columns(
        row, strip, step, lane, y_w, exists, FIRST, USUAL if USUAL > FAR else FAR, PAIRS
    )
    dm = ()
    for g in tl.static_range(K + 3):
        value = _spread_inside(dy, strip, at_end, g - R, TAPS, FIRST, USUAL, LAST)
        if MODE != "zeros":
            value = _spread_padding(
                value, dy, strip, at_end, g - R, TAPS, FIRST, MODE == "reflect", LAST
            )
        dm = dm + (value,)
    return dm


@triton.jit
def ends_of(strip, end, last_columns, LAST: tl.constexpr):
    """Whether a lane is -1, 0 or 1 strips beyond the last one of m, that with 1 to 4 columns."""
    at_end = ()
    for beyond in tl.static_range(-1, 2):
        for l in tl.static_range(1, 5):
            there = strip == end + beyond
            at_end = at_end + ((there if LAST == l else there & (last_columns == l)),)
    return at_end
