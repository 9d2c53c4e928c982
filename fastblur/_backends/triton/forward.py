"""The Triton kernel that sweeps an image forward, as CUDA's does, and the layout of the codes.

The codes hold the winners of 4 columns in a word, for every image, channel, row u and strip s of
columns 4 s to 4 s + 3 of m: [N, C, rows, strips], or [N, rows, strips, C] in channels_last, with as
many rows as x or m has, whichever has more. Bits of a word, from the lowest:

- 4 x COLUMN_BITS: the column's winner in row u *of x*, one of KW candidates, of each element of
  S_h x;
- 4 x ROW_BITS: the row's winner in row u *of m*, one of KH candidates; KH or more means that ReLU
  held the element at zero, and nobody won.

So what a sweep chooses when it meets a row of x, and what it chooses when a row of m is whole, are
kept as they come: nothing is selected a second time, and backward needs for a row no word but its
own and the one of P rows before. A word has 8, 16 or 32 bits, and no lane needs another's.

A lane owns a *strip*: four columns of m and the two columns of y that begin there, in channels_last
of one channel (and a thread of as many as its vectors hold). It holds each column of its window as
a value of its own, so both layouts share all stages and differ in loads and stores alone:

    one row of x    F + K + 1 columns, from B + P before the strip
       S_h          their maxima along the row, padded as m is padded      F + 2 columns
       S_v          the same down the K rows held
       B_h          two columns of y
       B_v          each joins the (F + 1) / 2 rows of y that it is part of

Two rows of m end one row of y: that is a *step*. Steps whose rows are all in the map run in a loop
of their own; the others, at the borders and at the beginning of a chunk, take each row of the
*padded* m from its source and keep nothing from the row before. Letters: K x K pool with padding P,
F x F taps with B = (F - 1) / 2 columns of padding before, stride 2.

16-bit values are compared as float32, which is exact; and the interpreter compares bfloat16 by its
bits, which is wrong. But PACKED, a lane has two neighbouring channels, in one word up to the blur,
and their codes side by side: ``compare.py``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .compare import each, larger, pack, rectify, take, unpack
from .generic import border_source
from .sweep import SIZES, chunk_of, lanes, offsets_of, store_columns, vector


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
    padded = ()
    for c in tl.static_range(F + 2):
        value = best[c]
        if c < B:
            if MODE == "reflect":
                source = best[2 * B - c]
            elif MODE == "replicate":
                source = best[B]
            else:
                source = value ^ value if T != tl.float32 else 0.0
            value = tl.where(first, source, value)
        for t in tl.static_range(F // 2):
            for l in tl.static_range(1, 5):
                if c == B + l + t and (LAST == 0 or LAST == l):
                    if MODE == "reflect":
                        source = best[B + l - 2 - t if B + l - 2 - t >= 0 else B + 3]
                    elif MODE == "replicate":
                        source = best[B + l - 1]
                    else:
                        source = value ^ value if T != tl.float32 else 0.0
                    value = tl.where(last_is[l - 1], source, value)
        padded = padded + (value,)
    return padded, _winner_bits(took_1, took_2, K)


@triton.jit
def _select_rows(
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


@triton.jit
def _blur_columns(m, TAPS: tl.constexpr, T: tl.constexpr):
    """B_h: the strip's two columns of y, number by number of their words."""
    PER: tl.constexpr = 1 if T == tl.float32 else 2
    numbers = ()
    for c in tl.static_range(len(TAPS) + 2):
        numbers = numbers + unpack(m[c], T)
    y = ()
    for o in tl.static_range(2):
        for i in tl.static_range(PER):
            value = numbers[2 * o * PER + i] * TAPS[0]
            for t in tl.static_range(1, len(TAPS)):
                value += numbers[(2 * o + t) * PER + i] * TAPS[t]
            y = y + (value,)
    return y


@triton.jit
def _in_words(values, T: tl.constexpr, PTX: tl.constexpr):
    """Two columns of y, number by number, in words."""
    if T == tl.float32:
        words = values
    else:
        words = (pack(values[0], values[1], T, PTX), pack(values[2], values[3], T, PTX))
    return words


@triton.jit
def _store_codes(codes, word, exists, T: tl.constexpr):
    """The lanes' words of codes; `codes` points to what the lanes' numbers have of them."""
    if T != tl.float32 and codes.dtype.scalar.element_ty == tl.int16:  # of 8 bits for each number
        word = word | (word >> 8)
    tl.store(codes, word.to(codes.dtype.scalar.element_ty), mask=exists)


