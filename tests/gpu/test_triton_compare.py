"""The inline assembly of fastblur/_backends/triton/compare.py against the tie rule, without a GPU.

The few instructions that it consists of are carried out in NumPy, as the PTX ISA describes them
("max", "min", "set", "setp", "selp"). That the assembler takes them is in test_triton_budgets.py.
"""

from __future__ import annotations

import operator
import re
from typing import Any

import numpy as np
import pytest

tl = pytest.importorskip("triton.language")
from fastblur._backends.triton import compare  # noqa: E402

VALUES = np.array([-np.inf, -2, -1e-7, -0.0, 0.0, 1e-7, 1, 3, np.inf, np.nan], np.float32)
COMPARE = {"gt": operator.gt, "le": operator.le}


def to_bits(values: Any, kind: str) -> Any:
    if kind == "f32":
        return np.asarray(values, np.float32).view(np.uint32)
    if kind == "f16":
        return np.asarray(values, np.float16).view(np.uint16).astype(np.uint32)
    return np.asarray(values, np.float32).view(np.uint32) >> 16


def to_values(bits: Any, kind: str) -> Any:
    bits = np.asarray(bits, np.uint32)
    if kind == "f32":
        return bits.view(np.float32)
    if kind == "f16":
        return bits.astype(np.uint16).view(np.float16).astype(np.float32)
    return (bits << 16).view(np.float32)


def run(asm: str, **registers: Any) -> dict[str, Any]:
    """Carries out assembly on arrays of 32-bit registers, whose names are $0 and so on."""
    found: dict[str, Any] = {"$" + name[1:]: np.asarray(v) for name, v in registers.items()}

    def read(name: str) -> Any:
        name = name.strip()
        return np.uint32(int(name) % 2**32) if re.match(r"-?\d", name) else found[name]

    for line in asm.strip().strip("{}").split(";"):
        line = line.strip()
        if not line or line.startswith(".reg"):
            continue
        guard, opcode, rest = re.fullmatch(r"(?:@(\w+) )?(\S+) (.*)", line, re.S).groups()  # type: ignore[union-attr]
        to, *names = (part.strip() for part in rest.split(","))
        values = [read(name) for name in names]
        name, *how = opcode.split(".")
        kind = how[-1]
        if kind.endswith("x2"):
            halves = [
                step(name, how[:-1], [(v >> shift) & 0xFFFF for v in values], kind[:-2])
                for shift in (0, 16)
            ]
            result = halves[0] | (halves[1] << 16)
        else:
            result = step(name, how[:-1], values, kind)
        found[to] = result if guard is None else np.where(found[guard], result, found[to])
    return found


def step(name: str, how: list[str], values: list[Any], kind: str) -> Any:
    if name == "mov":
        return values[0]
    if name in ("and", "or"):
        return getattr(operator, f"{name}_")(*values)
    if name == "selp":
        return np.where(values[2], values[0], values[1])
    a, b = (to_values(v, kind) for v in values[:2])
    nan = np.isnan(a) | np.isnan(b)
    if name in ("min", "max"):
        ignoring = np.fmin(a, b) if name == "min" else np.fmax(a, b)
        return to_bits(np.where(nan, np.nan, ignoring) if how == ["NaN"] else ignoring, kind)
    compare, *combine = how
    if compare == "nan":
        result = nan
    elif compare.endswith("u"):  # true if unordered
        result = COMPARE[compare[:-1]](a, b) | nan
    else:
        result = COMPARE[compare](a, b) & ~nan
    if name == "set":
        assert combine == ["u32"]
        return np.where(result, np.uint32(0xFFFF), np.uint32(0))
    assert name == "setp"
    return result | values[2] if combine == ["or"] else result


def known(constant: Any) -> Any:
    """What a constexpr function returned."""
    return getattr(constant, "value", constant)


def every_pair(kind: str) -> tuple[Any, Any]:
    best, later = np.meshgrid(VALUES, VALUES)
    return to_bits(best.ravel(), kind), to_bits(later.ravel(), kind)


def rule(best: Any, later: Any, kind: str) -> tuple[Any, Any]:
    x, y = to_values(best, kind), to_values(later, kind)
    took = (y > x) | np.isnan(y)
    value = np.where(took, y, x)
    return np.where(np.isnan(x), np.nan, value), took


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_take(kind: str) -> None:
    best, later = every_pair(kind)
    want, took = rule(best, later, kind)
    code = np.full(best.shape, 5, np.uint32)
    if kind == "f32":
        found = run(known(compare.take_float(8)), r2=best, r3=later, r4=code)
        value = np.where(np.isnan(want), np.nan, to_values(found["$0"], kind))
        np.testing.assert_array_equal(value, want)
        np.testing.assert_array_equal(found["$1"], np.where(took, 13, 5))
        return
    T = tl.float16 if kind == "f16" else tl.bfloat16
    other = np.random.default_rng(0).permutation(best.size)  # for the upper halves
    found = run(
        known(compare.take_pair(known(compare.each(8, T)), T)),
        r2=best | (best[other] << 16),
        r3=later | (later[other] << 16),
        r4=code * 0x10001,
    )
    for shift, order in ((0, slice(None)), (16, other)):
        half = to_values((found["$0"] >> shift) & 0xFFFF, kind)
        np.testing.assert_array_equal(half, want[order])
        np.testing.assert_array_equal((found["$1"] >> shift) & 0xFFFF, np.where(took[order], 13, 5))
