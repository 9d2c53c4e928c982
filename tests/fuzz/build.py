"""Builds the fuzzer: the core of csrc/ with sanitizers, the driver around it without.

Objects are kept under build/fuzz/, each under a hash of all that went into it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / "build" / "fuzz"
SIZES_H = HERE / "kernels" / "sizes.h"

# (file of csrc/, text that it has once, what stands there instead)
Change = tuple[str, str, str]


def _variable(file: str, text: str, name: str, kind: str = "static const int64_t&") -> Change:
    constant = text.split("=")[0].split()[-1]
    return (file, text, f"{kind} {constant} = ::fuzz::sizes.{name};")


SWEEP = "cpu/kernels/sweep.h"
# Constants become variables; kernels/sizes.h says why.
SIZES: tuple[Change, ...] = (
    _variable(SWEEP, "constexpr int64_t kBandOfX = 4096;", "band_of_x"),
    _variable(SWEEP, "constexpr int64_t kBandOfDm = 2048;", "band_of_dm"),
    _variable(SWEEP, "constexpr int64_t kLongRow = 1024;", "long_row"),
    _variable(SWEEP, "constexpr int64_t kTile = 512;", "tile"),
    _variable(SWEEP, "constexpr int64_t kRowsOfTiles = 7;", "rows_of_tiles"),
    _variable(SWEEP, "constexpr int64_t kRowsOfFusedTiles = 3;", "rows_of_fused_tiles"),
    _variable(SWEEP, "constexpr int64_t kRowsOfDm = 6;", "rows_of_dm"),
    _variable(
        "cpu/kernels/backward.h", "constexpr int64_t kRouteElements = 1024;", "route_elements"
    ),
    (
        "cpu/targets/make_target.h",
        "static constexpr int64_t kLargeDx = 2 << 20, kLargeY = 4 << 20;",
        "static inline const int64_t &kLargeDx = ::fuzz::sizes.large_dx, "
        "&kLargeY = ::fuzz::sizes.large_y;",
    ),
)
SPECIALISED = "cpu/kernels/specialisation.h"
# The rest of the sizes then runs the code for sizes that are not known at compile time.
FEW: tuple[Change, ...] = (
    (SPECIALISED, "SquarePools = KnownSizes<1, 2, 3>", "SquarePools = KnownSizes<2, 3>"),
    (SPECIALISED, "TapCounts = KnownSizes<2, 3, 4, 5>", "TapCounts = KnownSizes<4>"),
    (SPECIALISED, "RowCounts = KnownSizes<1, 2, 3, 4, 5>", "RowCounts = KnownSizes<4>"),
)

SANITIZERS = "-fsanitize=address,undefined"
COMMON = ("-std=c++20", "-g1", "-fno-omit-frame-pointer", "-w", f"-I{HERE}")
CHECKED = (
    SANITIZERS,
    # Alignment is not the kernels' promise on this processor; the others cost more than they find.
    "-fno-sanitize=null,alignment,object-size,vptr,function,pointer-overflow",
    "-fno-sanitize-recover=all",
    # Calls instead of code at each access, which compiles in a third of the time.
    "-mllvm",
    "-asan-instrumentation-with-call-threshold=0",
    "-fsanitize-coverage=inline-8bit-counters,pc-table",
)
DRIVER = ("input/case.cpp", "oracle/oracle.cpp", "oracle/compare.cpp", "oracle/report.cpp")
DRIVER += ("kernels/cpu.cpp",)
TARGETS = ("generic", "avx2", "avx512")


class BuildError(RuntimeError):
    """The compiler's message."""


@dataclass(frozen=True)
class Variant:
    """How the core is compiled for libFuzzer.

    Attributes:
        name: of the executable.
        flags: of the core.
        changes: of csrc/, besides SIZES.
    """

    name: str
    flags: tuple[str, ...]
    changes: tuple[Change, ...] = ()


FULL = Variant("full", ("-O1", *CHECKED))
QUICK = Variant("quick", ("-O0", *CHECKED), FEW)
INSTALLED = ROOT / "build" / "objects" / "csrc"  # where setup.py leaves its objects


@cache
def why_not() -> str | None:
    """The reason why the fuzzer cannot be built here, or None."""
    if not (ROOT / "csrc").exists():
        return "the sources of the kernels are not here"
    if os.uname().machine != "x86_64":
        return "it builds on x86-64 only"
    if shutil.which("clang++") is None:
        return "there is no clang++"
    command = ["clang++", "-fsanitize=fuzzer,address", "-x", "c++", "-", "-o", os.devnull]
    text = 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }'
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else "clang++ has no libFuzzer (Debian: libclang-rt-dev)"


