"""The defects that mutants.py seeds. Each text must occur once in its file."""

from __future__ import annotations

from dataclasses import dataclass

from .defines import FEW, NONE


@dataclass(frozen=True)
class Defect:
    """A change that a check must find.

    Attributes:
        name: what is wrong, in words.
        file: in csrc/.
        old: the text to be replaced.
        new: what replaces it.
        defines: which specialisations to build; NONE is quick, for the generic kernels.
    """

    name: str
    file: str
    old: str
    new: str
    defines: tuple[str, ...] = FEW


def generic(name: str, old: str, new: str, file: str = "cuda/kernels/generic.cuh") -> Defect:
    return Defect(f"generic: {name}", file, old, new, NONE)


BOUND = "  if (i >= count) return;\n"
GATHER = "  const Place at = Place::of(i, p, p.h.out(), p.w.out());\n"
SCATTER = "  const Place at = Place::of(i, p, p.h.size, p.w.size);\n"
ROUND = "return __float2half_rn(v)"

DEFECTS = [
    generic(
        "where an image begins is counted in 32 bits",
        "return image * p.channels * rows * columns +",
        "return int(image * p.channels * rows * columns) +",
    ),
    generic("of equal columns the last wins", "v > best_in_row", "v >= best_in_row"),
    generic(
        "a NaN does not win among rows",
        "best_in_row > best || best_in_row != best_in_row",
        "best_in_row > best",
    ),
    generic("ReLU lets zero through", "best <= 0", "best < 0"),
    generic("every lane stores the word", "if (lane == 0) store", "store"),
    generic(
        "lanes leave before the vote",
        "const bool exists = e < per_image;\n",
        "const bool exists = e < per_image;\n  if (!exists) return;\n",
    ),
    generic("the vote's mask is of 16 lanes", "__ballot_sync(~0u", "__ballot_sync(0xffffu"),
    generic("gather goes on beyond the end", BOUND + GATHER, GATHER),
    generic("scatter goes on beyond the end", BOUND + SCATTER, SCATTER),
    generic(
        "images' codes overlap",
        "codes + image * words_per_image + group * bits",
        "codes + image * (words_per_image - 4) + group * bits",
    ),
    generic(
        "the last output is not written",
        BOUND + GATHER,
        "  if (i >= count - 1) return;\n" + GATHER,
    ),
    generic(
        "reflection is one off in backward",
        "u <= before) f(-u)",
        "u < before) f(-u)",
        "geometry.h",
    ),
    generic(
        "reflection is one off in forward",
        "2 * (size - 1) - q",
        "2 * size - 1 - q",
        "geometry.h",
    ),
    generic(
        "the max's padding is read",
        "return u < pad ? int(pad - u) : 0;",
        "return 0;",
        "geometry.h",
    ),
    generic(
        "16-bit results are cut off", ROUND, "return __float2half_rz(v)", "cuda/kernels/values.cuh"
    ),
    Defect(
        "contiguous: a lane that repeats work stores it, too",
        "cuda/kernels/lane.cuh",
        "owns = lane != 0 && lane != kWarp - 1 && unit < c.units;",
        "owns = lane != kWarp - 1 && unit < c.units;",
    ),
    Defect(
        "contiguous: lanes beyond the last unit store",
        "cuda/kernels/lane.cuh",
        "owns = lane != 0 && lane != kWarp - 1 && unit < c.units;",
        "owns = lane != 0 && lane != kWarp - 1;",
    ),
    Defect(
        "contiguous: columns beyond the row are read",
        "cuda/kernels/lane.cuh",
        "if (kEach == N || begin + j < size)",
        "if (true)",
    ),
    Defect(
        "contiguous: wide accesses to misaligned tensors",
        "cuda/launch/nchw.cuh",
        "while (row % each != 0 || !is_aligned(first, each * int64_t(sizeof(T))))",
        "while (row % each != 0)",
    ),
    Defect(
        "contiguous: a chunk starts with unfinished sums",
        "cuda/kernels/forward_nchw.cuh",
        "first = begin - S::kWarmUp;",
        "first = begin;",
    ),
    Defect(
        "contiguous: the steps before a chunk are stored too",
        "cuda/kernels/forward_nchw.cuh",
        "const bool stores = lane_.owns && step >= begin;",
        "const bool stores = lane_.owns;",
    ),
    Defect(
        "contiguous: a chunk of backward starts without its pending sums",
        "cuda/kernels/backward_nchw.cuh",
        "first = begin - S::kBackwardWarmUp;",
        "first = begin;",
    ),
    Defect(
        "contiguous: rows are prefetched beyond the chunk's",
        "cuda/kernels/forward_nchw.cuh",
        "if (step + 1 + kPrefetchSteps < end) prefetch",
        "prefetch",
    ),
    Defect(
        "channels_last: rows of dy are prefetched beyond the last",
        "cuda/kernels/backward_nhwc.cuh",
        "const int ahead = !kBorder && step + kPrefetchSteps < end ? kPrefetchSteps : 0;",
        "const int ahead = kBorder ? 0 : kPrefetchSteps;",
    ),
    Defect(
        "channels_last: rows of x are prefetched beyond the last",
        "cuda/kernels/forward_nhwc.cuh",
        "kPrefetches && step + kPrefetchSteps < end ?",
        "kPrefetches ?",
    ),
    Defect(
        "channels_last: an output is stored that a row has not",
        "cuda/kernels/forward_nhwc.cuh",
        "if (!kEnds || 2 * pixel_.strip + o < c_.y_w)",
        "",
    ),
    Defect(
        "backward: copies of a row in the padding get no gradient",
        "cuda/kernels/routing.cuh",
        "if (!(copies_ >> k & 1)) continue;",
        "continue;",
    ),
    Defect(
        "backward: the last row of dy does not reach back",
        "cuda/kernels/routing.cuh",
        "reached = from_end == 0;",
        "reached = false;",
    ),
    Defect(
        "backward: rows of m that do not exist get a gradient",
        "cuda/kernels/routing.cuh",
        "exists(row >= 0 && row < c.m_h)",
        "exists(true)",
    ),
    Defect(
        "backward: every row of padding reads with the same tap",
        "cuda/kernels/routing.cuh",
        "c.taps_h[k < B ? B - 1 - k : F - 1 - (k - B)]",
        "c.taps_h[k < B ? 0 : F - 1]",
    ),
    Defect(
        "channels_last: padding has no weight",
        "cuda/launch/nhwc.cuh",
        "if (column >= 0) sums",
        "if (column == begin + b) sums",
    ),
    Defect(
        "channels_last: the last output does not reach back",
        "cuda/launch/nhwc.cuh",
        "if (column >= 0 && column < begin) weights.reaching = output;",
        "",
    ),
    Defect(
        "channels_last: the strips of a long row have no line of weights",
        "cuda/kernels/pixel.cuh",
        "max(2 * strip - c.weights.left_out, 3)",
        "2 * strip",
    ),
    Defect(
        "channels_last: the last output of a row has the weights of an inner one",
        "cuda/kernels/pixel.cuh",
        "2 * warp_last + last_y < c.y_w - 1",
        "2 * warp_last + last_y < c.y_w",
    ),
    Defect(
        "channels_last: columns that do not exist are blurred",
        "cuda/kernels/forward_nhwc.cuh",
        "if (kEnds && c != B) m[c] =",
        "if (false) m[c] =",
    ),
    Defect(
        "contiguous: NaNs are not looked at again",
        "cuda/kernels/forward_nchw.cuh",
        "if (__any_sync(~0u, nan)) choose_again(2 * step + kFirst, code);",
        "(void)nan;",
    ),
    Defect(
        "contiguous: the max's padding may win on the left",
        "cuda/kernels/forward_nchw.cuh",
        "code.at[0] |= lane_.first ? 1u << e * Bits::kRow : 0;",
        "code.at[0] |= 0;",
    ),
    Defect(
        "contiguous: the third candidate never wins",
        "cuda/kernels/forward_nchw.cuh",
        "bits &= ~(bits >> 1 & 0x55555555u);",
        "bits &= 0x55555555u;",
    ),
    Defect(
        "channels_last: channels beyond the last are read",
        "cuda/kernels/pixel.cuh",
        "      if (first + i < left)\n",
        "",
    ),
    Defect(
        "channels_last: channels beyond the last get codes",
        "cuda/kernels/pixel.cuh",
        "if (i < left) store(to + i, Code(channel(i)));",
        "store(to + i, Code(channel(i)));",
    ),
    Defect(
        "channels_last: wide accesses to misaligned tensors",
        "cuda/launch/nhwc.cuh",
        "c.wide_y = whole && is_aligned(y, bytes);",
        "c.wide_y = whole;",
    ),
    Defect(
        "contiguous: where a map begins is counted in 32 bits",
        "cuda/kernels/forward_nchw.cuh",
        "x_(static_cast<const T*>(c.in) + lane_.plane * c.h * c.w",
        "x_(static_cast<const T*>(c.in) + unsigned(lane_.plane * c.h * c.w)",
    ),
    Defect(
        "channels_last: where an image of codes begins is counted in 32 bits",
        "cuda/kernels/forward_nhwc.cuh",
        "pixel_.image * c.code_bytes_per_image) +",
        "int(pixel_.image * c.code_bytes_per_image)) +",
    ),
    Defect(
        "channels_last: NaNs are not looked at again",
        "cuda/kernels/forward_nhwc.cuh",
        "if (has_nan(out)) choose_again(2 * step + kFirst, code);",
        "",
    ),
]

# Changes that no result may depend on, for what small tensors never reach.
HARMLESS = [
    Defect(
        f"{layout}: units are counted in 64 bits",
        file,
        "if (c.units <= 0x7fffffff)",
        "if (c.units < 0)",
    )
    for layout, file in (
        ("contiguous", "cuda/kernels/lane.cuh"),
        ("channels_last", "cuda/kernels/pixel.cuh"),
    )
]
