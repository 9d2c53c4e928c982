"""``python -m tests.mutants [part of a name]``: exit status 1 if a defect survives or is outdated.

A defect counts as caught only by tests that pass without it, which is tried first.
"""

# ruff: noqa: T201

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import cpu, kernels, python_layer, trials
from .mutant import Mutant

MUTANTS: list[Mutant] = [*python_layer.MUTANTS, *cpu.MUTANTS]


def try_one(mutant: Mutant, tree: Path) -> str | None:
    """Which test catches it in the tree, which is whole again afterwards."""
    file = tree / mutant.file
    whole = file.read_text()
    file.write_text(mutant.text(tree))
    try:
        return try_all(tree, mutant.tests)
    finally:
        file.write_text(whole)


def try_all(tree: Path, tests: Sequence[str]) -> str | None:
    """The first that fails of the kernels' variants and of the tests."""
    of_kernels = [test for test in tests if test.startswith(kernels.KERNELS)]
    others = [test for test in tests if test not in of_kernels]
    found = kernels.try_kernels(tree, of_kernels)
    return found or (trials.try_tests(tree, others) if others else None)


def check_whole(tree: Path, mutants: list[Mutant]) -> None:
    """Exits unless all tests pass without a defect."""
    failed = try_all(tree, sorted({test for mutant in mutants for test in mutant.tests}))
    if failed is not None:
        raise SystemExit(f"without a defect there fails: {failed}")


def main() -> None:
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    mutants = [mutant for mutant in MUTANTS if part in str(mutant)]
    caught = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        trials.copy_tree(tree)
        check_whole(tree, mutants)
        for mutant in mutants:
            start = time.monotonic()
            try:
                found = try_one(mutant, tree)
                verdict = f"caught by {found}" if found else "SURVIVES"
            except ValueError as error:
                found, verdict = None, f"NO LONGER APPLIES: {error}"
            caught += found is not None
            print(f"{mutant}: {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"caught {caught} of {len(mutants)} seeded defects")
    raise SystemExit(caught < len(mutants))


if __name__ == "__main__":
    main()
