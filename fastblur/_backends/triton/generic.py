"""The generic Triton kernels: any geometry, dtype and size, one lane for each element it makes.

They are the op as it is defined (``docs/how_it_works.md``), a kernel for each of its maps:
``choose`` picks the winners of S_h and S_v and ``select`` fetches them, ``blur`` is B_v or B_h,
``spread`` the transpose of either, and ``route`` that of ``select``. What passes from one to the
next lies in memory, in the type that sums are made in. All gather, so nothing is added up in memory
and results are the same bits every time. What is faster, and where the codes lie, is in
``forward.py``.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Numbers that no kernel is compiled for.
_SIZES = ["count", "channels", "height", "width", "m_h", "m_w", "rows", "strips"]
_LINES = ["count", "size", "out", "inner", "numbers"]


@triton.jit
def border_source(q, size, MODE: tl.constexpr):
    """Which element stands at position q of an axis with padding; -1 where that is a zero."""
    if MODE == "reflect":
        outside = tl.where(q < 0, -q, 2 * (size - 1) - q)
    elif MODE == "replicate":
        outside = tl.where(q < 0, 0, size - 1)
    elif MODE == "circular":
        outside = tl.where(q < 0, q + size, q - size)
    else:
        outside = tl.where(q < 0, -1, -1)
    return tl.where((q >= 0) & (q < size), q, outside)


@triton.jit
def _place(i, channels, rows, columns, CHANNELS_LAST: tl.constexpr):
    """From an element's number in memory order: (image, channel, row, column)."""
    if CHANNELS_LAST:
        pixel = i // channels
        line = pixel // columns
        place = (line // rows, i % channels, line % rows, pixel % columns)
    else:
        line = i // columns
        plane = line // rows
        place = (plane // channels, plane % channels, line % rows, i % columns)
    return place


@triton.jit
def _number(image, channel, row, column, channels, rows, columns, CHANNELS_LAST: tl.constexpr):
    """The inverse of _place."""
    if CHANNELS_LAST:
        number = ((image * rows + row) * columns + column) * channels + channel
    else:
        number = ((image * channels + channel) * rows + row) * columns + column
    return number


@triton.jit
def _lanes(count, LANES: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    return i, i < count


@triton.jit
def _tap(taps: tl.constexpr, t, SUM: tl.constexpr):
    """Tap number t, which the compiler does not know."""
    value = tl.full((), 0.0, SUM)
    for k in tl.static_range(len(taps)):
        value = tl.where(t == k, tl.full((), taps[k], SUM), value)
    return value


@triton.jit
def takes_over(best, later):
    """The tie rule, once: the later of two candidates wins if it is larger, or NaN."""
    return (later > best) | (later != later)


@triton.jit
def _best_in_row(
    x, there, image, channel, row, column, channels, height, width,
    KW: tl.constexpr, PW: tl.constexpr, CHANNELS_LAST: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """S_h: the maximum over a row of the windows that begin at `column` - PW, and its place."""
    best = tl.full(column.shape, float("-inf"), SUM)
    winner = tl.full(column.shape, 0, tl.int32)
    nobody = winner == 0
    for c in range(KW):
        x_column = column - PW + c
        exists = there & (x_column >= 0) & (x_column < width)
        at = _number(image, channel, row, x_column, channels, height, width, CHANNELS_LAST)
        v = tl.load(x + at, mask=exists, other=0).to(SUM)
        takes = exists & (nobody | takes_over(best, v))
        best = tl.where(takes, v, best)
        winner = tl.where(takes, c, winner)
        nobody = nobody & ~exists
    return best, winner


@triton.jit(do_not_specialize=_SIZES)
def choose(
    x, codes, count, channels, height, width, m_h, m_w, rows, strips,
    KH: tl.constexpr, KW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COLUMN_BITS: tl.constexpr, ROW_BITS: tl.constexpr,
    SUM: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """S_h and S_v: the words of the codes, one a lane."""
    i, exists = _lanes(count, LANES)
    image, channel, row, strip = _place(i, channels, rows, strips, CHANNELS_LAST)
    image, channel, row = image[:, None], channel[:, None], row[:, None]
    within = tl.arange(0, 4)[None, :]
    column = strip[:, None] * 4 + within
    in_m = exists[:, None] & (column < m_w)

    best, of_column = _best_in_row(
        x, in_m & (row < height), image, channel, row, column, channels, height, width,
        KW, PW, CHANNELS_LAST, SUM,
    )  # fmt: skip
    best = tl.full(column.shape, float("-inf"), SUM)
    winner = tl.full(column.shape, 0, tl.int32)
    nobody = winner == 0
    for r in range(KH):
        x_row = row - PH + r
        there = in_m & (row < m_h) & (x_row >= 0) & (x_row < height)
        v, column_of_v = _best_in_row(
            x, there, image, channel, x_row, column, channels, height, width,
            KW, PW, CHANNELS_LAST, SUM,
        )  # fmt: skip
        takes = there & (nobody | takes_over(best, v))
        best = tl.where(takes, v, best)
        winner = tl.where(takes, r, winner)
        nobody = nobody & ~there
    if RELU:
        winner = tl.where(best <= 0, KH, winner)
    bits = (of_column << (within * COLUMN_BITS)) | (winner << (4 * COLUMN_BITS + within * ROW_BITS))
    tl.store(codes + i, tl.sum(bits, axis=1).to(codes.dtype.element_ty), mask=exists)


@triton.jit
def _winner(
    codes, there, image, channel, row, column, channels, rows, strips, SHIFT: tl.constexpr,
    BITS: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """The winner that row `row` of the codes keeps for a column, of BITS bits from SHIFT on."""
    at = _number(image, channel, row, column // 4, channels, rows, strips, CHANNELS_LAST)
    word = tl.load(codes + at, mask=there, other=0).to(tl.int32)
    return (word >> (SHIFT + column % 4 * BITS).to(tl.int32)) & ((1 << BITS) - 1)


@triton.jit(do_not_specialize=_SIZES)
def select(
    x, codes, m, count, channels, height, width, m_h, m_w, rows, strips,
    KH: tl.constexpr, KW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COLUMN_BITS: tl.constexpr, ROW_BITS: tl.constexpr,
    SUM: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """S_v S_h x, with the winners given: one element of m a lane."""
    i, exists = _lanes(count, LANES)
    image, channel, row, column = _place(i, channels, m_h, m_w, CHANNELS_LAST)
    r = _winner(codes, exists, image, channel, row, column, channels, rows, strips,
                4 * COLUMN_BITS, ROW_BITS, CHANNELS_LAST)  # fmt: skip
    x_row = row - PH + r
    there = exists & (r < KH) & (x_row >= 0) & (x_row < height)
    c = _winner(codes, there, image, channel, x_row, column, channels, rows, strips,
                0, COLUMN_BITS, CHANNELS_LAST)  # fmt: skip
    x_column = column - PW + c
    there = there & (c < KW) & (x_column >= 0) & (x_column < width)
    at = _number(image, channel, x_row, x_column, channels, height, width, CHANNELS_LAST)
    v = tl.load(x + at, mask=there, other=0).to(SUM)
    tl.store(m + i, tl.where(there, v, 0.0).to(m.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=_LINES)
def blur(
    m, y, count, size, out, inner, numbers,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, BEFORE: tl.constexpr, MODE: tl.constexpr,
    POSITIONS: tl.constexpr, SUM: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """B along one axis, the middle one of [outer, size, inner]: one element of y a lane."""
    i, exists = _lanes(count, LANES)
    line = i // inner
    output, first = line % out, line // out * size * inner + i % inner
    total = tl.full((LANES,), 0.0, SUM)
    for t in range(len(TAPS)):
        u = border_source(output * STRIDE + t - BEFORE, size, MODE)
        there = exists & (u >= 0)
        v = tl.load(m + first + u * inner, mask=there, other=0).to(SUM)
        total += tl.where(there, _tap(TAPS, t, SUM) * v, 0.0)
    tl.store(y + i, total.to(y.dtype.element_ty), mask=exists)


@triton.jit
def _use(
    u, position, number, size, out, TAPS: tl.constexpr, STRIDE: tl.constexpr, BEFORE: tl.constexpr,
    MODE: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """One output that reads element u of m, along one axis: (output, weight, whether there is one).

    u stands at itself (position 0) and as padding below and above (1 and 2), and at each several
    outputs read it. Replicated padding is taken together with what it repeats, since one output
    may read much of it.
    """
    F: tl.constexpr = len(TAPS)
    if MODE == "replicate":
        first = tl.where(u == 0, -BEFORE, u)
        output = tl.maximum((first + BEFORE - F + STRIDE) // STRIDE, 0) + number
        weight = tl.full(u.shape, 0.0, SUM)
        there = u < 0
        for t in range(F):
            here = border_source(output * STRIDE + t - BEFORE, size, MODE) == u
            weight = tl.where(here, weight + _tap(TAPS, t, SUM), weight)
            there = there | here
        there = there & (output < out)
    else:
        if MODE == "circular":
            q = u + tl.where(position == 1, -size, tl.where(position == 2, size, 0))
            there = u >= 0
        else:
            q = tl.where(position == 1, -u, tl.where(position == 2, 2 * (size - 1) - u, u))
            there = (position == 0) | (q != u)
        from_start = q + BEFORE  # = output * STRIDE + tap
        output = from_start // STRIDE - number
        tap = from_start - output * STRIDE
        there = there & (from_start >= 0) & (output >= 0) & (output < out) & (tap < F)
        # As seen from an output: is this padding's source u?
        there = there & (border_source(q, size, MODE) == u)
        weight = _tap(TAPS, tap, SUM)
    return output, weight, there


@triton.jit(do_not_specialize=_LINES)
def spread(
    dy, dm, count, size, out, inner, numbers,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, BEFORE: tl.constexpr, MODE: tl.constexpr,
    POSITIONS: tl.constexpr, SUM: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """B' along one axis: one element of dm a lane, from the `numbers` outputs at each position."""
    i, exists = _lanes(count, LANES)
    line = i // inner
    u, first = line % size, line // size * out * inner + i % inner
    total = tl.full((LANES,), 0.0, SUM)
    for use in range(POSITIONS * numbers):
        output, weight, there = _use(
            u, use // numbers, use % numbers, size, out, TAPS, STRIDE, BEFORE, MODE, SUM
        )
        there = there & exists
        v = tl.load(dy + first + output * inner, mask=there, other=0).to(SUM)
        total += tl.where(there, weight * v, 0.0)
    tl.store(dm + i, total.to(dm.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=_SIZES)
def route(
    dm, codes, dx, count, channels, height, width, m_h, m_w, rows, strips,
    KH: tl.constexpr, KW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COLUMN_BITS: tl.constexpr, ROW_BITS: tl.constexpr,
    SUM: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """S_h' S_v' dm: one element of dx a lane, from the windows that it won."""
    i, exists = _lanes(count, LANES)
    image, channel, row, column = _place(i, channels, height, width, CHANNELS_LAST)
    total = tl.full((LANES,), 0.0, SUM)
    for candidate in range(KH * KW):
        r, c = candidate // KW, candidate % KW
        m_row, m_column = row + PH - r, column + PW - c
        there = exists & (m_row >= 0) & (m_row < m_h) & (m_column >= 0) & (m_column < m_w)
        row_won = _winner(codes, there, image, channel, m_row, m_column, channels, rows, strips,
                          4 * COLUMN_BITS, ROW_BITS, CHANNELS_LAST)  # fmt: skip
        column_won = _winner(codes, there, image, channel, row, m_column, channels, rows,
                             strips, 0, COLUMN_BITS, CHANNELS_LAST)  # fmt: skip
        there = there & (row_won == r) & (column_won == c)
        at = _number(image, channel, m_row, m_column, channels, m_h, m_w, CHANNELS_LAST)
        total += tl.load(dm + at, mask=there, other=0).to(SUM)
    tl.store(dx + i, total.to(dx.dtype.element_ty), mask=exists)