@triton.jit(do_not_specialize=SIZES)
def forward(
    x, y, codes, images, channels, height, width, m_h, y_h, y_w, strips, rows, steps, chunk,
    last_columns,
    K: tl.constexpr, P: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    MODE: tl.constexpr, RELU: tl.constexpr, CODES: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    WHOLE: tl.constexpr, PACKED: tl.constexpr, PTX: tl.constexpr, STRIPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Y = B_v B_h S_v S_h x, and the codes.

    WHOLE: rows of x are whole strips; `width` and `y_w` are then given in strips. PACKED: lanes
    have two neighbouring channels in a word. A program sweeps `chunk` steps of `steps`.
    """
    T: tl.constexpr = x.dtype.element_ty if PACKED else tl.float32
    PER: tl.constexpr = 2 if PACKED else 1
    F: tl.constexpr = len(TAPS_H)
    B: tl.constexpr = (F - 1) // 2
    N: tl.constexpr = F + 2
    SUMS: tl.constexpr = (F + 1) // 2
    LATE: tl.constexpr = K - 1 - P  # rows from a row of x to the row of m of its number
    AHEAD: tl.constexpr = F - 2 - B  # a step's first row of m is 2 step + AHEAD
    WARM_UP: tl.constexpr = B if B > 0 or K == 1 else 1
    LAST: tl.constexpr = 4 - (K - 1 - 2 * P) if WHOLE else 0  # columns of m in the last strip
    VECTORS: tl.constexpr = WHOLE and not CHANNELS_LAST
    PAIRS: tl.constexpr = VECTORS and K - 1 - 2 * P < 2  # rows of y are pairs as well
    ROW_SHIFT: tl.constexpr = 4 * (K - 1)
    HAS_CODES: tl.constexpr = CODES and (K > 1 or RELU)
    HIDE_CHANNELS: tl.constexpr = CHANNELS_LAST and K == 3 and F == 4  # see backward.py

    if WHOLE:
        width = width * 4
    if PAIRS:
        y_w = y_w * 2
    if PACKED:
        channels = channels // 2
        x = x.to(tl.pointer_type(tl.int32), bitcast=True)
        y = y.to(tl.pointer_type(tl.int32), bitcast=True)
        if codes.dtype.element_ty == tl.int8:
            codes = codes.to(tl.pointer_type(tl.int16), bitcast=True)
        else:
            codes = codes.to(tl.pointer_type(tl.int32), bitcast=True)
    zero = tl.zeros((STRIPS, CHANNELS) if CHANNELS_LAST else (STRIPS,), tl.int32)
    nothing = zero.to(tl.float32)
    no_word = zero if PACKED else nothing
    opaque = images >> 31  # zero, and the compiler cannot know; see `sweep.py`

    held = ()  # K - 1 rows of S_h x
    for _ in tl.static_range((K - 1) * N):
        held = held + (no_word,)
    words = ()  # their columns' winners that have no row of m yet
    for _ in tl.static_range(LATE):
        words = words + (zero,)
    sums = ()  # rows of y that are not whole
    for _ in tl.static_range(2 * PER * SUMS):
        sums = sums + (nothing,)

    step = chunk_of(0, 0, steps, chunk)[0] - WARM_UP
    while step < chunk_of(opaque & step, 0, steps, chunk)[1]:
        hidden = opaque & step
        begin, end = chunk_of(hidden, 0, steps, chunk)
        fast_begin = tl.maximum(begin, 1)
        fast_end = tl.minimum(tl.minimum(end, y_h), ((height + P - K - 1 - AHEAD) >> 1) + 1)
        first_code = tl.where(begin == 0, 0, 2 * begin + AHEAD)
        place, lane, strip, exists = lanes(
            hidden, images, channels + (16 * hidden if HIDE_CHANNELS else 0), strips,
            CHANNELS_LAST, STRIPS, CHANNELS,
        )  # fmt: skip
        (
            x_from, y_from, code_from, x_lane, y_lane, code_lane, pixel, x_row, y_row, code_row,
        ) = offsets_of(
            hidden, place, lane, channels, height, width, y_h, y_w, strips, rows, CHANNELS_LAST
        )  # fmt: skip
        x_at = x + x_from
        y_at = y + y_from
        code_at = codes + code_from
        code_lane += strip * pixel
        first = strip == 0
        last = strip == strips - 1
        last_is = ()
        for l in tl.static_range(1, 5):
            last_is = last_is + ((last if LAST == l else last & (last_columns == l)),)
        if VECTORS:
            offsets = ()
            for j in tl.static_range(F + 1 + K):
                offsets = offsets + (strip * 4 + x_lane,)
        else:
            offsets = _window_offsets(strip, last_is, pixel, x_lane, width, F, K, P)
        if HAS_CODES:
            # Rows of x beyond those of m have no row's winners.
            if (step == begin - WARM_UP) & (end == steps):
                for r in range(m_h, rows):
                    window = _load_window(
                        x_at + tl.minimum(r, height - 1) * x_row,
                        offsets, first, last, exists, F, K, P, VECTORS, T,
                    )  # fmt: skip
                    best, word = _select_columns(
                        window, first, last_is, zero, F, K, P, MODE, LAST, True, T, PTX
                    )
                    if P > 0:  # there is no such row of x
                        word = zero
                    _store_codes(code_at + r * code_row + code_lane, word, exists, T)
        if (step == fast_begin) & (step < fast_end):
            x_at += (2 * fast_begin + AHEAD + LATE) * x_row
            y_at += fast_begin * y_row
            code_at += (2 * fast_begin + AHEAD) * code_row
            for s in range(fast_begin, fast_end):
                for e in tl.static_range(2):
                    window = _load_window(x_at, offsets, first, last, exists, F, K, P, VECTORS, T)
                    x_at += x_row
                    best, word = _select_columns(
                        window, first, last_is, zero, F, K, P, MODE, LAST, HAS_CODES, T, PTX
                    )
                    held = held + best
                    words = words + (word,)
                    m, winners = _select_rows(held, (), zero, F, K, RELU, HAS_CODES, False, T, PTX)
                    if HAS_CODES:
                        word = words[0] | (winners << ROW_SHIFT)
                        _store_codes(code_at + code_lane, word, exists, T)
                        code_at += code_row
                    held = held[N:]
                    words = words[1:]
                    part = _blur_columns(m, TAPS_W, T)
                    now = ()
                    for d in tl.static_range(SUMS):
                        for o in tl.static_range(2 * PER):
                            total = sums[2 * PER * d + o]
                            if F - 2 - 2 * d + e >= 0:
                                total += part[o] * TAPS_H[F - 2 - 2 * d + e]
                            now = now + (total,)
                    sums = now
                whole = _in_words(sums[: 2 * PER], T, PTX)
                store_columns(y_at, strip, pixel, y_lane, exists, y_w, whole, PAIRS)
                y_at += y_row
                sums = sums[2 * PER :]
                for _ in tl.static_range(2 * PER):
                    sums = sums + (nothing,)
            step = fast_end
        else:
            for e in range(2):
                q = 2 * step + AHEAD + e
                u = border_source(q, m_h, MODE)
                r = u - P
                held = ()
                valid = ()
                found = ()
                for z in tl.static_range(K):
                    window = _load_window(
                        x_at + tl.minimum(tl.maximum(r + z, 0), height - 1) * x_row,
                        offsets, first, last, exists, F, K, P, VECTORS, T,
                    )  # fmt: skip
                    best, word = _select_columns(
                        window, first, last_is, zero, F, K, P, MODE, LAST, HAS_CODES, T, PTX
                    )
                    held = held + best
                    found = found + (word,)
                    valid = valid + ((r + z >= 0) & (r + z < height),)
                m, winners = _select_rows(held, valid, zero, F, K, RELU, HAS_CODES, True, T, PTX)
                if HAS_CODES:
                    if (q >= first_code) & (q < tl.minimum(m_h, 2 * end + AHEAD)):
                        word = found[P] | (winners << ROW_SHIFT)
                        _store_codes(code_at + q * code_row + code_lane, word, exists, T)
                held = held[N:]
                words = found[P + 1 :]
                part = _blur_columns(m, TAPS_W, T)
                now = ()
                for d in tl.static_range(SUMS):
                    for o in tl.static_range(2 * PER):
                        if F - 2 - 2 * d >= 0:
                            tap = tl.where(e == 0, TAPS_H[F - 2 - 2 * d], TAPS_H[F - 1 - 2 * d])
                            takes_part = u >= 0
                        else:
                            tap = TAPS_H[0] + 0.0 * e
                            takes_part = (u >= 0) & (e == 1)
                        total = sums[2 * PER * d + o]
                        now = now + (tl.where(takes_part, total + part[o] * tap, total),)
                sums = now
            store_columns(
                y_at + step * y_row, strip, pixel, y_lane,
                exists & (step >= begin) & (step < y_h), y_w,
                _in_words(sums[: 2 * PER], T, PTX), PAIRS,
            )  # fmt: skip
            sums = sums[2 * PER :]
            for _ in tl.static_range(2 * PER):
                sums = sums + (nothing,)
            step += 1
