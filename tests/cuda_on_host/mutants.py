"""Seeded defects: proof that the checks find what they are meant to find.

Each is one change to a copy of csrc/, which must then fail one of the checks::

    python -m tests.cuda_on_host.mutants [part of a name]

prints which check found which defect.
"""

# ruff: noqa: T201

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from testing.cases import Case, fill, short, zhang
from testing.judge import judge_with_gradient, scale

from ..kernels import test_values
from ..kernels.test_values import gradient_for
from . import HostCuda, HostCudaError, Job, Options
from .build import CSRC
from .defects import DEFECTS, Defect
from .far import check_far
from .target import ROUNDING, HostTarget

# Everything that is decided by size: odd and even, one group of columns and several, the max's
# padding, ReLU; and for the generic kernels borders, strides and filters.
CASES = [
    zhang(2, 4, shape=(2, 3, 9, 18)),
    zhang(2, 4, relu=True, shape=(1, 3, 8, 16)),
    zhang(3, 3, pad=(1, 1), shape=(1, 2, 10, 17)),
    zhang(3, 3, pad=(1, 1), relu=True, shape=(1, 16, 7, 8)),
    zhang(3, 3, pad=(1, 1), shape=(2, 8, 24, 12), mode="zeros"),
    zhang(1, 3, shape=(2, 8, 13, 35)),
    short(2, 0, 4, 1),
    zhang(2, 4, shape=(1, 16, 64, 16)),
    zhang(3, 3, pad=(1, 1), shape=(1, 16, 64, 16)),
    *(Case((3, 2), mode=mode, blur_pad=(3, 0, 5, 1)) for mode in ("reflect", "circular")),
    Case((2, 3), (1, 2), (1, 1), mode="replicate", relu=True, shape=(2, 3, 9, 11)),
]
TOO_DEEP = 40  # lines of a message


@dataclass(frozen=True)
class Finding:
    check: str
    message: str


@contextmanager
def sources_with(defect: Defect) -> Iterator[Path]:
    """A copy of csrc/ that has the defect."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "csrc"
        shutil.copytree(CSRC, copy, ignore=shutil.ignore_patterns("cpu"))
        file = copy / defect.file
        text = file.read_text()
        if text.count(defect.old) != 1:
            found = text.count(defect.old)
            raise ValueError(f"{defect.name}: {defect.old!r} is {found} times in {defect.file}")
        file.write_text(text.replace(defect.old, defect.new))
        yield copy


def check_values(csrc: Path, defect: Defect) -> None:
    """Against the judge, in every way; and what the runner itself finds while it runs."""
    host = HostCuda(csrc=csrc, defines=defect.defines)
    for channels_last in (False, True):
        target = HostTarget(host, channels_last)
        for case in CASES:
            test_values.test_case(target, case, channels_last)  # type: ignore[arg-type]
            x, dy = fill(case.shape, "normal", torch.float16), gradient_for(case, torch.float16)
            want = judge_with_gradient(x.double(), dy.double(), *case.chain())
            got = test_values.run(target, case, x, dy)  # type: ignore[arg-type]
            for ours, theirs, source in zip(got, want, (x, dy), strict=True):
                size = max(scale(source, case.taps_h, case.taps_w), 1.0)
                torch.testing.assert_close(
                    ours.double(), theirs, rtol=0, atol=ROUNDING[torch.float16] * size
                )
        test_values.test_sixteen_bits_round_to_nearest_even(
            target,  # type: ignore[arg-type]
            channels_last,
            torch.float16,
        )


def check_offsets(csrc: Path, defect: Defect) -> None:
    host = HostCuda(csrc=csrc, defines=defect.defines)
    for channels_last in (False, True):
        check_far(host, zhang(2, 4), torch.float32, channels_last)


def run_all(variant: str, csrc: Path, defect: Defect, way: Options) -> None:
    host = HostCuda(variant, csrc=csrc, defines=defect.defines)
    for case in CASES:
        for dtype in (torch.float32, torch.float16):
            x, dy = fill(case.shape, "nan", dtype), gradient_for(case, dtype)
            for channels_last in (False, True):
                job = Job("all", case.geometry(), case.shape, dtype, channels_last, x, dy)
                for offset in (0, 1):
                    (result,) = host.run([replace(job, options=replace(way, offset=offset))])
                    for operator, report in result.reports.items():
                        missing = report["unwritten"]
                        assert not any(missing.get(name) for name in ("y", "dx")), operator


# In the order in which they are tried.
CHECKS: dict[str, Callable[[Path, Defect], None]] = {
    "values": check_values,
    "far": check_offsets,
    "trace": lambda csrc, defect: run_all(
        "plain", csrc, defect, Options(trace=True, multiprocessors=1)
    ),
    "asan": lambda csrc, defect: run_all("asan", csrc, defect, Options()),
    "tsan": lambda csrc, defect: run_all("tsan", csrc, defect, Options()),
}


def find(defect: Defect, checks: Sequence[str] = tuple(CHECKS)) -> Finding | None:
    """The first check that finds it, and what that said."""
    with sources_with(defect) as csrc:
        for name in checks:
            try:
                CHECKS[name](csrc, defect)
            except HostCudaError as error:
                lines = [line for line in str(error).splitlines()[1:TOO_DEEP] if line.strip("= ")]
                return Finding(
                    name if name != "values" else "runner", lines[0] if lines else str(error)
                )
            except AssertionError as error:
                where = traceback.extract_tb(error.__traceback__)[-1].line
                return Finding(name, (str(error) or str(where)).strip().splitlines()[0])
    return None


def main() -> None:
    torch.set_num_threads(1)
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = 0
    for defect in DEFECTS:
        if part not in defect.name:
            continue
        start = time.monotonic()
        found = find(defect)
        seconds = time.monotonic() - start
        missed += found is None
        check, message = (found.check, found.message) if found else ("MISSED", "")
        print(f"{defect.name:<52} {check:<8} {seconds:5.1f} s  {message[:110]}", flush=True)
    raise SystemExit(missed > 0)


if __name__ == "__main__":
    main()
