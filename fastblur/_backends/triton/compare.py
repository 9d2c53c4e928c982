"""Elements as the sweeping kernel compares them: a word is a float32, or two 16-bit neighbours.

T is tl.float32, or the 16-bit type of which an int32 holds two, of neighbouring channels. What is
said of one number below is then done to both, and the bits of each's code lie in its own half.

PTX tells that inline assembly may be used: NVIDIA's GPUs have instructions for two 16-bit numbers
at once, and set bits under a condition, and nothing in Triton's language leads there. Elsewhere,
and in the interpreter, the same is computed in plain Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .generic import takes_over


@triton.constexpr_function
def signed(bits):
    """The int32 of 32 bits."""
    return bits - 2**32 if bits >= 2**31 else bits


@triton.constexpr_function
def each(bits, T):
    """Bits of a code, for all numbers of a word; an int32."""
    return signed(bits if T == tl.float32 else bits * 0x10001)


@triton.constexpr_function
def _pair(T):
    return "f16x2" if T == tl.float16 else "bf16x2"


@triton.constexpr_function
def take_float(bits):
    """Of registers best, later, code ($2 to $4): value, code."""
    return f"""{{
        .reg .pred nan, taken;
        setp.nan.f32 nan, $3, $3;
        setp.gt.or.f32 taken, $3, $2, nan;
        selp.f32 $0, $3, $2, taken;
        mov.b32 $1, $4;
        @taken or.b32 $1, $1, {bits};
    }}"""


@triton.constexpr_function
def take_pair(bits, T):
    """The same for two numbers of each."""
    # The exact rule in one comparison, greater or unordered: that the later one is NaN makes it
    # true, and that the best one is must not. So in place of NaN the best is infinity, which
    # nothing but a NaN takes over from.
    infinity = 0x7C007C00 if T == tl.float16 else 0x7F807F80
    return f"""{{
        .reg .b32 number, taken;
        mov.b32 number, {infinity};
        min.{_pair(T)} number, $2, number;
        set.gtu.u32.{_pair(T)} taken, $3, number;
        and.b32 taken, taken, {bits};
        or.b32 $1, $4, taken;
        max.NaN.{_pair(T)} $0, $2, $3;
    }}"""


@triton.jit
def unpack(word, T: tl.constexpr):
    """The numbers of a word, as float32."""
    if T == tl.float32:
        numbers = (word,)
    elif T == tl.bfloat16:  # the upper half of a float32
        numbers = (
            (word << 16).to(tl.float32, bitcast=True),
            (word & -65536).to(tl.float32, bitcast=True),
        )
    else:
        numbers = (
            word.to(tl.int16).to(T, bitcast=True).to(tl.float32),
            (word >> 16).to(tl.int16).to(T, bitcast=True).to(tl.float32),
        )
    return numbers


@triton.jit
def pack(low, high, T: tl.constexpr, PTX: tl.constexpr):
    """A word of two numbers, each rounded once."""
    if PTX:
        word = tl.inline_asm_elementwise(
            "cvt.rn." + _pair(T) + ".f32 $0, $2, $1;", "=r,f,f", [low, high], tl.int32, True, 1
        )
    else:
        lower = low.to(T).to(tl.uint16, bitcast=True).to(tl.int32)
        upper = high.to(T).to(tl.uint16, bitcast=True).to(tl.int32)
        word = lower | (upper << 16)
    return word


@triton.jit
def larger(best, later, T: tl.constexpr, PTX: tl.constexpr):
    """The larger of the two, or NaN."""
    if T == tl.float32:
        value = tl.maximum(best, later, propagate_nan=tl.PropagateNan.ALL)
    elif PTX:
        value = tl.inline_asm_elementwise(
            "max.NaN." + _pair(T) + " $0, $1, $2;", "=r,r,r", [best, later], tl.int32, True, 1
        )
    else:
        value, _ = take(best, later, best, 0, T, False)
    return value


@triton.jit
def take(best, later, code, BITS: tl.constexpr, T: tl.constexpr, PTX: tl.constexpr):
    """The winner by the tie rule, and `code` with BITS set if that is the later one."""
    if T == tl.float32:
        if PTX:
            value, code = tl.inline_asm_elementwise(
                take_float(BITS), "=f,=r,f,f,r", [best, later, code], (tl.float32, tl.int32),
                True, 1,
            )  # fmt: skip
        else:
            took = takes_over(best, later)
            value = tl.where(took, later, best)
            code = code | tl.where(took, BITS, 0)
    elif PTX:
        value, code = tl.inline_asm_elementwise(
            take_pair(each(BITS, T), T), "=r,=r,r,r,r", [best, later, code],
            (tl.int32, tl.int32), True, 1,
        )  # fmt: skip
    else:
        best_low, best_high = unpack(best, T)
        later_low, later_high = unpack(later, T)
        low = takes_over(best_low, later_low)
        high = takes_over(best_high, later_high)
        value = (tl.where(low, later, best) & 0xFFFF) | (tl.where(high, later, best) & -65536)
        code = code | tl.where(low, BITS, 0) | tl.where(high, signed(BITS << 16), 0)
    return value, code


@triton.jit
def rectify(value, code, BITS: tl.constexpr, T: tl.constexpr, PTX: tl.constexpr):
    """ReLU of a value, and `code` with BITS set if it is held at zero."""
    if T == tl.float32:
        held = value <= 0
        value = tl.where(held, 0.0, value)
        code = code | tl.where(held, BITS, 0)
    else:
        if PTX:
            held = tl.inline_asm_elementwise(
                "set.le.u32." + _pair(T) + " $0, $1, $2;",
                "=r,r,r",
                [value, value ^ value],
                tl.int32,
                True,
                1,
            )
        else:
            low, high = unpack(value, T)
            held = tl.where(low <= 0, 0xFFFF, 0) | tl.where(high <= 0, -65536, 0)
        value = value & ~held
        code = code | (held & each(BITS, T))
    return value, code
