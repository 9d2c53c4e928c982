"""The runner itself, on small kernels: the right ones run, and every promised defect is found."""

from __future__ import annotations

import json
import math
import re
import subprocess
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .build import PROGRAMS, Build, command, environment, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


@cache
def executable(name: str, variant: str) -> Path:
    return Build(variant).executable(name, [PROGRAMS / f"{name}.cu"])


def run(
    variant: str, toy: str, order: str = "forward", *more: str
) -> subprocess.CompletedProcess[str]:
    arguments = command(variant, executable("toys", variant), toy, order, *more)
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=environment(), timeout=120
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("TSan does not run here: addresses are random, and setarch -R is not allowed")
    return done


def numbers(stdout: str) -> list[float]:
    return [float(word) for word in stdout.split("\n", 1)[0].split()]


X = [float(i % 37 - 18) for i in range(512)]


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("variant", ["plain", "asan", "tsan"])
def test_right_kernels_run(variant: str, order: str) -> None:
    done = run(variant, "sum", order)
    assert done.returncode == 0, done.stderr
    assert numbers(done.stdout)[:2] == [sum(X[:256]), sum(X[256:])]
    done = run(variant, "turn", order)
    assert done.returncode == 0, done.stderr
    assert numbers(done.stdout)[:32] == X[1:32] + X[:1]


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_shuffles_and_votes(order: str) -> None:
    """With the second warp gone, and a fourth one of 8 lanes."""
    done = run("plain", "early_warps", order)
    assert done.returncode == 0, done.stderr
    got = numbers(done.stdout)
    for begin, end in ((0, 32), (64, 96), (96, 104)):
        v = [X[i ^ 1] for i in range(begin, end)]
        votes = sum(value > 0 for value in v)
        for lane, value in enumerate(v):
            up = v[lane - 2] if lane % 8 >= 2 else value
            assert got[begin + lane] == value + votes + (votes > 0) + 1 + up
    assert all(map(math.isnan, got[32:64] + got[104:]))


@pytest.mark.parametrize(
    ("variant", "toy", "message"),
    [
        ("plain", "misaligned", "misaligned access: 16 bytes .*\n.*\n.*block 0,0,0 thread 1,0,0"),
        ("plain", "beyond_store", "a write to byte 2048 of y"),
        ("plain", "two_barriers", "divergence in a block: .*thread 128,0,0 waits"),
        ("plain", "fewer_rounds", "divergence in a block: thread 0,0,0 left .*thread 128,0,0 wait"),
        ("plain", "half_a_warp", "divergence in a warp: .*__syncthreads.*thread 16,0,0.*__shfl"),
        ("plain", "left_the_block", "divergence in a block: .*thread 64,0,0 left the kernel"),
        ("plain", "left_the_warp", "divergence in a warp: .*thread 31,0,0 left the kernel"),
        ("plain", "part_of_a_mask", "mask 0xffff is not full"),
        ("plain", "recursion", "no stack left"),
        ("asan", "recursion", "stack-overflow"),
        ("asan", "beyond", "use-after-poison"),
        ("asan", "beyond_store", "use-after-poison"),
        ("asan", "beyond_dynamic", "heap-buffer-overflow"),
        ("asan", "overflow", "signed integer overflow"),
        ("asan", "misaligned", "misaligned access"),
        ("tsan", "no_barrier", "data race"),
        ("tsan", "no_warp_barrier", "data race"),
    ],
)
def test_a_defect_is_found(variant: str, toy: str, message: str) -> None:
    for order in ("forward", "reverse"):
        done = run(variant, toy, order)
        assert done.returncode != 0, order
        if order == "forward":
            assert re.search(message, done.stderr), done.stderr


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("toy", "message"),
    [
        ("same_place", "write-write race"),
        ("others_result", "read-write race|is read before it is written"),
        ("write_to_input", "a write to x, an input"),
        ("beyond", "out of bounds: a read of 4 bytes"),
    ],
)
def test_tracing_finds(toy: str, message: str, order: str) -> None:
    done = run("plain", toy, order, "trace")
    assert done.returncode == 3
    assert re.search(message, done.stderr), done.stderr


def test_a_missing_barrier_shows_without_a_sanitizer() -> None:
    """In one order or the other the sums are incomplete: shared memory begins as NaNs."""
    want = [sum(X[:256]), sum(X[256:])]
    assert any(
        numbers(run("plain", "no_barrier", order).stdout)[:2] != want
        for order in ("forward", "reverse")
    )


@pytest.mark.parametrize("toy", ["poison", "poison_dynamic"])
def test_shared_memory_begins_as_nans_in_every_block(toy: str) -> None:
    done = run("plain", toy)
    assert done.returncode == 0, done.stderr
    assert all(map(math.isnan, numbers(done.stdout)[:32]))


def test_launches_that_cuda_refuses() -> None:
    assert run("plain", "bad_launches").returncode == 0


def test_what_is_counted() -> None:
    done = run("plain", "half_full", "forward", "trace")
    report = json.loads(done.stdout.split("\n", 1)[1])
    (launch,) = report["launches"]
    assert launch["loads"]["4"] == launch["stores"]["4"] == 100
    assert sum(launch["loads"].values()) == 100
    read, written = launch["traffic"]
    assert (read["tensor"], read["write"]) == ("x", False)
    assert (written["tensor"], written["write"]) == ("y", True)
    # 400 bytes of 2048.
    assert read["sectors"] == {"launch": 13, "blocks": 13}
    assert read["lines"] == {"launch": 4, "blocks": 4}
    assert report["unwritten"] == {"y": 2048 - 400}
    # Two blocks write to one sector.
    report = json.loads(run("plain", "sum", "reverse", "trace").stdout.split("\n", 1)[1])
    assert report["launches"][0]["traffic"][1]["sectors"] == {"launch": 1, "blocks": 2}


