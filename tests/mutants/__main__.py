"""``python -m tests.mutants [part of a name]``: exit status 1 if a defect survives or is outdated.

A defect counts as caught only by tests that pass without it, which is tried first.
"""

# ruff: noqa: T201

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import cpu, python_layer, trials
from .mutant import Mutant

Try = Callable[[Path, Sequence[str]], str | None]


def try_all(mutants: list[Mutant], tree: Path, attempt: Try) -> int:
    """How many are caught in the tree, which is whole again afterwards."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    failed = attempt(tree, tests) if tests else None
    if failed is not None:
        raise SystemExit(f"without a defect there fails: {failed}")
    caught = 0
    for mutant in mutants:
        file, start, found = tree / mutant.file, time.monotonic(), None
        whole = file.read_text()
        try:
            file.write_text(mutant.text(tree))
            found = attempt(tree, mutant.tests)
            verdict = f"caught by {found}" if found else "SURVIVES"
        except ValueError as error:
            verdict = f"NO LONGER APPLIES: {error}"
        except RuntimeError as error:
            verdict = f"NOBODY KNOWS: {error}"
        finally:
            file.write_text(whole)
        caught += found is not None
        print(f"{mutant}: {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
    return caught


def main() -> None:
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    of_python, of_kernels = (
        [mutant for mutant in mutants if part in str(mutant)]
        for mutants in (python_layer.MUTANTS, cpu.MUTANTS)
    )
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        trials.copy_tree(tree)
        caught = try_all(of_python, tree, trials.try_tests)
        # Only now: this imports fastblur, of which the children above have to import the tree's.
        from . import kernels

        caught += try_all(of_kernels, tree, kernels.try_kernels)
    seeded = len(of_python) + len(of_kernels)
    print(f"caught {caught} of {seeded} seeded defects")
    raise SystemExit(caught < seeded)


if __name__ == "__main__":
    main()
