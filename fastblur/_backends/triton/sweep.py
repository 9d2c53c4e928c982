"""What the Triton kernels that sweep an image have in common: where the lanes of a program are.

Both sweep down the rows, some *steps* in a loop of their own and the others one by one
(``forward.py``). A compiler computes what both kinds of step need, and each alone, before
the first of them, and holds it throughout: addresses, strides, conditions, the reciprocals that
divisions are made of, of which it then has to spill some. So each turn of the
outer loop finds where it is anew, from numbers that have `hidden` added to them: zero, which the
compiler cannot know, nor that it is the same in every turn.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Sizes have no kernels of their own; of all numbers only the channels bear on how loads are made.
SIZES = [
    "images", "height", "width", "m_h", "y_h", "y_w", "strips", "rows", "steps", "chunk",
    "last_columns",
]  # fmt: skip


@triton.jit
def repeated(value, N: tl.constexpr):
    """N times the same value."""
    values = ()
    for _ in tl.static_range(N):
        values = values + (value,)
    return values


@triton.jit
def chunk_of(hidden, first, steps, chunk):
    """The steps of a program, from the first to before the last."""
    begin = first + (tl.program_id(1) + hidden) * chunk
    return begin, tl.minimum(begin + chunk, first + steps)


@triton.jit
def lanes(
    hidden, images, channels, strips, CHANNELS_LAST: tl.constexpr, STRIPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """A program's lanes: (place, lane, strip, exists).

    Contiguous: its first plane, in 64 bits, and each lane's plane from there on. channels_last: its
    image and each lane's channel.
    """
    pid = tl.program_id(0) + hidden
    strips += hidden
    if CHANNELS_LAST:
        channel_blocks = tl.cdiv(channels, CHANNELS)
        strip_blocks = tl.cdiv(strips, STRIPS)
        lane = pid % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        block = pid // channel_blocks
        strip = block % strip_blocks * STRIPS + tl.arange(0, STRIPS)[:, None]
        place = (block // strip_blocks).to(tl.int64)
        exists = (lane < channels) & (strip < strips)
    else:
        # The first unit is number pid * STRIPS, which may have more than 32 bits. Divided in two
        # steps, for in 64 bits that takes very many instructions.
        whole = pid // strips
        rest = (pid - whole * strips) * STRIPS
        place = whole.to(tl.int64) * STRIPS + rest // strips
        unit = rest % strips + tl.arange(0, STRIPS)
        lane = unit // strips
        strip = unit % strips
        exists = place + lane < tl.cast(images, tl.int64) * channels
    return place, lane, strip, exists


@triton.jit
def offsets_of(
    hidden, place, lane, channels, height, width, y_h, y_w, strips, rows,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Where a program's first image or plane begins in x, y and the codes, and from there on.

    That is: what a lane adds in each of the three; from a pixel to the next; and from a row to the
    next in each of the three. Offsets, not pointers: of a function that is given all three
    torch.compile thinks that what is stored through one of its results could be stored in any.
    """
    channels += 16 * hidden  # a multiple of 16 stays one, so that accesses stay wide
    height += hidden
    width += 16 * hidden
    y_h += hidden
    y_w += 16 * hidden
    strips += hidden
    rows += hidden
    if CHANNELS_LAST:
        pixel = channels
        x_lane = lane
        y_lane = lane
        code_lane = lane
    else:
        pixel = 1
        x_lane = lane * (height * width)
        y_lane = lane * (y_h * y_w)
        code_lane = lane * (rows * strips)
    x_row = (width * pixel).to(tl.int64)
    y_row = (y_w * pixel).to(tl.int64)
    code_row = (strips * pixel).to(tl.int64)
    x_from = place * height * x_row
    y_from = place * y_h * y_row
    code_from = place * rows * code_row
    return x_from, y_from, code_from, x_lane, y_lane, code_lane, pixel, x_row, y_row, code_row


@triton.jit
def vector(row, at, exists, N: tl.constexpr, SHIFT: tl.constexpr):
    """N neighbouring elements of a lane, as N values; `at` and SHIFT are multiples of N.

    The SHIFT becomes part of the instruction, so one address is enough for several vectors.
    """
    if N == 1:
        values = (tl.load((row + at) + SHIFT, mask=exists),)
    else:
        own = SHIFT + tl.arange(0, N)
        tile = tl.load((row + at[:, None]) + own[None, :], mask=exists[:, None])
        if N == 2:
            values = tl.split(tile)
        else:
            even, odd = tl.split(tl.reshape(tile, (tile.shape[0], 2, 2)))
            a, c = tl.split(even)
            b, d = tl.split(odd)
            values = (a, b, c, d)
    wide = ()
    for k in tl.static_range(N):
        wide = wide + (values[k].to(tl.float32),)
    return wide


@triton.jit
def store_columns(row, strip, step, lane, exists, columns, values, VECTORS: tl.constexpr):
    """The lanes' columns of y, or of dx: side by side from a multiple of their number on."""
    N: tl.constexpr = len(values)
    if VECTORS:
        if N == 2:
            tile = tl.join(values[0], values[1])
        else:
            tile = tl.join(tl.join(values[0], values[2]), tl.join(values[1], values[3]))
            tile = tl.reshape(tile, (strip.shape[0], 4))
        at = (strip * N + lane)[:, None] + tl.arange(0, N)[None, :]
        tl.store(row + at, tile.to(row.dtype.element_ty), mask=exists[:, None])
    else:
        for k in tl.static_range(N):
            column = strip * N + k
            tl.store(
                row + (column * step + lane),
                values[k].to(row.dtype.element_ty),
                mask=exists & (column < columns),
            )