FUNCTIONS = (
    *("max_nan", "min_nan", "max", "min", "add", "sub", "mul", "fma"),
    *("eq", "ne", "neu", "gt", "gtu", "ge", "lt", "isnan"),
    *("low", "high", "one_to_float", "two_from_floats", "one_from_float"),
)


def special_triples(dtype: torch.dtype) -> Tensor:
    """Random bits, all pairs of special values, and numbers of like size, for sums that cancel."""
    positive = [0.0, 1.0, math.inf, math.nan, 6e-8, 6.1e-5, 65504.0, 1e-40, 3e38, 1.5, 2049.0, 0.1]
    specials = torch.tensor(positive, dtype=torch.float64).to(dtype)
    specials = torch.cat([specials, -specials])
    nans = torch.tensor([0x7FFF, -1, 0x7FC1, -64], dtype=torch.int16)
    specials = torch.cat([specials.view(torch.int16), nans])
    pairs = torch.cartesian_prod(specials, specials, specials)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-(1 << 15), 1 << 15, (200_000, 3), generator=generator)
    near = torch.randn(100_000, 3, generator=generator).to(dtype).view(torch.int16)
    return torch.cat([pairs, noise.to(torch.int16), near])


def rounded(value: Fraction, dtype: torch.dtype) -> float:
    """To nearest, ties to even, in one step."""
    digits, lowest = (11, -24) if dtype == torch.float16 else (8, -133)
    if value == 0:
        return 0.0
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - digits + 1, lowest)
    result = float(round(value / unit) * unit)
    return math.copysign(math.inf, result) if abs(result) > torch.finfo(dtype).max else result


def check(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Bit by bit, but for which NaN it is."""
    bits = {2: torch.int16, 4: torch.int32}[ours.element_size()]
    equal = ours.contiguous().view(bits) == theirs.contiguous().view(bits)
    wrong = ~(equal | (ours.isnan() & theirs.isnan()))
    assert not wrong.any(), f"{name}: {wrong.nonzero()[0]} of {wrong.sum()}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_sixteen_bit_functions_are_those_of_torch(dtype: torch.dtype) -> None:
    triples = special_triples(dtype)
    done = subprocess.run(
        [str(executable("halves", "plain")), str(dtype).removeprefix("torch.")],
        input=triples.numpy().tobytes(),
        capture_output=True,
        check=True,
    )
    out = torch.frombuffer(bytearray(done.stdout), dtype=torch.int32).view(-1, len(FUNCTIONS))
    got = dict(zip(FUNCTIONS, out.T, strict=True))
    p, q, c = triples.view(dtype).T
    a, b = torch.stack([p, q], 1), torch.stack([q, p], 1)

    def two(name: str) -> Tensor:
        return got[name].contiguous().view(dtype).view(-1, 2)

    either, both = a.isnan() | b.isnan(), a.isnan() & b.isnan()
    # The larger of two zeros is +0, the smaller -0. (torch.fmax makes signalling NaNs win.)
    largest = torch.where((a > b) | b.isnan() | ((a == b) & b.signbit()), a, b)
    least = torch.where((a < b) | b.isnan() | ((a == b) & a.signbit()), a, b)
    nan = torch.full_like(a, torch.nan)
    check("max_nan", two("max_nan"), torch.where(either, nan, largest))
    check("min_nan", two("min_nan"), torch.where(either, nan, least))
    check("max", two("max"), torch.where(both, nan, largest))
    check("min", two("min"), torch.where(both, nan, least))
    check("add", two("add"), a + b)
    check("sub", two("sub"), a - b)
    check("mul", two("mul"), a * b)
    masks = {
        "eq": a == b,
        "ne": (a != b) & ~either,
        "neu": (a != b) | either,
        "gt": a > b,
        "gtu": (a > b) | either,
        "ge": a >= b,
        "lt": a < b,
    }
    for name, want in masks.items():
        ours = got[name].contiguous().view(torch.int16).view(-1, 2)
        assert torch.equal(ours, -want.to(torch.int16)), name
    assert torch.equal(two("isnan"), a.isnan().to(dtype))

    def floats(name: str) -> Tensor:
        return got[name].contiguous().view(torch.float32)

    check("low", floats("low"), p.float())
    check("high", floats("high"), q.float())
    check("one_to_float", floats("one_to_float"), p.float())
    wide = (triples[:, 0].int() << 16 | triples[:, 1].int() & 0xFFFF).view(torch.float32)
    check("two", two("two_from_floats"), torch.stack([wide, -wide], 1).to(dtype))
    check("one", two("one_from_float")[:, 0], wide.to(dtype))

    finite = torch.isfinite(p) & torch.isfinite(q) & torch.isfinite(c)
    ours = two("fma")[:, 0]
    product = p.double() * q.double()
    check("fma", ours[~finite], (product + c.double())[~finite].to(dtype))
    for i in finite.nonzero()[::20].flatten().tolist():
        exact = Fraction(p[i].item()) * Fraction(q[i].item()) + Fraction(c[i].item())
        assert ours[i].item() == rounded(exact, dtype), (p[i], q[i], c[i])
