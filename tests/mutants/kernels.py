"""The CPU kernels of a tree, one target and one type at a time, against the judge.

driver.cpp has one translation unit for that, which compiles in seconds: without optimisation, and
for one pool and one element type.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from testing.cases import CASES, Case, in_format

from ..kernels.drivers import (
    KINDS,
    MORE,
    Results,
    Rooms,
    both_cuts,
    check_all,
    expected,
    rounds_to_even,
    sizes_of,
)
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


def cases_of(pool: int | None) -> list[Case]:
    if pool is not None:
        return [case for case in [*CASES, *MORE] if case.pool == (pool, pool)]
    return [*CASES[::2], *MORE[::3]]


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
    driver = Library(library)
    if dtype.itemsize == 2 and not rounds_to_even(driver, dtype):
        return "means of neighbours are not rounded to nearest, ties to even"
    for case in cases_of(pool):
        for kind in KINDS:
            x, dy, want = expected(case, kind, dtype)
            try:
                for channels_last in (False, True):
                    for results in both_cuts(driver, case, x, dy, channels_last):
                        check_all(results, want)
            except AssertionError as error:
                return f"{case}, {kind}: {str(error).strip().splitlines()[0]}"
    return None


class Library:
    """The kernels of driver.cpp, in this process."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.code_bytes.restype = ctypes.c_int64

    def __call__(
        self, case: Case, x: Tensor, dy: Tensor, channels_last: bool, shares: int
    ) -> Results:
        sizes = sizes_of(case, channels_last)
        arguments = (
            (ctypes.c_int64 * len(sizes))(*sizes),
            (ctypes.c_double * 62)(*case.taps_h, *case.taps_w),
            case.mode.encode(),
        )
        rooms = Rooms(x, dy, self.library.code_bytes(*arguments) * case.shape[0], channels_last)
        inputs = [in_format(t, channels_last) for t in (x, dy)]
        tensors = inputs + [room.result for room in rooms.values()]
        addresses = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        self.library.run(*arguments, ctypes.c_int64(shares), *addresses)
        return rooms.results()
