"""``python -m tests.trust``: repeats the short runs and writes docs/trust.md.

``python -m tests.trust NAME...``: repeats these runs, whose records go to tests/records/, and
writes the page. ``--list`` has their names. ``--gpu FILE`` takes over the results.json of
benchmarks/gpu/run.py. Exit status 1: a run found something, or gave no figures.
"""

# ruff: noqa: T201

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path

from testing import records

from .page import PAGE, render
from .runs import RUNS

SHORT = ("hostile", "bits")


def main() -> None:
    by_name = {run.name: run for run in RUNS}
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of runs; by default the short ones"
    )
    parser.add_argument("--list", action="store_true", help="the names of all runs, and their time")
    parser.add_argument("--page", action="store_true", help="write the page, run nothing")
    parser.add_argument("--gpu", type=Path, metavar="FILE", help="of benchmarks/gpu/run.py")
    options = parser.parse_args()
    if options.list:
        for run in RUNS:
            print(f"{run.name:<12} {run.minutes:3.0f} min  {run.command}")
        return
    unknown = set(options.names) - set(by_name)
    if unknown:
        parser.error(f"no such run: {', '.join(sorted(unknown))}; there are {', '.join(by_name)}")
    if options.gpu:
        keep(options.gpu)
    failed = []
    for name in () if options.page else options.names or SHORT:
        try:
            by_name[name]()
        except RuntimeError as error:
            failed.append(str(error))
    PAGE.write_text(render())
    if failed:
        sys.exit("\n".join(failed))


def keep(file: Path) -> None:
    """Of a run on a GPU: what ran it, and what the sections say."""
    results = json.loads(file.read_text())
    if results["what"] != "measured on a GPU":
        sys.exit(f"{file}: {results['what']}")
    kept = {key: results[key] for key in ("command", "started", "facts", "sections", "failures")}
    (records.FOLDER / "gpu.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
