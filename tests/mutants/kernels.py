"""The CPU kernels of a tree, one target and one type at a time, against the judge.

driver.cpp has one translation unit for that, which compiles in seconds: without optimisation, and
for one pool and one element type.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from testing.cases import CASES, MODES, Case, fill, in_format, short, zhang
from testing.judge import Answer, answer
from testing.oracle import check

from .trials import in_child

KERNELS = "kernels "  # what the names of these tests begin with
AVX2 = "DRIVER_AVX2 DRIVER_VECTOR=Avx2"
# By name: what is defined, the element type and the pool that is known; None for any other pool.
VARIANTS: dict[str, tuple[str, torch.dtype, int | None]] = {
    "staged": ("DRIVER_VECTOR=Float", torch.float32, None),
    **{f"fused {k}": (f"{AVX2}F32", torch.float32, k) for k in (1, 2, 3)},
    "half": ("DRIVER_VECTOR=Float", torch.float16, None),
    "bfloat16": ("DRIVER_VECTOR=Float", torch.bfloat16, None),
    "avx2": (f"{AVX2}F32", torch.float32, 2),
    "avx2 half": (f"{AVX2}F32", torch.float16, None),
    "avx2 bfloat16": (f"{AVX2}F32", torch.bfloat16, None),
    "avx2 double": (f"{AVX2}F64", torch.float64, 2),
}
ELEMENTS = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
}
FLAGS = "-std=c++20 -O0 -g0 -DNDEBUG -fPIC -shared -fopenmp -Wno-psabi"
LAST = "nan in the last column"  # of x, where no window has it as its first candidate
TILE = "nan where a tile begins"  # which the tile before sees as a later candidate alone
KINDS = ("normal", "ties", "nan", "inf", LAST, TILE)
MARGIN = 256  # bytes beside each result that no kernel may touch

# What the case list does not have: rows that are cut into tiles, bands, and each ending of a row.
MORE = [
    *(zhang(k, 4, pad=(k // 3,) * 2, relu=relu, shape=(1, 1, 9, 1100))
      for k in (1, 2, 3) for relu in (False, True)),
    *(zhang(k, f, pad=(k // 3,) * 2, shape=(2, 40, 11, 30)) for k in (1, 2, 3) for f in (3, 4)),
    *(zhang(k, f, relu=True, pad=(k // 3,) * 2, shape=(1, 3, 70, 90))
      for k in (1, 2, 3) for f in (2, 5)),
    *(zhang(2, 3, mode=mode, shape=(1, 9, 12, 21)) for mode in MODES),
    *(short(k, k // 3, f, 0) for k in (1, 2, 3) for f in (4, 5)),
    *(zhang(k, 4, pad=(k // 3,) * 2, shape=(1, 77, 6, 5)) for k in (1, 2, 3)),
]  # fmt: skip


def cases_of(pool: int | None) -> list[Case]:
    if pool is not None:
        return [case for case in [*CASES, *MORE] if case.pool == (pool, pool)]
    return [*CASES[::2], *MORE[::3]]


@cache
def expected(case: Case, kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Answer]:
    x = fill(case.shape, "normal" if kind in (LAST, TILE) else kind, dtype)
    n, c, h, w = case.shape
    if kind == LAST:
        x[..., -1:] = torch.nan
    if kind == TILE and w > 512:
        x[..., 512] = torch.nan
    if kind == TILE and w * c > 512:  # of a row in channels_last
        x[:, 512 % c, :, 512 // c] = torch.nan
    dy = fill((n, c, *case.geometry().output_size(h, w)), "normal", dtype, seed=1)
    return x, dy, answer(x, dy, *case.chain())


def try_kernels(tree: Path, tests: Sequence[str]) -> str | None:
    """The first of the variants that is wrong, or None."""
    for test in tests:
        defines, dtype, pool = VARIANTS[test.removeprefix(KERNELS)]
        flags = [f"-D{d}" for d in [*defines.split(), f"DRIVER_ELEMENT={ELEMENTS[dtype]}"]]
        library = tree / "driver.so"
        command = [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS.split(), *flags]
        command += [f"-DDRIVER_POOL={pool or 0}", f"-I{tree / 'csrc'}"]
        command += [str(Path(__file__).with_name("driver.cpp")), "-o", str(library)]
        compiled = subprocess.run(command, capture_output=True, text=True)
        if compiled.returncode != 0:
            raise ValueError(f"it does not compile: {compiled.stderr[:6000]}")
        for case in cases_of(pool):  # here, so that no child works it out again
            for kind in KINDS:
                expected(case, kind, dtype)
        found = in_child(lambda args=(library, dtype, pool): wrong(*args))  # type: ignore[misc]
        if found is not None:
            return f"{test}: {found}"
    return None


def wrong(library: Path, dtype: torch.dtype, pool: int | None) -> str | None:
    """What the driver computes wrongly."""
    driver = ctypes.CDLL(str(library))
    driver.code_bytes.restype = ctypes.c_int64
    if dtype.itemsize == 2 and not rounds_to_even(driver, dtype):
        return "means of neighbours are not rounded to nearest, ties to even"
    for case in cases_of(pool):
        for kind in KINDS:
            x, dy, want = expected(case, kind, dtype)
            try:
                for channels_last in (False, True):
                    for name, ours in results_of(driver, case, x, dy, channels_last):
                        exact = (want.dx, want.dx_size) if name == "dx" else (want.y, want.y_size)
                        check(name, ours, *(t.numpy() for t in exact))
            except AssertionError as error:
                return f"{case}, {kind}: {str(error).strip().splitlines()[0]}"
    return None


def rounds_to_even(driver: ctypes.CDLL, dtype: torch.dtype) -> bool:
    """Whether means of two neighbours among all numbers are rounded as torch rounds them."""
    case = Case((1, 1), (1, 1), taps_h=(1.0,), taps_w=(0.5, 0.5), blur_pad=(0,) * 4)
    case = replace(case, shape=(1, 1, 256, 256))
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(case.shape)
    x = torch.where(x.isfinite(), x, 0)
    dy = torch.zeros(1, 1, 256, 255, dtype=dtype)
    want = (x[..., 1:].double() / 2 + x[..., :-1].double() / 2).float().to(dtype)
    return torch.equal(run(driver, case, x, dy, False, 1)["y"], want)


def results_of(
    driver: ctypes.CDLL, case: Case, x: Tensor, dy: Tensor, channels_last: bool
) -> Iterator[tuple[str, Tensor]]:
    """The results with the rows in one share and in five, after a check of the codes."""
    one, five = (run(driver, case, x, dy, channels_last, shares) for shares in (1, 5))
    codes = one.pop("codes")
    if not torch.equal(codes, five.pop("codes")):
        raise AssertionError("codes depend on how the rows are shared out")
    _, c, _, w = case.shape
    _, m_w = case.geometry().pooled_size(*case.shape[2:])
    length = max(w, m_w) * (c if channels_last else 1)
    behind = 0xFF & ~((1 << length % 8) - 1) if length % 8 else 0
    if (codes.view(-1, (length + 7) // 8)[:, -1] & behind).any():
        raise AssertionError("codes have bits behind the end of a row")
    yield from one.items()
    yield from five.items()


def run(
    driver: ctypes.CDLL, case: Case, x: Tensor, dy: Tensor, channels_last: bool, shares: int
) -> dict[str, Tensor]:
    pairs = (*case.pool, *case.stride, *case.pad, len(case.taps_h), len(case.taps_w))
    sizes = [*case.shape, int(channels_last), *pairs, *case.blur_pad, int(case.relu)]
    arguments = (
        (ctypes.c_int64 * len(sizes))(*sizes),
        (ctypes.c_double * 62)(*case.taps_h, *case.taps_w),
        case.mode.encode(),
    )
    count = driver.code_bytes(*arguments) * case.shape[0]
    likes = dict(y=dy, without=dy, applied=dy, codes=torch.empty(count, dtype=torch.uint8), dx=x)
    rooms = {name: Room(like, channels_last) for name, like in likes.items()}
    inputs = [in_format(t, channels_last) for t in (x, dy)]
    tensors = inputs + [room.result for room in rooms.values()]
    addresses = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
    driver.run(*arguments, ctypes.c_int64(shares), *addresses)
    for name, room in rooms.items():
        if not room.is_whole():
            raise AssertionError(f"{name} is written beyond its memory")
    return {name: room.result for name, room in rooms.items()}


class Room:
    """Memory for a result like a tensor, with margins that show who writes there."""

    def __init__(self, like: Tensor, channels_last: bool) -> None:
        self.bytes = torch.full((like.nbytes + 2 * MARGIN,), 0xA5, dtype=torch.uint8)
        inner = self.bytes[MARGIN : MARGIN + like.nbytes].view(like.dtype)
        self.result = inner.view(like.shape)
        if channels_last and like.dim() == 4:
            n, c, h, w = like.shape
            self.result = inner.view(n, h, w, c).permute(0, 3, 1, 2)

    def is_whole(self) -> bool:
        return bool((self.bytes[:MARGIN] == 0xA5).all() and (self.bytes[-MARGIN:] == 0xA5).all())