def changed_sources(changes: Sequence[Change]) -> Path:
    """A copy of csrc/ with the changes.

    Raises:
        BuildError: a text is not there once.
    """
    texts = {
        path.relative_to(ROOT / "csrc"): path.read_text()
        for path in sorted((ROOT / "csrc").rglob("*"))
        if path.is_file()
    }
    for name, old, new in changes:
        text = texts[Path(name)]
        if text.count(old) != 1:
            raise BuildError(f"csrc/{name} has {text.count(old)} times: {old}")
        texts[Path(name)] = text.replace(old, new)
    folder = CACHE / "sources" / _hash(repr(sorted(texts.items())))
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def fuzzer(variant: Variant = FULL, changes: Sequence[Change] = ()) -> Path:
    """Builds the fuzzer of the CPU's core, and returns the executable."""
    csrc = changed_sources([*SIZES, *variant.changes, *changes])
    core = [f"cpu/targets/{name}.cpp" for name in (*TARGETS, "dispatch")]
    core += ["cpu/backend.cpp", "cpu/parallel.cpp", "cpu/stages/vertical_taps.cpp", "plan.cpp"]
    flags = _flags(csrc)
    jobs = [(csrc / name, [*flags, *variant.flags]) for name in core]
    jobs += _arenas(csrc, [*flags, *variant.flags])
    # The driver has the headers as they are: no defect is on both sides of a comparison.
    driver = (*DRIVER, "input/mutator.cpp")
    jobs += [(HERE / name, [*_flags(ROOT / "csrc"), "-O2"]) for name in driver]
    objects = _objects("clang++", jobs)
    target = CACHE / f"{variant.name}-{_hash(''.join(o.stem for o in objects))}"
    if not target.exists():
        _run(["clang++", f"{SANITIZERS},fuzzer", *map(str, objects)], target)
    return target


def installed() -> Path:
    """Links the driver with the objects of the extension, and returns the executable.

    Raises:
        BuildError: setup.py has not built the extension here, or not from these sources.
    """
    left_out = re.compile("/cuda/|bindings|arena")  # the driver has arenas of its own
    core = [p for p in sorted(INSTALLED.rglob("*.o")) if not left_out.search(_inside(p))]
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.is_file() and "/cuda/" not in _inside(p)]
    linked = [p.stat().st_mtime for p in INSTALLED.parent.glob("_C*.so")]
    if not linked or max(p.stat().st_mtime for p in sources) > max(linked):
        raise BuildError(f"{INSTALLED} has no objects of these sources: build the extension first")
    compiler = os.environ.get("CXX", "g++")
    csrc = ROOT / "csrc"
    jobs = _arenas(csrc, [*_flags(csrc), "-O3"])
    jobs += [(HERE / name, [*_flags(csrc), "-O2"]) for name in (*DRIVER, "input/repeat.cpp")]
    own = _objects(compiler, jobs)
    target = CACHE / f"installed-{_hash(''.join(o.stem for o in own))}"
    _run([compiler, "-fopenmp", *map(str, [*own, *core])], target)
    return target


def _inside(path: Path) -> str:
    """The path from the root of the repository, whose own folders may have any name."""
    return path.relative_to(ROOT).as_posix()


def _flags(csrc: Path) -> list[str]:
    return [*COMMON, f"-I{csrc}", "-include", str(SIZES_H)]


def _arenas(csrc: Path, flags: Sequence[str]) -> list[tuple[Path, list[str]]]:
    jobs = []
    for arena in ("kept", "guarded"):
        renamed = [f"-D{name}={arena}_{name}" for name in ("take_scratch", "give_back_scratch")]
        # What GCC defines with AddressSanitizer; Clang does not.
        sanitized = ["-D__SANITIZE_ADDRESS__=1"] if arena == "guarded" else []
        jobs.append((csrc / "cpu/arena.cpp", [*flags, *renamed, *sanitized]))
    return jobs


def _objects(compiler: str, jobs: Sequence[tuple[Path, list[str]]]) -> list[Path]:
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        return list(pool.map(lambda job: _object(compiler, *job), jobs))


def _object(compiler: str, source: Path, flags: list[str]) -> Path:
    # A changed core has a hash of its files as the name of its folder.
    ours = [SIZES_H]
    if not source.is_relative_to(CACHE):
        ours.append(source)
    if source.is_relative_to(HERE):
        ours += [*sorted(HERE.rglob("*.h")), *sorted((ROOT / "csrc").rglob("*.h"))]
    own = [path.read_text() for path in ours]
    target = CACHE / f"{_hash(repr((_version(compiler), str(source), flags, own)))}.o"
    if not target.exists():
        _run([compiler, *flags, "-c", str(source)], target)
    return target


def _run(command: list[str], target: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    done = subprocess.run(
        [*command, "-o", str(unfinished)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr[:6000]}")
    unfinished.rename(target)


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
