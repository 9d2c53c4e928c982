"""S_h and S_v of the Triton kernel that sweeps an image forward: windows, maxima, winners."""

from __future__ import annotations

import triton
import triton.language as tl

from .compare import each, larger, rectify, take
from .sweep import vector


@triton.jit
def _window_offsets(
    strip, last_is, step, lane, width, F: tl.constexpr, K: tl.constexpr, P: tl.constexpr
):
    """Where the columns of a lane's window lie in a row of x; the nearest there is beyond its ends.

    In a max the same element twice does no harm, for an equal value never takes over. Where the
    last strip has but one column of m, its last output may read a column of m from before the
    window. That one takes the place of the strip's fourth, which is not there.
    """
    B: tl.constexpr = (F - 1) // 2
    offsets = ()
    for j in tl.static_range(F + 1 + K):
        column = 4 * strip - B - P + j
        if F % 2 == 0 and j >= B + 3:
            column = tl.where(last_is[0], column - (3 + F // 2), column)
        column = tl.minimum(tl.maximum(column, 0), width - 1)
        offsets = offsets + (column * step + lane,)
    return offsets


@triton.jit
def lanes_in_row(
    strip, strips, last_columns, pixel, lane, width, F: tl.constexpr, K: tl.constexpr,
    P: tl.constexpr, LAST: tl.constexpr, VECTORS: tl.constexpr,
):  # fmt: skip
    """Of the lanes: where their windows are, and whether their strip is the first or the last.

    The latter twice, the second time with one answer for each number of columns it may have.
    """
    first = strip == 0
    last = strip == strips - 1
    last_is = ()
    for l in tl.static_range(1, 5):
        last_is = last_is + ((last if LAST == l else last & (last_columns == l)),)
    if VECTORS:
        offsets = ()
        for _ in tl.static_range(F + 1 + K):
            offsets = offsets + (strip * 4 + lane,)
    else:
        offsets = _window_offsets(strip, last_is, pixel, lane, width, F, K, P)
    return offsets, first, last, last_is


@triton.jit
def _load_window(
    row, offsets, first, last, exists, F: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    VECTORS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """The columns of the lanes' windows of a row of x."""
    COLUMNS: tl.constexpr = F + 1 + K
    BEFORE: tl.constexpr = (F - 1) // 2 + P
    AFTER: tl.constexpr = COLUMNS - 4 - BEFORE
    x = ()
    if VECTORS:
        own = vector(row, offsets[BEFORE], exists, 4, 0)
        N: tl.constexpr = 4 if BEFORE > 2 else BEFORE
        M: tl.constexpr = 4 if AFTER > 2 else AFTER
        if BEFORE > 0:
            left = vector(row, offsets[BEFORE], exists & (first == 0), N, -N)
            for j in tl.static_range(BEFORE):
                v = left[N - BEFORE + j]
                if P > 0 and j == BEFORE - 1:
                    v = tl.where(first, own[0], v)
                x = x + (v,)
        x = x + own
        if AFTER > 0:
            right = vector(row, offsets[BEFORE], exists & (last == 0), M, 4)
            for j in tl.static_range(AFTER):
                v = right[j]
                if P > 0 and j == 0:
                    v = tl.where(last, own[3], v)
                x = x + (v,)
    else:
        for j in tl.static_range(COLUMNS):
            value = tl.load(row + offsets[j], mask=exists)
            x = x + (value.to(tl.float32) if T == tl.float32 else value,)
    return x


@triton.jit
def _winner_bits(took_1, took_2, K: tl.constexpr):
    """The winners' indices from the bits of who took over, in all places at once."""
    if K == 3:
        winners = (took_1 & ~(took_2 >> 1)) | took_2
    else:
        winners = took_1
    return winners


@triton.jit
def _beyond(best, source: tl.constexpr, MODE: tl.constexpr, T: tl.constexpr):
    """A column of the padding, whose source is given."""
    if MODE == "zeros":
        value = best[0] ^ best[0] if T != tl.float32 else 0.0
    else:
        value = best[source]
    return value


@triton.jit
def _pad_columns(
    best, first, last_is, F: tl.constexpr, MODE: tl.constexpr, LAST: tl.constexpr, T: tl.constexpr
):
    """The columns of S_h x, those beyond the row replaced by the padding's."""
    B: tl.constexpr = (F - 1) // 2
    REFLECT: tl.constexpr = MODE == "reflect"
    padded = ()
    for c in tl.static_range(F + 2):
        value = best[c]
        if c < B:
            value = tl.where(first, _beyond(best, 2 * B - c if REFLECT else B, MODE, T), value)
        for t in tl.static_range(F // 2):
            for l in tl.static_range(1, 5):
                if c == B + l + t and (LAST == 0 or LAST == l):
                    source = _beyond(
                        best,
                        B + l - 1 if not REFLECT else B + l - 2 - t if l + B > t + 1 else B + 3,
                        MODE, T,
                    )  # fmt: skip
                    value = tl.where(last_is[l - 1], source, value)
        padded = padded + (value,)
    return padded


@triton.jit
def _select_columns(
    x, first, last_is, zero, F: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    MODE: tl.constexpr, LAST: tl.constexpr, CODES: tl.constexpr, T: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """S_h: the padded maxima along a row, and the winners of the strip's own columns."""
    B: tl.constexpr = (F - 1) // 2
    EACH: tl.constexpr = K - 1  # bits of a winner
    best = ()
    took_1 = zero
    took_2 = zero
    for c in tl.static_range(F + 2):
        value = x[c]
        for z in tl.static_range(1, K):
            later = x[c + z]
            if CODES and c >= B and c < B + 4:
                if z == 1:
                    value, took_1 = take(value, later, took_1, 1 << ((c - B) * EACH), T, PTX)
                else:
                    value, took_2 = take(value, later, took_2, 2 << ((c - B) * EACH), T, PTX)
            else:
                value = larger(value, later, T, PTX)
        best = best + (value,)
    if P > 0 and CODES:  # the column before the row's first and the one after its last never win
        took_1 = took_1 | tl.where(first, each(1, T), 0)
        for l in tl.static_range(4):
            if LAST == 0 or LAST == l + 1:
                took_2 = took_2 & tl.where(last_is[l], ~each(2 << (l * EACH), T), -1)
    padded = _pad_columns(best, first, last_is, F, MODE, LAST, T)
    return padded, _winner_bits(took_1, took_2, K)


@triton.jit
def select_in_row(
    row, here, exists, zero, F: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    MODE: tl.constexpr, LAST: tl.constexpr, VECTORS: tl.constexpr, CODES: tl.constexpr,
    T: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """S_h of a row of x, and its winners; `here` are the lanes in it."""
    offsets, first, last, last_is = here
    window = _load_window(row, offsets, first, last, exists, F, K, P, VECTORS, T)
    return _select_columns(window, first, last_is, zero, F, K, P, MODE, LAST, CODES, T, PTX)


@triton.jit
def select_rows(
    rows, valid, zero, F: tl.constexpr, K: tl.constexpr, RELU: tl.constexpr, CODES: tl.constexpr,
    CHECKED: tl.constexpr, T: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """S_v of K rows of S_h x, one after the other in `rows`, and ReLU; and the winners' bits.

    CHECKED: only those rows can win that are `valid`; in place of one that is not, `rows` has its
    neighbour again.
    """
    B: tl.constexpr = (F - 1) // 2
    N: tl.constexpr = F + 2
    EACH: tl.constexpr = 2 if K == 3 or (K == 2 and RELU) else 1
    EVERY: tl.constexpr = each(1 + (1 << EACH) + (1 << 2 * EACH) + (1 << 3 * EACH), T)
    m = ()
    took_1 = zero
    took_2 = zero
    nobody = zero
    for c in tl.static_range(N):
        value = rows[c]
        for z in tl.static_range(1, K):
            later = rows[z * N + c]
            if CODES and c >= B and c < B + 4:
                if z == 1:
                    value, took_1 = take(value, later, took_1, 1 << ((c - B) * EACH), T, PTX)
                else:
                    value, took_2 = take(value, later, took_2, 2 << ((c - B) * EACH), T, PTX)
            else:
                value = larger(value, later, T, PTX)
        if RELU:
            if CODES and c >= B and c < B + 4:
                value, nobody = rectify(value, nobody, K << ((c - B) * EACH), T, PTX)
            else:
                value, _ = rectify(value, nobody, 0, T, PTX)
        m = m + (value,)
    if CHECKED and K == 3:
        took_1 = took_1 | tl.where(valid[0], 0, EVERY)
        took_2 = tl.where(valid[2], took_2, 0)
    if K == 2 and RELU:
        took_1 = took_1 & ~(nobody >> 1)
    return m, _winner_bits(took_1, took_2, K) | nobody
