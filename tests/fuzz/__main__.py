"""Runs the fuzzer until it has made so many runs, in parts, and goes on where it was left.

``python -m tests.fuzz --runs 10000000`` makes ten million runs of the CPU's core, ``--cuda`` those
of CUDA's kernels on the host. ``python -m tests.fuzz FILE...`` runs inputs again.

Exit status 1: something was found; the input is kept, and the case is printed in words. Exit status
77: the fuzzer cannot be built here.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import runs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000_000, help="in all, with earlier ones")
    parser.add_argument("--minutes", type=float, default=1e9, help="of runs, without the build")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--quick", action="store_true", help="few specialised kernels, unoptimised")
    parser.add_argument("--cuda", action="store_true", help="CUDA's kernels, on the host")
    parser.add_argument("--installed", action="store_true", help="the extension's own objects")
    parser.add_argument("--part", type=int, default=50_000, help="runs of a process")
    parser.add_argument("--record", action="store_true", help="write tests/records/fuzz.json")
    parser.add_argument("inputs", nargs="*", type=Path, help="run these instead")
    options = parser.parse_args()
    if options.record:
        print(f"wrote {runs.record()}")
        return 0
    chosen = [name for name in ("quick", "installed", "cuda") if getattr(options, name)]
    kind = chosen[0] if chosen else "full"
    reason = runs.why_not(kind)
    if reason is not None:
        print(f"NOT CHECKED: {reason}")
        return 77
    campaign = runs.Campaign(kind)
    print(f"{campaign.kind}: built in {campaign.build_seconds:.0f} s", flush=True)
    if options.inputs:
        found = campaign.run_again(options.inputs)
    else:
        found = campaign.run_again(runs.write_cases())
        deadline = time.monotonic() + 60 * options.minutes
        while found is None and campaign.total < options.runs and time.monotonic() < deadline:
            left = min(60 * options.minutes, deadline - time.monotonic())
            found = campaign.run_part(options.part, options.jobs, left)
            print(campaign.line(), flush=True)
    if found is None:
        return 0
    print(f"FOUND: {found.text}\ninput kept: {found.file}\nhex: {found.file.read_bytes().hex()}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
