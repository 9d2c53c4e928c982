"""``python -m tests.fuzz.defects [part of a name]``: how many runs find each seeded defect.

The runs begin with nothing: no corpus, no committed case. Exit status 1 if a defect is not found
within LIMIT runs.
"""

# ruff: noqa: T201

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time

from . import runs
from .seeded import DEFECTS, Defect, program

LIMIT = 100_000
SEED = 1


def runs_until_found(defect: Defect) -> tuple[int, str] | None:
    """The number of runs and what is reported, or None."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*runs.LIBFUZZER, f"-artifact_prefix={folder}/", "-print_final_stats=1"]
        done = subprocess.run(
            [str(program()), f"-runs={LIMIT}", f"-seed={SEED}", *arguments],
            capture_output=True,
            env={
                **os.environ,
                "ASAN_OPTIONS": runs.ASAN,
                "FUZZ_DEFECT": str(DEFECTS.index(defect)),
            },
            check=False,
        )
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
