"""Compiles the CUDA sources, and the runner around them, for the CPU.

Objects are kept under build/cuda_on_host/, each under a hash of everything that went into it, so an
unchanged one is never compiled twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

HERE = Path(__file__).parent
DEVICE, PROGRAMS = HERE / "device", HERE / "programs"
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "cuda_on_host"
CACHE_BYTES = 2 << 30  # beyond that, the objects that were used least recently go

COMMON = (
    "-std=c++20",
    "-g1",
    "-fno-strict-aliasing",  # nvcc lets kernels look at numbers as vectors and bits
    "-fno-omit-frame-pointer",
    "-DFASTBLUR_CUDA_ON_HOST",
)


@dataclass(frozen=True)
class Variant:
    """A way to compile everything; the executor alone is never sanitized, see fiber.h."""

    name: str
    flags: tuple[str, ...]
    link: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("plain", ("-O1",)),
        Variant(
            "asan",
            # Optimised, compiling takes thrice as long. Alignment is checked in on_access.
            (
                "-O0",
                "-fsanitize=address,undefined",
                "-fno-sanitize=null,object-size,vptr,alignment",
                "-fno-sanitize-recover=all",
            ),
            ("-fsanitize=address,undefined",),
            ("-DCUDA_ON_HOST_ASAN",),
        ),
        Variant(
            "tsan", ("-O1", "-fsanitize=thread"), ("-fsanitize=thread",), ("-DCUDA_ON_HOST_TSAN",)
        ),
    )
}


class BuildError(RuntimeError):
    """The compiler's message."""


def compiler() -> str:
    return os.environ.get("CXX", "g++")


@cache
def cuda_headers() -> Path | None:
    """Where cuda_fp16.h is: among the headers of torch's own CUDA, or a toolkit's."""
    wheels = Path(torch.__file__).parent.parent / "nvidia"
    candidates = sorted(wheels.glob("*/include"))
    nvcc = shutil.which("nvcc")
    roots = [os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parent.parent]
    candidates += [Path(root) / "include" for root in (*roots, "/usr/local/cuda") if root]
    needed = ("cuda_fp16.h", "cuda_bf16.h", "driver_types.h")
    return next((d for d in candidates if all((d / name).exists() for name in needed)), None)


@cache
def compiler_version() -> str | None:
    command = shutil.which(compiler().split()[0])
    if command is None:
        return None
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    return done.stdout if "Free Software Foundation" in done.stdout else None


def why_not() -> str | None:
    """The reason why nothing can be built here, or None."""
    if not list((CSRC / "cuda").rglob("*.cu")):
        return "the kernels' sources are not here"
    if not Path("/proc/self").exists():
        return "the runner needs Linux"
    if compiler_version() is None:
        return f"there is no g++ (CXX is {compiler()!r})"
    if cuda_headers() is None:
        return "there are no CUDA headers: neither torch's nvidia packages nor a toolkit have them"
    return None


INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def sources_of(source: Path, folders: Sequence[Path]) -> list[Path]:
    """The file and what it includes, as far as it is ours."""
    found: dict[Path, None] = {}
    todo = [source]
    while todo:
        path = todo.pop().resolve()
        if path in found:
            continue
        found[path] = None
        for name in INCLUDE.findall(path.read_bytes()):
            for folder in (path.parent, *folders):
                if (folder / name.decode()).is_file():
                    todo.append(folder / name.decode())
                    break
    return sorted(found, key=lambda path: (path.name, str(path)))


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One build at a time: pytest's workers want the same things at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Build:
    """The executable that is made of some sources, whose headers may be in more folders."""

    def __init__(
        self,
        variant: str,
        csrc: Path = CSRC,
        defines: Sequence[str] = (),
        folders: Sequence[Path] = (),
    ) -> None:
        self.variant = VARIANTS[variant]
        self.csrc = csrc
        self.defines = tuple(defines)
        self.folders = tuple(folders)

    def runner(self) -> Path:
        kernels = sorted((self.csrc / "cuda").rglob("*.cu"))
        if not kernels:
            raise BuildError(f"there are no kernels in {self.csrc / 'cuda'}")
        return self.executable("runner", [PROGRAMS / "runner.cpp", *kernels])

    def executable(self, name: str, sources: Sequence[Path]) -> Path:
        """Builds `name` out of the sources and the executor, and returns its path."""
        with locked():
            infrastructure = [DEVICE / "executor.cpp", DEVICE / "trace.cpp"]
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                objects = [
                    *pool.map(lambda source: self._object(source, sanitized=True), sources),
                    *pool.map(lambda source: self._object(source, sanitized=False), infrastructure),
                ]
            key = hashlib.sha256("".join(o.stem for o in objects).encode()).hexdigest()[:32]
            target = CACHE / f"{name}-{self.variant.name}-{key}"
            if not target.exists():
                self._compile([*self.variant.link, *map(str, objects)], target)
            target.touch()
            _prune(keep={target, *objects})
            return target

    def _object(self, source: Path, *, sanitized: bool) -> Path:
        flags = [*COMMON, *self.variant.defines, *self.defines]
        flags += self.variant.flags if sanitized else ["-O2"]
        folders = [DEVICE, self.csrc, *self.folders]
        digest = hashlib.sha256(repr((compiler_version(), flags, str(cuda_headers()))).encode())
        for path in sources_of(source, folders):
            digest.update(path.name.encode() + path.read_bytes())
        target = CACHE / f"{digest.hexdigest()[:32]}.o"
        if target.exists():
            target.touch()
            return target
        includes = [f"-I{folder}" for folder in folders]
        # Last, so that they stand in only for what is missing.
        includes += ["-isystem", str(cuda_headers()), "-isystem", str(HERE / "shim")]
        self._compile([*flags, *includes, "-x", "c++", "-c", str(source)], target)
        return target

    def _compile(self, arguments: Sequence[str], target: Path) -> None:
        unfinished = target.with_suffix(".unfinished")
        command = [*compiler().split(), *arguments, "-o", str(unfinished)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{' '.join(command)}\n{done.stderr[:6000]}")
        unfinished.rename(target)


def _prune(keep: set[Path]) -> None:
    files = [path for path in CACHE.iterdir() if path not in keep and path.name != "lock"]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    total = sum(path.stat().st_size for path in keep)
    for path in files:
        total += path.stat().st_size
        if total > CACHE_BYTES:
            path.unlink()


@cache
def launcher(variant: str) -> tuple[str, ...]:
    """What an executable is started with: an old TSan cannot live with random addresses."""
    setarch = shutil.which("setarch")
    if variant != "tsan" or setarch is None:
        return ()
    command = (setarch, os.uname().machine, "-R")
    works = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if works else ()


SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


def command(variant: str, executable: Path, *arguments: str) -> list[str]:
    return [*launcher(variant), str(executable), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, **SANITIZERS}
