"""``python -m tests.aarch64``: the CPU kernels for 64-bit Arm, compiled and run by an emulator.

Exit status 1 if a result is wrong, 77 if the cross compiler or the emulator is missing.
"""

# ruff: noqa: T201

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser

import torch

from testing import records

from . import counts
from .build import COMPILER, EMULATOR, build, version, why_not
from .program import Program
from .run import LIKE, TARGETS, figures

NOT_CHECKED = 77


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m tests.aarch64", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="compile with less optimisation")
    parser.add_argument("--record", action="store_true", help="write tests/records/aarch64.json")
    options = parser.parse_args(arguments)
    reason = why_not()
    if reason is not None:
        print(f"NOT CHECKED, kernels for aarch64: {reason}.")
        return NOT_CHECKED
    torch.set_num_threads(1)
    driver = build(options.quick)
    record: dict[str, object] = {
        "emulator": version(str(EMULATOR)),
        "compiler": version(COMPILER),
    }
    calls, wrong, start = 0, [], time.monotonic()
    with Program(driver) as program:
        assert program.targets == list(TARGETS), program.targets
        for target, dtype, found in figures(program):
            calls += found.calls
            wrong += found.wrong
            name = f"{target} {str(dtype).removeprefix('torch.')}"
            share = found.same_bits / found.elements if found.elements else float("nan")
            record[f"{name}, bits of x86-64 {LIKE[target]}"] = share
            print(
                f"{name}: {found.calls} calls, {len(found.wrong)} wrong; {share:.4%} of the "
                f"elements of y and dx have the bits of x86-64 {LIKE[target]}, others differ by "
                f"{found.furthest:.1e} of the largest"
            )
    record |= {"calls": calls, "wrong": len(wrong), "seconds": round(time.monotonic() - start)}
    if not_counted := counts.why_not():
        print(f"NOT CHECKED, instruction counts for aarch64: {not_counted}.")
    for name, instructions in ({} if not_counted else counts.count(driver)).items():
        record[f"{name}, instructions"] = instructions
        print(f"{name}: {instructions:,} instructions")
    for text in wrong[:20]:
        print(f"WRONG: {text}")
    if options.record:
        print(records.write("aarch64", "python -m tests.aarch64 --record", record))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
