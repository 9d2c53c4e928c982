"""The seeded defects of the quick build, each behind a condition that is false in every other run.

So one build serves the runs and the proof that they find defects. FUZZ_DEFECT is the number of the
one that is in force.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from . import build


class Defect(NamedTuple):
    """An expression or a statement of csrc/, and a wrong one in its place."""

    name: str
    file: str
    old: str
    new: str

    def change(self, number: int) -> build.Change:
        """The wrong one in its place if the defect of this number is asked for."""
        asked = f"::fuzz::defect == {number}"
        if self.old.endswith(";"):
            text = f"if ({asked}) {{ {self.new} }} else {{ {self.old} }}"
        else:
            text = f"({asked} ? ({self.new}) : ({self.old}))"
        return self.file, self.old, text


DEFECTS = [
    Defect(
        "a row of x too many is read",
        "cpu/kernels/forward_rows.h",
        "min(h.size, tile.last - h.pad + h.pool - 1)",
        "min(h.size + 1, tile.last - h.pad + h.pool - 1)",
    ),
    Defect(
        "bytes behind the last codes are read",
        "cpu/kernels/backward_fused_nhwc.h",
        "end_of_codes_ - row < bytes + 16",
        "end_of_codes_ - row < bytes",
    ),
    Defect(
        "AVX-512 writes one element behind a row",
        "cpu/simd/avx512.h",
        "_mm512_mask_storeu_ps(p, first(n), v)",
        "_mm512_mask_storeu_ps(p, first(n + 1), v)",
    ),
    Defect(
        "the generic target reads lanes that do not exist",
        "cpu/simd/generic.h",
        "lanes >> i & 1",
        "lanes >= 0",
    ),
    Defect(
        "the last vector of channels does not overlap",
        "cpu/kernels/backward_fused_nhwc.h",
        "min(k * L, channels_ - L)",
        "k * L",
    ),
    Defect(
        "no NaN wins on the generic target",
        "cpu/simd/generic.h",
        "(candidate.v > best.v) | (candidate.v != candidate.v)",
        "candidate.v > best.v",
    ),
    Defect(
        "of equal values the last wins on AVX-512",
        "cpu/simd/avx512.h",
        "return _mm512_cmp_ps_mask(candidate.v, best.v, _CMP_GT_OQ);",
        "return _mm512_cmp_ps_mask(candidate.v, best.v, _CMP_GE_OQ);",
    ),
    Defect(
        "the tail of a copied row is missing",
        "cpu/kernels/sweep.h",
        "V::load_masked(row + i, lanes_between<V>(0, n - i)).store_n(out + i, int(n - i));",
        "",
    ),
    Defect(
        "reflection is one off",
        "geometry.h",
        "2 * (size - 1) - q",
        "2 * size - 1 - q",
    ),
    Defect(
        "a band starts without a row of the carry",
        "cpu/kernels/forward_fused.h",
        "before_.store(carry_ + (K - 1) * b_.carry_row);",
        "",
    ),
    Defect(
        "codes have bits behind a row",
        "cpu/codes/bits.h",
        "from[w] & mask & first_bits(n)",
        "from[w] & mask",
    ),
    Defect(
        "a share of rows goes on in the next plane",
        "cpu/kernels/sweep.h",
        "start + rows_per_plane < end ? start + rows_per_plane : end",
        "end",
    ),
    Defect(
        "bfloat16 is cut off",
        "cpu/simd/float16.h",
        "(word + 0x7fff + (word >> 16 & 1)) >> 16",
        "word >> 16",
    ),
    Defect(
        "gradients of what ReLU made zero are routed",
        "cpu/stages/routing.h",
        "if (relu) of_row_[2] = V::if_then_else(second, zero, of_row_[2]);",
        "",
    ),
    Defect(
        "Plan takes a circular padding wider than the map",
        "plan.cpp",
        "border != Border::circular || widest <= m",
        "border != Border::circular || widest <= m + 1",
    ),
]


@cache
def program() -> Path:
    """The quick build."""
    flags = (*build.QUICK.flags, "-include", str(build.HERE / "kernels" / "defect.h"))
    changes = [defect.change(number) for number, defect in enumerate(DEFECTS)]
    return build.fuzzer(replace(build.QUICK, flags=flags), changes)
