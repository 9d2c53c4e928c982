"""The Triton kernel that sweeps an image backward, in the words of ``forward.py``."""

from __future__ import annotations

import triton
import triton.language as tl

from .generic import border_source
from .spread import ends_of, spread_columns
from .sweep import SIZES, chunk_of, lanes, offsets_of, repeated, store_columns


@triton.jit
def _word(at, exists, opaque):
    """A word, in a whole register.

    `opaque` is zero, and the compiler cannot know. It would test bits in the words' own 8 or 16
    bits otherwise, of which each test has to be extended.
    """
    word = tl.load(at, mask=exists)
    if word.dtype.primitive_bitwidth == 8:
        word = word.to(tl.uint8, bitcast=True)
    elif word.dtype.primitive_bitwidth == 16:
        word = word.to(tl.uint16, bitcast=True)
    return word.to(tl.int32) ^ opaque


@triton.jit
def _load_words(
    codes, strip, end, lane, step, exists, opaque, K: tl.constexpr, P: tl.constexpr,
    HAS_CODES: tl.constexpr,
):  # fmt: skip
    """The words of the strips that the lanes' windows lie in: own, left, right.

    In place of one that does not exist, another: its elements receive nothing.
    """
    words = ()
    if HAS_CODES:
        own = _word(codes + (tl.minimum(strip, end) * step + lane), exists, opaque)
        left = own
        right = own
        if K - 1 - P > 0:
            at = tl.minimum(tl.maximum(strip - 1, 0), end)
            left = _word(codes + (at * step + lane), exists, opaque)
        if P > 0:
            at = tl.minimum(strip + 1, end)
            right = _word(codes + (at * step + lane), exists, opaque)
        words = (left, own, right)
    return words


