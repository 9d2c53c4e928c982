"""One run of the script: the device, the time that is left, and what has been found so far."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
DRY_RUN = "dry run on the CPU: not a GPU measurement"
CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,power.limit"


class Session:
    """Runs sections until the budget ends. ``results`` becomes the JSON file."""

    def __init__(self, options: Namespace) -> None:
        self.device = torch.device(options.device)
        self.dry = self.device.type != "cuda"
        self.out = Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.rounds = 3 if self.dry else options.rounds
        if self.dry:
            torch.set_num_threads(1)
        self.deadline = time.monotonic() + 60 * options.minutes
        self.results: dict[str, Any] = {
            "what": DRY_RUN if self.dry else "measured on a GPU",
            "command": " ".join(sys.argv),
            "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "sections": {},
            "rows": [],
            "failures": [],
        }

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def section(self, name: str, run: Callable[[Session], str], needs: float = 5.0) -> None:
        """Runs one, which returns a summary, or notes why not; ``needs`` is in seconds."""
        start = time.monotonic()
        if self.left < needs and not self.dry:
            note = f"skipped: {self.left:.0f} s of the budget are left, and it needs {needs:.0f}"
        else:
            try:
                note = run(self)
            except Exception as error:  # a section that breaks must not cost the others
                traceback.print_exc()
                note = f"failed: {type(error).__name__}: {error}"
                self.results["failures"].append(f"{name}: {note}")
        seconds = time.monotonic() - start
        self.results["sections"][name] = {"note": note, "seconds": round(seconds, 1)}
        print(f"[{name}, {seconds:.0f} s] {note}", flush=True)

    def fail(self, what: str) -> None:
        """Remembers something wrong: the script will return 1."""
        self.results["failures"].append(what)
        print(f"WRONG: {what}", flush=True)

    def command(
        self, name: str, command: list[str], limit: float | None = None, **environment: str
    ) -> tuple[int, str]:
        """Runs another program, its output to a file of that name; returns its code and last line.

        It is stopped after ``limit`` seconds or when the budget ends, and the code is then 124.
        """
        seconds = self.left if limit is None else min(limit, self.left)
        log = self.out / f"{name}.txt"
        with log.open("w") as file:
            try:
                code = subprocess.run(
                    command,
                    cwd=ROOT,
                    env=os.environ | environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=None if self.dry else max(seconds, 5.0),
                ).returncode
            except subprocess.TimeoutExpired:
                code = 124
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        return code, next((line for line in reversed(lines) if line), "")


def facts(session: Session) -> dict[str, Any]:
    """Which machine and which software: without them a figure means nothing."""
    import fastblur
    from fastblur._backends import compiled

    found: dict[str, Any] = {
        "fastblur": fastblur.__version__,
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "build": None if compiled.C is None else compiled.BUILD,
        "torch": torch.__version__,
        "cuda of torch": torch.version.cuda,
        "python": sys.version.split()[0],
        "device": "no GPU",
    }
    if not session.dry:
        gpu = torch.cuda.get_device_properties(session.device)
        found |= {
            "device": gpu.name,
            "compute capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": gpu.multi_processor_count,
            "L2 bytes": gpu.L2_cache_size,
            "memory bytes": gpu.total_memory,
            "driver": query_gpu("driver_version"),
        }
    return found


def query_gpu(fields: str = CLOCKS) -> str | None:
    """What nvidia-smi says now, with units."""
    return _output("nvidia-smi", "--id=0", f"--query-gpu={fields}", "--format=csv,noheader")


def _output(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.stdout.strip() or None if done.returncode == 0 else None
