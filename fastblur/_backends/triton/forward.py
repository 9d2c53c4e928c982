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

from .compare import pack, unpack
from .generic import border_source
from .select import lanes_in_row, select_in_row, select_rows
from .sweep import SIZES, chunk_of, lanes, offsets_of, repeated, store_columns


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


@triton.jit
def _store_rows_beyond(
    x_at, code_at, x_row, code_row, code_lane, here, exists, zero, m_h, height, rows,
    F: tl.constexpr, K: tl.constexpr, P: tl.constexpr, MODE: tl.constexpr, LAST: tl.constexpr,
    VECTORS: tl.constexpr, T: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """The codes of rows of x beyond those of m: their columns' winners, and no row's."""
    for r in range(m_h, rows):
        _, word = select_in_row(
            x_at + tl.minimum(r, height - 1) * x_row,
            here, exists, zero, F, K, P, MODE, LAST, VECTORS, True, T, PTX,
        )  # fmt: skip
        if P > 0:  # there is no such row of x
            word = zero
        _store_codes(code_at + r * code_row + code_lane, word, exists, T)


@triton.jit
def _add_row(sums, part, TAPS: tl.constexpr, E: tl.constexpr):
    """B_v: what a step's first or second row of m, E, adds to the rows of y that it is part of."""
    F: tl.constexpr = len(TAPS)
    EACH: tl.constexpr = len(part)
    now = ()
    for d in tl.static_range((F + 1) // 2):
        for o in tl.static_range(EACH):
            total = sums[EACH * d + o]
            if F - 2 - 2 * d + E >= 0:
                total += part[o] * TAPS[F - 2 - 2 * d + E]
            now = now + (total,)
    return now


@triton.jit
def _add_edge_row(sums, part, there, e, TAPS: tl.constexpr):
    """The same where `e` is not known to the compiler, of a row that may not be `there`."""
    F: tl.constexpr = len(TAPS)
    EACH: tl.constexpr = len(part)
    now = ()
    for d in tl.static_range((F + 1) // 2):
        for o in tl.static_range(EACH):
            if F - 2 - 2 * d >= 0:
                tap = tl.where(e == 0, TAPS[F - 2 - 2 * d], TAPS[F - 1 - 2 * d])
                takes_part = there
            else:
                tap = TAPS[0] + 0.0 * e
                takes_part = there & (e == 1)
            total = sums[EACH * d + o]
            now = now + (tl.where(takes_part, total + part[o] * tap, total),)
    return now


@triton.jit
def _without_first(sums, nothing, EACH: tl.constexpr):
    """The sums when the first row of y is whole, and a new one begins."""
    sums = sums[EACH:]
    for _ in tl.static_range(EACH):
        sums = sums + (nothing,)
    return sums


@triton.jit
def _steady_steps(
    x_at, y_at, code_at, x_row, y_row, code_row, y_lane, code_lane, strip, pixel, here, exists,
    begin, end, y_w, held, words, sums, zero, nothing,
    K: tl.constexpr, P: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    MODE: tl.constexpr, RELU: tl.constexpr, LAST: tl.constexpr, VECTORS: tl.constexpr,
    PAIRS: tl.constexpr, CODES: tl.constexpr, T: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """The steps whose rows are all in the map. Each row of S_h x is made once and held."""
    F: tl.constexpr = len(TAPS_H)
    N: tl.constexpr = F + 2
    EACH: tl.constexpr = 2 if T == tl.float32 else 4  # numbers of a row of y
    for s in range(begin, end):
        for e in tl.static_range(2):
            best, word = select_in_row(
                x_at, here, exists, zero, F, K, P, MODE, LAST, VECTORS, CODES, T, PTX
            )
            x_at += x_row
            held = held + best
            words = words + (word,)
            m, winners = select_rows(held, (), zero, F, K, RELU, CODES, False, T, PTX)
            if CODES:
                word = words[0] | (winners << 4 * (K - 1))
                _store_codes(code_at + code_lane, word, exists, T)
                code_at += code_row
            held = held[N:]
            words = words[1:]
            sums = _add_row(sums, _blur_columns(m, TAPS_W, T), TAPS_H, e)
        store_columns(
            y_at, strip, pixel, y_lane, exists, y_w, _in_words(sums[:EACH], T, PTX), PAIRS
        )
        y_at += y_row
        sums = _without_first(sums, nothing, EACH)
    return held, words, sums


@triton.jit
def _edge_row(
    x_at, code_at, x_row, code_row, code_lane, here, exists, q, e, first_code, end_code, m_h,
    height, sums, zero,
    K: tl.constexpr, P: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    MODE: tl.constexpr, RELU: tl.constexpr, LAST: tl.constexpr, VECTORS: tl.constexpr,
    CODES: tl.constexpr, T: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Row q of the padded m, from its source; and what a steady step after it needs."""
    F: tl.constexpr = len(TAPS_H)
    u = border_source(q, m_h, MODE)
    r = u - P
    held = ()
    valid = ()
    words = ()
    for z in tl.static_range(K):
        best, word = select_in_row(
            x_at + tl.minimum(tl.maximum(r + z, 0), height - 1) * x_row,
            here, exists, zero, F, K, P, MODE, LAST, VECTORS, CODES, T, PTX,
        )  # fmt: skip
        held = held + best
        words = words + (word,)
        valid = valid + ((r + z >= 0) & (r + z < height),)
    m, winners = select_rows(held, valid, zero, F, K, RELU, CODES, True, T, PTX)
    if CODES:
        if (q >= first_code) & (q < end_code):
            word = words[P] | (winners << 4 * (K - 1))
            _store_codes(code_at + q * code_row + code_lane, word, exists, T)
    sums = _add_edge_row(sums, _blur_columns(m, TAPS_W, T), u >= 0, e, TAPS_H)
    return held[F + 2 :], words[P + 1 :], sums


@triton.jit
def _words_of_pairs(pointer, bytes: tl.constexpr):
    """The same memory, as words of two neighbouring elements."""
    if bytes == 1:
        pointer = pointer.to(tl.pointer_type(tl.int16), bitcast=True)
    else:
        pointer = pointer.to(tl.pointer_type(tl.int32), bitcast=True)
    return pointer


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
    EACH: tl.constexpr = 4 if PACKED else 2  # numbers of a lane's row of y
    F: tl.constexpr = len(TAPS_H)
    B: tl.constexpr = (F - 1) // 2
    LATE: tl.constexpr = K - 1 - P  # rows from a row of x to the row of m of its number
    AHEAD: tl.constexpr = F - 2 - B  # a step's first row of m is 2 step + AHEAD
    WARM_UP: tl.constexpr = B if B > 0 or K == 1 else 1
    LAST: tl.constexpr = 4 - (K - 1 - 2 * P) if WHOLE else 0  # columns of m in the last strip
    VECTORS: tl.constexpr = WHOLE and not CHANNELS_LAST
    PAIRS: tl.constexpr = VECTORS and K - 1 - 2 * P < 2  # rows of y are pairs as well
    HAS_CODES: tl.constexpr = CODES and (K > 1 or RELU)
    HIDE_CHANNELS: tl.constexpr = CHANNELS_LAST and K == 3 and F == 4  # see backward.py

    if WHOLE:
        width = width * 4
    if PAIRS:
        y_w = y_w * 2
    if PACKED:
        channels = channels // 2
        x = _words_of_pairs(x, 2)
        y = _words_of_pairs(y, 2)
        codes = _words_of_pairs(codes, codes.dtype.element_ty.primitive_bitwidth // 8)
    zero = tl.zeros((STRIPS, CHANNELS) if CHANNELS_LAST else (STRIPS,), tl.int32)
    nothing = zero.to(tl.float32)
    opaque = images >> 31  # zero, and the compiler cannot know; see `sweep.py`

    held = repeated(zero if PACKED else nothing, (K - 1) * (F + 2))  # K - 1 rows of S_h x
    words = repeated(zero, LATE)  # their columns' winners that have no row of m yet
    sums = repeated(nothing, EACH * ((F + 1) // 2))  # rows of y that are not whole

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
        here = lanes_in_row(
            strip, strips, last_columns, pixel, x_lane, width, F, K, P, LAST, VECTORS
        )
        if HAS_CODES:
            if (step == begin - WARM_UP) & (end == steps):
                _store_rows_beyond(
                    x_at, code_at, x_row, code_row, code_lane, here, exists, zero, m_h, height,
                    rows, F, K, P, MODE, LAST, VECTORS, T, PTX,
                )  # fmt: skip
        if (step == fast_begin) & (step < fast_end):
            held, words, sums = _steady_steps(
                x_at + (2 * fast_begin + AHEAD + LATE) * x_row, y_at + fast_begin * y_row,
                code_at + (2 * fast_begin + AHEAD) * code_row, x_row, y_row, code_row,
                y_lane, code_lane, strip, pixel, here, exists, fast_begin, fast_end, y_w,
                held, words, sums, zero, nothing,
                K, P, TAPS_H, TAPS_W, MODE, RELU, LAST, VECTORS, PAIRS, HAS_CODES, T, PTX,
            )  # fmt: skip
            step = fast_end
        else:
            for e in range(2):
                held, words, sums = _edge_row(
                    x_at, code_at, x_row, code_row, code_lane, here, exists,
                    2 * step + AHEAD + e, e, first_code, tl.minimum(m_h, 2 * end + AHEAD), m_h,
                    height, sums, zero,
                    K, P, TAPS_H, TAPS_W, MODE, RELU, LAST, VECTORS, HAS_CODES, T, PTX,
                )  # fmt: skip
            store_columns(
                y_at + step * y_row, strip, pixel, y_lane,
                exists & (step >= begin) & (step < y_h), y_w,
                _in_words(sums[:EACH], T, PTX), PAIRS,
            )  # fmt: skip
            sums = _without_first(sums, nothing, EACH)
            step += 1