@triton.jit
def _won(
    words, g: tl.constexpr, z: tl.constexpr, SHIFT: tl.constexpr, EACH: tl.constexpr,
    R: tl.constexpr,
):  # fmt: skip
    """Whether candidate z won column g of the window.

    Winners are 0, 1 or 2, each of the latter a bit of its own, which one instruction tests.
    """
    word = words[(g - R + 4) // 4]
    LOWEST: tl.constexpr = SHIFT + (g - R + 4) % 4 * EACH
    if z == 0:
        won = (word & (((1 << EACH) - 1) << LOWEST)) == 0
    else:
        won = (word & (z << LOWEST)) != 0
    return won


@triton.jit
def _route(dm, pending, words, before, K: tl.constexpr, P: tl.constexpr, RELU: tl.constexpr):
    """S_v' and S_h' of row u of dm: row u - P of dx, and what the K - 1 after it have so far.

    `words` are of row u, `before` of row u - P.
    """
    R: tl.constexpr = K - 1 - P
    G: tl.constexpr = K + 3
    ROW_SHIFT: tl.constexpr = 4 * (K - 1)
    ROW_BITS: tl.constexpr = 2 if K == 3 or (K == 2 and RELU) else 1
    later_words = ()
    for n in tl.static_range(len(words)):
        word = words[n]
        if K == 3 and RELU:  # 3 is nobody, and no winner's bits
            nobody = word & (word >> 1) & (0x55 << ROW_SHIFT)
            word = word & ~(nobody * 3)
        later_words = later_words + (word,)
    whole = ()
    for g in tl.static_range(G):
        value = dm[g]
        if K > 1:
            won = _won(words, g, 0, ROW_SHIFT, ROW_BITS, R)
            value = tl.where(won, pending[g] + value, pending[g])
        elif RELU:
            value = tl.where(_won(words, g, 0, ROW_SHIFT, ROW_BITS, R), value, 0.0)
        whole = whole + (value,)
    later = ()
    for z in tl.static_range(1, K):
        for g in tl.static_range(G):
            won = _won(later_words, g, z, ROW_SHIFT, ROW_BITS, R)
            if z < K - 1:
                value = tl.where(won, pending[z * G + g] + dm[g], pending[z * G + g])
            else:
                value = tl.where(won, dm[g], 0.0)
            later = later + (value,)
    dx = ()
    for k in tl.static_range(4):
        value = whole[k + K - 1]
        if K > 1:
            value = tl.where(_won(before, k + K - 1, 0, 0, K - 1, R), value, 0.0)
            for z in tl.static_range(1, K):
                won = _won(before, k + K - 1 - z, z, 0, K - 1, R)
                value = tl.where(won, value + whole[k + K - 1 - z], value)
        dx = dx + (value,)
    return dx, later


@triton.jit
def _sum_rows(spread, TAPS: tl.constexpr, E: tl.constexpr):
    """B_v': a step's first or second row of dm, E, from the rows of B_h' dy."""
    F: tl.constexpr = len(TAPS)
    G: tl.constexpr = len(spread) // ((F + 1) // 2)
    dm = ()
    for g in tl.static_range(G):
        value = spread[g] * TAPS[F - 2 + E]
        for d in tl.static_range(1, (F + 1) // 2):
            if F - 2 + E - 2 * d >= 0:
                value += spread[d * G + g] * TAPS[F - 2 + E - 2 * d]
        dm = dm + (value,)
    return dm


@triton.jit
def _steady_steps(
    x_at, y_at, code_at, x_row, y_row, code_row, x_lane, y_lane, code_lane, strip, end_strip,
    pixel, at_end, exists, begin, end, by, width, y_w, pending, mask,
    K: tl.constexpr, P: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    MODE: tl.constexpr, RELU: tl.constexpr, LAST: tl.constexpr, VECTORS: tl.constexpr,
    PAIRS: tl.constexpr, HAS_CODES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The steps whose rows are all in the map. Each row of B_h' dy is made once and held."""
    SUMS: tl.constexpr = (len(TAPS_H) + 1) // 2
    spread = ()  # SUMS rows of B_h' dy
    for _ in tl.static_range(SUMS - 1):
        spread = spread + spread_columns(
            y_at, strip, at_end, pixel, y_lane, y_w, exists, TAPS_W, K, P, MODE, LAST, PAIRS
        )
        y_at += y_row
    before = _load_words(
        code_at - P * code_row, strip, end_strip, code_lane, pixel, exists, mask, K, P, HAS_CODES
    )
    for s in tl.range(begin, end, by, num_stages=STAGES):
        spread = spread + spread_columns(
            y_at, strip, at_end, pixel, y_lane, y_w, exists, TAPS_W, K, P, MODE, LAST, PAIRS
        )
        for e in tl.static_range(2):
            words = _load_words(
                code_at, strip, end_strip, code_lane, pixel, exists, mask, K, P, HAS_CODES
            )
            if P == 0:
                before = words
            dm = _sum_rows(spread, TAPS_H, e)
            out, pending = _route(dm, pending, words, before, K, P, RELU)
            before = words
            store_columns(x_at, strip, pixel, x_lane, exists, width, out, VECTORS)
            code_at += code_row
            x_at += x_row
        spread = spread[K + 3 :]
        y_at += y_row
    return pending


@triton.jit
def _tap(t, TAPS: tl.constexpr):
    """Tap number t, which the compiler does not know."""
    tap = 0.0
    for a in tl.static_range(len(TAPS)):
        tap = tl.where(t == a, TAPS[a], tap)
    return tap


@triton.jit
def _plus(dm, part, tap):
    total = ()
    for g in tl.static_range(len(dm)):
        total = total + (dm[g] + part[g] * tap,)
    return total


@triton.jit
def _edge_row_of_dm(
    y_at, y_row, y_lane, strip, pixel, at_end, exists, u, m_h, y_h, y_w, nothing,
    K: tl.constexpr, P: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    MODE: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Row u of dm, wherever it stands: at itself, and as padding before and behind the map."""
    F: tl.constexpr = len(TAPS_H)
    B: tl.constexpr = (F - 1) // 2
    G: tl.constexpr = K + 3
    dm = repeated(nothing, G)
    for n in range(1 + B + F // 2):
        q = tl.where(n == 0, u, tl.where(n <= B, -n, m_h + n - 1 - B))
        if (border_source(q, m_h, MODE) == u) & (u >= 0) & (u < m_h):
            for t in range(F):
                i = (q + B - t) >> 1
                if (2 * i + t == q + B) & (i >= 0) & (i < y_h):
                    part = spread_columns(
                        y_at + i * y_row, strip, at_end, pixel, y_lane,
                        y_w, exists, TAPS_W, K, P, MODE, LAST, PAIRS,
                    )  # fmt: skip
                    dm = _plus(dm, part, _tap(t, TAPS_H))
    return dm


@triton.jit(do_not_specialize=SIZES)
def backward(
    dx, dy, codes, images, channels, height, width, m_h, y_h, y_w, strips, rows, steps, chunk,
    last_columns,
    K: tl.constexpr, P: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    MODE: tl.constexpr, RELU: tl.constexpr, CHANNELS_LAST: tl.constexpr, WHOLE: tl.constexpr,
    STRIPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Dx = S_h' S_v' B_v' B_h' dy: the same sweep, the other way round.

    A lane owns four columns of dx, and finds all that they receive: the columns of dm that have one
    of them in their window, from the columns of dy that have one of those in theirs. The last strip
    of dx can lie beyond those of m.
    """
    F: tl.constexpr = len(TAPS_H)
    AHEAD: tl.constexpr = F - 2 - (F - 1) // 2
    LAST: tl.constexpr = 4 - (K - 1 - 2 * P) if WHOLE else 0
    VECTORS: tl.constexpr = WHOLE and not CHANNELS_LAST
    PAIRS: tl.constexpr = VECTORS and K - 1 - 2 * P < 2
    HAS_CODES: tl.constexpr = K > 1 or RELU
    # In channels_last, a step's loads are under way while the steps before it are computed. With
    # three stages, the kernels of a 3 x 3 pool spill.
    STAGES: tl.constexpr = (2 if K == 3 else 3) if CHANNELS_LAST else 1
    # What is hidden below, and where, comes from compiling for sm_90 with Triton 3.8. Without it,
    # some kernel spills or takes more registers.
    HIDE_CHUNK: tl.constexpr = not (CHANNELS_LAST and K == 2)

    if WHOLE:
        width = width * 4
    if PAIRS:
        y_w = y_w * 2
    x_strips = tl.cdiv(width, 4)
    nothing = tl.zeros((STRIPS, CHANNELS) if CHANNELS_LAST else (STRIPS,), tl.float32)
    opaque = images >> 31  # zero, and the compiler cannot know; see `sweep.py`
    mask = 0 if CHANNELS_LAST and K == 3 else opaque

    first_step = (P - AHEAD) >> 1
    pending = repeated(nothing, (K - 1) * (K + 3))  # what K - 1 rows of dx have received
    step = chunk_of(0, first_step, steps, chunk)[0] - (1 if K > 1 else 0)
    while step < chunk_of(opaque & step, first_step, steps, chunk)[1]:
        hidden = opaque & step
        begin, end = chunk_of(hidden if HIDE_CHUNK else 0, first_step, steps, chunk)
        fast_begin = tl.maximum(begin, 1)
        fast_end = tl.minimum(
            tl.minimum(end, y_h - (F + 1) // 2 + 1), ((m_h - 3 - F // 2 - AHEAD) >> 1) + 1
        )
        place, lane, strip, exists = lanes(
            hidden, images, channels, x_strips, CHANNELS_LAST, STRIPS, CHANNELS
        )
        (
            x_from, y_from, code_from, x_lane, y_lane, code_lane, pixel, x_row, y_row, code_row,
        ) = offsets_of(
            hidden, place, lane, channels, height, width, y_h, y_w, strips, rows, CHANNELS_LAST
        )  # fmt: skip
        x_at = dx + x_from
        y_at = dy + y_from
        code_at = codes + code_from
        end_strip = strips - 1
        by = 1 + hidden if K == 3 and not CHANNELS_LAST else 1
        at_end = ends_of(strip, end_strip, last_columns, LAST)
        if (step == fast_begin) & (step < fast_end):
            pending = _steady_steps(
                x_at + (2 * fast_begin + AHEAD - P) * x_row, y_at + fast_begin * y_row,
                code_at + (2 * fast_begin + AHEAD) * code_row, x_row, y_row, code_row,
                x_lane, y_lane, code_lane, strip, end_strip, pixel, at_end, exists,
                fast_begin, fast_end, by, width, y_w, pending, mask,
                K, P, TAPS_H, TAPS_W, MODE, RELU, LAST, VECTORS, PAIRS, HAS_CODES, STAGES,
            )  # fmt: skip
            step = fast_end
        else:
            for e in range(2):
                u = 2 * step + AHEAD + e
                r = u - P
                dm = _edge_row_of_dm(
                    y_at, y_row, y_lane, strip, pixel, at_end, exists, u, m_h, y_h, y_w, nothing,
                    K, P, TAPS_H, TAPS_W, MODE, LAST, PAIRS,
                )  # fmt: skip
                words = _load_words(
                    code_at + tl.minimum(tl.maximum(u, 0), rows - 1) * code_row,
                    strip, end_strip, code_lane, pixel, exists, mask, K, P, HAS_CODES,
                )  # fmt: skip
                before = _load_words(
                    code_at + tl.minimum(tl.maximum(r, 0), rows - 1) * code_row,
                    strip, end_strip, code_lane, pixel, exists, mask, K, P, HAS_CODES,
                )  # fmt: skip
                out, pending = _route(dm, pending, words, before, K, P, RELU)
                store_columns(
                    x_at + r * x_row, strip, pixel, x_lane,
                    exists & (step >= begin) & (r >= 0) & (r < height), width, out, VECTORS,
                )  # fmt: skip
            step += 1
