"""Compiles csrc/ for aarch64 with the rules and flags of setup.py, and the driver beside it."""

from __future__ import annotations

import fcntl
import os
import re
import runpy
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest import mock

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "aarch64"
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = next(
    (name for name in ("qemu-aarch64", "qemu-aarch64-static") if shutil.which(name)), None
)
# Compiles in half the time of -O3. GCC contracts products and sums to FMA with these flags as with
# -O3, and not with -O1 alone, so results have the same bits.
QUICK = "-O1 -fexpensive-optimizations"
MACHINE = 183  # of aarch64, at bytes 18 and 19 of an ELF file

# Static, so that the emulator needs no libraries.
PROGRAM = f"""\
rule program
  command = {COMPILER} -static -fopenmp $in -o $out
build {{folder}}/driver.o: cxx {{source}}/driver.cpp
build {{folder}}/driver: program {{folder}}/driver.o {{objects}}
"""


def why_not() -> str | None:
    """Why nothing of this can run here."""
    if not (ROOT / "setup.py").exists():
        return "there are no sources"
    missing = [] if shutil.which(COMPILER) else [COMPILER]
    missing += [] if EMULATOR else ["qemu-aarch64"]
    packages = "Debian's packages: g++-aarch64-linux-gnu, qemu-user"
    return f"{' and '.join(missing)} not found ({packages})" if missing else None


def version(command: str) -> str:
    """What a program calls itself: "... version 7.2.22 ..."."""
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def major(command: str) -> int:
    """The first number of a program's version."""
    found = re.search(r"\b(\d+)\.\d+\.\d+", version(command))
    assert found is not None, version(command)
    return int(found[1])


@cache
def build(quick: bool = False) -> Path:
    """The driver. The extension is linked too, for an error to show; `quick`: with QUICK.

    Ninja compiles what has changed. Processes that want the driver at once wait for each other.
    """
    folder = FOLDER / ("quick" if quick else "as-setup")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(folder, QUICK if quick else "")


def _build(folder: Path, cxxflags: str) -> Path:
    settings = {"CXX": COMPILER, "CXXFLAGS": cxxflags, "LDFLAGS": "", "FASTBLUR_SANITIZE": ""}
    settings |= {"FASTBLUR_BUILD": "1", "FASTBLUR_CUDA": "0"}
    with mock.patch.dict(os.environ, settings), mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(ROOT / "setup.py"))
        inside, module = folder.relative_to(ROOT).as_posix(), folder / "_C.so"
        rules = setup["ninja_file"](inside, module.relative_to(ROOT).as_posix(), None)
        names = [Path(name) for name in setup["sources"]("cpu/**/*.cpp", "plan.cpp")]
    objects = " ".join(f"{inside}/{name.with_suffix('.o').as_posix()}" for name in names)
    rules += PROGRAM.format(folder=inside, source=HERE.relative_to(ROOT), objects=objects)
    file = folder / "build.ninja"
    file.write_text(rules)
    jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
    command = [sys.executable, "-m", "ninja", "-f", str(file), *jobs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"csrc/ does not compile for aarch64:\n{done.stdout}{done.stderr}")
    assert int.from_bytes(module.read_bytes()[18:20], "little") == MACHINE
    return folder / "driver"
