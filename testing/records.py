"""Records of runs that take too long to repeat for a page: what ran, when, on which sources.

Each is a JSON file in tests/records/. `tests.trust` reads them all.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from cpuinfo import get_cpu_info

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "records"
SOURCES = ("csrc/", "fastblur")  # what a record speaks of; of csrc/ each part
SIMD = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")

Figures = Mapping[str, Any]


def write(name: str, command: str, figures: Figures, folder: Path = FOLDER) -> Path:
    """Writes the figures of a run, with what it ran on. Returns the file.

    Args:
        name: of the record, which replaces an older one.
        command: the command line that gives the figures again, from the root of the repository.
        figures: what the run found, by name; values as JSON has them.
        folder: where records are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    record = {"command": command, **provenance(), "figures": dict(figures)}
    file.write_text(json.dumps(record, indent=1) + "\n")
    return file


def provenance() -> dict[str, Any]:
    """The date, the commit with its sources, the processor, and the versions of what ran."""
    cpu = get_cpu_info()
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *SOURCES)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "sources": None if changed else sources(),
        "cpu": cpu.get("brand_raw", platform.machine()),
        "simd": [name for name in SIMD if name in cpu.get("flags", ())],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def sources(commit: str = "HEAD") -> dict[str, str]:
    """The hash of each part of the sources, which outlives a rebase as a commit's does not."""
    lines = _git("ls-tree", commit, "--", *SOURCES).splitlines()
    entries = [line.split("\t") for line in lines]
    return {path: about.split()[2][:12] for about, path in entries}


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
