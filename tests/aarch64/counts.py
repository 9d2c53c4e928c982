"""Instructions of the kernels for aarch64, counted by the emulator. They are no times."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import torch

from testing.cases import Case, fill, zhang

from .build import EMULATOR, FOLDER, HERE, major
from .program import Program
from .run import TARGETS

CASES = {
    "max 3": zhang(3, 3, pad=(1, 1), shape=(2, 48, 28, 28)),
    "max 2": zhang(2, 4, shape=(2, 48, 28, 28)),
}


def why_not() -> str | None:
    """Why nothing can be counted here."""
    if major(str(EMULATOR)) < 9:
        return None
    return "counter.c has the interface for plugins of QEMU before 9"


def count(driver: Path) -> dict[str, int]:
    """Of forward with codes and without, apply and backward together, float32, by target."""
    plugin = FOLDER / "counter.so"
    command = [*shlex.split(os.environ.get("CC", "cc")), "-shared", "-fPIC", "-fvisibility=hidden"]
    subprocess.run([*command, HERE / "counter.c", "-o", plugin], check=True)
    found = {}
    for name, case in CASES.items():
        for channels_last in (False, True):
            for target in TARGETS:
                once, thrice = (
                    _process(driver, plugin, target, case, channels_last, n) for n in (1, 3)
                )
                layout = "channels_last" if channels_last else "contiguous"
                found[f"{name}, {layout}, {target}"] = (thrice - once) // 2
    return found


def _process(
    driver: Path, plugin: Path, target: str, case: Case, channels_last: bool, n: int
) -> int:
    """Of a whole process that runs the case n times."""
    x = fill(case.shape, "normal", torch.float32)
    size = case.geometry().output_size(*case.shape[2:])
    dy = fill((*case.shape[:2], *size), "normal", torch.float32, seed=1)
    program = Program(driver, "-plugin", str(plugin))
    with program:
        for _ in range(n):
            program.run(target, case, x, dy, channels_last, 1)
    return int(program.said)
