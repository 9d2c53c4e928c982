"""``python -m tests.fuzz.defects [part of a name]``: how many runs find each seeded defect.

The quick build with a defect in it runs from nothing: no corpus, no committed case. Exit status 1
if a defect is not found within LIMIT runs.
"""

# ruff: noqa: T201

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from tests.mutants.cpu import MUTANTS

from . import build, runs

LIMIT = 100_000
SEED = 1


class Defect(NamedTuple):
    """What is wrong, in words, and the change of csrc/ that makes it so."""

    name: str
    change: build.Change


def of(name: str, file: str, old: str, new: str) -> Defect:
    return Defect(name, (file, old, new))


def seeded(name: str, old: str) -> Defect:
    """A defect of tests/mutants/cpu.py, by the text that it replaces."""
    (mutant,) = [m for m in MUTANTS if m.old.startswith(old)]
    return Defect(name, (mutant.file.removeprefix("csrc/"), mutant.old, mutant.new))


DEFECTS = [
    of(
        "reads one row of x too many",
        "cpu/kernels/forward_rows.h",
        "const int64_t last_row = min(h.size, tile.last - h.pad + h.pool - 1);",
        "const int64_t last_row = min(h.size + 1, tile.last - h.pad + h.pool - 1);",
    ),
    of(
        "reads beyond the codes of the last row",
        "cpu/kernels/backward_fused_nhwc.h",
        "if (end_of_codes_ - row < bytes + 16)",
        "if (end_of_codes_ - row < bytes)",
    ),
    of(
        "writes a whole vector at the end of a row (AVX-512)",
        "cpu/simd/avx512.h",
        "void store_n(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }",
        "void store_n(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n + 1), v); }",
    ),
    seeded("lanes that do not exist are read", "if (lanes >> i & 1) r.v[i] = S(p[i])"),
    seeded("of NaNs none wins (generic)", "(candidate.v > best.v) | (candidate.v != candidate.v)"),
    of(
        "of equal values the last wins (AVX-512)",
        "cpu/simd/avx512.h",
        "return _mm512_cmp_ps_mask(candidate.v, best.v, _CMP_GT_OQ);",
        "return _mm512_cmp_ps_mask(candidate.v, best.v, _CMP_GE_OQ);",
    ),
    seeded("the tail of a row is not summed", "for (; i + L <= n; i += L) at(i"),
    seeded("the padding after a row is missing", "for (int64_t v = -w.before; v < 0; ++v) add(v);"),
    seeded("a band starts without the carry", "before_.store(carry_ + (K - 1) * b_.carry_row)"),
    seeded("codes keep bits behind a row", "const uint64_t rest = from[w] & mask"),
    seeded("the share of a thread ends with the plane", "start + rows_per_plane < end"),
    seeded("bfloat16 is cut off, not rounded", "(word + 0x7fff + (word >> 16 & 1)) >> 16"),
    seeded("ReLU's winners are routed (fused)", "if (relu) of_row_[2] = V::if_then_else(second"),
    of(
        "an index of Plan is not checked",
        "plan.cpp",
        "border != Border::circular || widest <= m",
        "border != Border::circular || widest <= m + 1",
    ),
]


def runs_until_found(defect: Defect) -> tuple[int, str] | None:
    """The number of runs and what is reported, or None."""
    program = build.fuzzer(build.QUICK, [defect.change])
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*runs.LIBFUZZER[:-1], f"-artifact_prefix={folder}/", "-print_final_stats=1"]
        done = subprocess.run(
            [str(program), f"-runs={LIMIT}", f"-seed={SEED}", *arguments],
            capture_output=True,
            env={**os.environ, "ASAN_OPTIONS": runs.ASAN},
            check=False,
        )
    program.unlink()
    log = done.stderr.decode(errors="replace")
    made = re.search(r"number_of_executed_units: (\d+)", log)
    if done.returncode == 0 or made is None:
        return None
    return int(made[1]), runs.words_of(log).splitlines()[0]


def main() -> int:
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = 0
    for defect in DEFECTS:
        if part not in defect.name:
            continue
        start = time.monotonic()
        found = runs_until_found(defect)
        missed += found is None
        said = f"found after {found[0]} runs: {found[1]}" if found else "NOT FOUND"
        print(f"{defect.name}: {said} ({time.monotonic() - start:.0f} s)", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
