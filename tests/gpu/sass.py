"""Reads what a CUDA kernel costs out of its machine code (SASS), without a GPU.

``python -m tests.gpu.sass [FILE.cu|FILE.cubin|FILE.so ...] [--arch sm_90] [--table]`` prints it,
and without a file compiles all of ``csrc/cuda``. Needs cuobjdump and nvdisasm, which are on PyPI
(nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm), and for sources nvcc.

What is counted is one turn of the *steady loop*, along its *hot path*:

1. A block that holds an unpredicated ``PMTRIG`` (``asm volatile("pmevent 7;")`` in the source) is
   marked rare. No path through it is hot. That is the only way to declare something rare.
2. Of the paths through a loop's body that avoid marked blocks and whole inner loops, the hot one
   has the largest sum of squared widths of its accesses to global memory, and of those with equally
   much, it is the one with the most instructions. So the alternative for misaligned tensors, with
   many narrow accesses for one wide one, loses, and every other unmarked branch counts as taken,
   whichever way is heavier.
3. The steady loop is the one whose hot path stores the most (squared widths again), and of those
   that store equally much and load, the one with the fewest instructions. The others are for
   threads with more to decide, as at the ends of a row; ``slowest`` has the instructions of the
   longest. A loop around one that stores half as much as itself, or more, is out.

Predicated instructions count, as they are issued whether they act or not. Not followed: the side
exits of warp synchronisation (BRA.DIV), which the compiler adds for diverged warps.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from .instructions import Loop, blocks, steady_loop

ROOT = Path(__file__).parents[2]


class Missing(RuntimeError):
    """A tool that is not there; the message says how to get it."""


@functools.cache
def tool(name: str) -> str:
    """The path of cuobjdump, nvdisasm or nvcc: of this environment's packages, else of PATH."""
    try:
        # A namespace package, to which each of NVIDIA's wheels adds its files.
        roots = [Path(root) for root in importlib.import_module("nvidia").__path__]
    except ImportError:
        roots = []
    found = [str(path) for root in roots for path in sorted(root.glob(f"*/bin/{name}"))]
    path = found[0] if found else shutil.which(name)
    if path is None:
        raise Missing(f"{name} is missing: pip install nvidia-cuda-{name}")
    return path


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


# ---- kernels -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Multiprocessor:
    warps: int
    blocks: int
    shared: int  # bytes


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; blocks also in
# cuda_occupancy.h of CUDA 13.0.
MULTIPROCESSORS = {
    75: Multiprocessor(32, 16, 64 << 10),
    80: Multiprocessor(64, 32, 164 << 10),
    86: Multiprocessor(48, 16, 100 << 10),
    89: Multiprocessor(48, 24, 100 << 10),
    90: Multiprocessor(64, 32, 228 << 10),
    100: Multiprocessor(64, 32, 228 << 10),
    103: Multiprocessor(64, 32, 228 << 10),
    120: Multiprocessor(48, 24, 100 << 10),
    121: Multiprocessor(48, 24, 100 << 10),
}


def warps_per_multiprocessor(arch: str, registers: int, shared: int, threads: int) -> int:
    """The occupancy, by the rules of cuda_occupancy.h.

    64 K registers in four partitions, given to warps in units of 256; shared memory in units of
    128 bytes, with 1 KiB a block for the system since compute capability 8.0.
    """
    capability = int(re.sub(r"\D", "", arch))
    limits = MULTIPROCESSORS[capability]
    warps = -(-threads // 32)
    per_warp = -(-max(registers, 1) * 32 // 256) * 256
    by_registers = (16384 // per_warp) * 4 // warps
    used = shared + (1024 if capability >= 80 else 0)
    by_shared = limits.shared // (-(-used // 128) * 128) if used else limits.blocks
    return min(limits.warps // warps, limits.blocks, by_registers, by_shared) * warps


# By what a kernel's name holds, the elements of x in one turn of its loop, a lane's average, from
# their size and the last template argument (0 if that is no number): a step handles two rows, of
# one 16-byte vector of columns in the contiguous format, where 30 of a warp's 32 lanes own one, and
# in channels_last of four columns with as many channels as that argument says.
ELEMENTS: dict[str, Callable[[int, int], Fraction]] = {
    "nchw": lambda size, _: Fraction(2 * 16 // size * 30, 32),
    "nhwc": lambda _, channels: Fraction(2 * 4 * channels),
}


@dataclass
class Kernel:
    mangled: str
    arch: str
    compiler: str  # nvcc's version
    registers: int
    stack: int
    local: int
    shared: int
    parameters: int  # bytes
    threads: int | None  # of a block, from __launch_bounds__
    instructions: int
    local_accesses: int  # spills, and arrays that did not become registers
    calls: int
    loop: Loop | None

    @functools.cached_property
    def name(self) -> str:
        """The kernel and its template arguments, without namespaces, e.g. ``forward<float, 2>``."""
        text = re.sub(r"\(anonymous namespace\)::|\b(?!std::)\w+::", "", demangle(self.mangled))
        text = text.replace("> >", ">>")
        text = re.sub(r"\((\w|\s)+\)(?=-?\d)", "", text).removeprefix("void ")  # "(Type)2": 2
        depth = 0
        for at, character in enumerate(text):
            depth += {"<": 1, ">": -1}.get(character, 0)
            if character == "(" and depth == 0:
                return text[:at]
        return text

    @functools.cached_property
    def arguments(self) -> list[int | str]:
        """The template arguments, integers and booleans as integers."""
        inside = self.name.partition("<")[2].rpartition(">")[0]
        parts = re.findall(r"(?:[^,<]|<[^>]*>)+", inside)
        values: list[int | str] = []
        for part in map(str.strip, parts):
            number = re.fullmatch(r"(-?\d+)[ul]*", part)
            values.append(int(number[1]) if number else {"true": 1, "false": 0}.get(part, part))
        return values

    @property
    def element_size(self) -> int | None:
        sizes = {"float": 4, "__half": 2, "__nv_bfloat16": 2}
        return next((sizes[str(a)] for a in self.arguments if a in sizes), None)

    @property
    def elements(self) -> Fraction | None:
        """The elements of x that one turn of the steady loop takes of a lane; None: not known."""
        of_size = next((f for family, f in ELEMENTS.items() if re.search(family, self.name)), None)
        if of_size is None or self.element_size is None:
            return None
        return of_size(self.element_size, self.last_number)

    @property
    def vector(self) -> int:
        """Bytes of the widest access that a lane's share of a row or a pixel allows."""
        channels_last = "_nhwc<" in self.name
        return self.last_number * (self.element_size or 0) if channels_last else 16

    @property
    def last_number(self) -> int:
        return last if isinstance(last := self.arguments[-1], int) else 0

    @property
    def warps(self) -> int:
        return warps_per_multiprocessor(self.arch, self.registers, self.shared, self.threads or 128)


def demangle(name: str) -> str:
    """By the C++ library, which is where PyTorch is, unlike c++filt."""
    try:
        function = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    except (OSError, AttributeError) as error:
        raise Missing(f"libstdc++ is missing, which demangles names ({error})") from error
    function.restype = ctypes.c_void_p
    text = function(name.encode(), None, None, None)
    return ctypes.string_at(text).decode() if text else name


def read(path: Path, arch: str | None = None) -> list[Kernel]:
    """The kernels in a source, a cubin or a library, of one architecture or of all."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if path.suffix == ".cu":
            cubins = [compiled(path, arch or "sm_90", work)]
        elif path.suffix == ".cubin":
            cubins = [path]
        else:
            run(tool("cuobjdump"), "-xelf", "all", path.resolve(), cwd=work)
            cubins = sorted(work.glob("*.cubin"))
        kernels = [kernel for cubin in cubins for kernel in _read_cubin(cubin, arch)]
    return sorted(kernels, key=lambda kernel: (len(kernel.arch), kernel.arch, kernel.name))


def compiled(source: Path, arch: str, folder: Path) -> Path:
    """A cubin, without PyTorch, with the flags that PyTorch builds extensions with."""
    cubin = folder / f"{source.stem}.{arch}.cubin"
    flags = [f"-arch={arch}", "-cubin", "-std=c++20", "--expt-relaxed-constexpr"]
    flags += ["-O3", "-I", str(ROOT / "csrc")]
    run(tool("nvcc"), *flags, source, "-o", cubin)
    return cubin


def _read_cubin(cubin: Path, arch: str | None) -> Iterator[Kernel]:
    text = run(tool("nvdisasm"), "-c", cubin)
    release = re.search(rb"release [\d.]+, V([\d.]+)", cubin.read_bytes())
    target = re.search(r"\.target\s+(\w+)", text)
    own_arch = target[1] if target else ""
    if arch not in (None, own_arch):
        return
    usage = run(tool("cuobjdump"), "-res-usage", cubin)
    numbers = {
        name: {key: int(value) for key, value in re.findall(r"(\w+)(?:\[0\])?:(\d+)", line)}
        for name, line in re.findall(r"Function (\S+):\n(.*)", usage)
    }
    attributes = _attributes(cubin.read_bytes())
    for part in re.split(r"(?=^\t\.section\t)", text, flags=re.M):
        section = re.match(r"\t\.section\t\.text\.([$\w]+),", part)
        if section is None or section[1] not in numbers:
            continue
        name, used = section[1], numbers[section[1]]
        graph = blocks(part.splitlines())
        code = [i for block in graph for i in block.instructions]
        yield Kernel(
            mangled=name,
            arch=own_arch,
            compiler=release[1].decode() if release else "unknown",
            registers=used["REG"],
            stack=used["STACK"],
            local=used["LOCAL"],
            shared=used["SHARED"],
            parameters=attributes[name].get(_PARAMETER_BYTES, 0),
            threads=attributes[name].get(_MAX_THREADS),
            instructions=len(code),
            local_accesses=sum(i.kind == "local" for i in code),
            calls=sum(i.opcode.startswith("CALL") and ".L_" not in i.operands for i in code),
            loop=steady_loop(graph),
        )


_MAX_THREADS, _PARAMETER_BYTES = 0x05, 0x19  # EIATTR_MAX_THREADS, EIATTR_CBANK_PARAM_SIZE


def _attributes(elf: bytes) -> dict[str, dict[int, int]]:
    """The first number of each attribute in the sections .nv.info.<kernel>."""
    (offset,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, offset + n * size) for n in range(count)]
    found: dict[str, dict[int, int]] = {}
    for name_at, _, _, _, start, length in headers:
        at = headers[names_at][4] + name_at
        name = elf[at : elf.index(b"\0", at)].decode()
        if not name.startswith(".nv.info."):
            continue
        values = found.setdefault(name.removeprefix(".nv.info."), {})
        at = start
        while at + 4 <= start + length:
            kind, attribute, value = struct.unpack_from("<BBH", elf, at)
            at += 4
            if kind == 4:  # "value" bytes follow
                if value >= 4:
                    values.setdefault(attribute, struct.unpack_from("<I", elf, at)[0])
                at += value
            else:
                values.setdefault(attribute, value)
    return found


# ---- the command -------------------------------------------------------------------------------


def _accesses(widths: dict[int, int]) -> str:
    return " ".join(f"{count}x{width}" for width, count in widths.items()) or "-"


def row(kernel: Kernel, elements: Fraction | None) -> dict[str, str]:
    """What a table shows of a kernel."""
    loop = kernel.loop
    cells = {
        "kernel": f"`{kernel.name}`",
        "arch": kernel.arch.removeprefix("sm_"),
        "regs": str(kernel.registers),
        "spill": str(kernel.stack + kernel.local + kernel.local_accesses),
        "warps/SM": str(kernel.warps),
        "instr": str(len(loop.path)) if loop else "no loop",
        "slowest": str(loop.slowest) if loop else "-",
        "per element": f"{float(len(loop.path) / elements):.2f}" if loop and elements else "?",
    }
    if loop:
        counts = loop.classes
        cells |= {
            "load B": _accesses(loop.widths("load")),
            "store B": _accesses(loop.widths("store")),
        }
        shown = ["alu", "fp32", "half", "imad", "convert", "move", "shuffle", "uniform", "branch"]
        cells |= {name: str(counts[name]) for name in shown}
        rest = sum(counts[name] for name in counts if name not in [*shown, "load", "store"])
        cells |= {"rest": str(rest), "rare": str(loop.rare), "aside": str(loop.aside)}
    return cells


def markdown(rows: list[dict[str, str]]) -> str:
    columns = list(dict.fromkeys(key for cells in rows for key in cells))
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[cells.get(column, "") for column in columns] for cells in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.sass", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: csrc/cuda")
    parser.add_argument("--arch", help="only this one; sources are compiled for it (sm_90)")
    parser.add_argument("--only", default="", metavar="REGEX", help="kernels with such names")
    parser.add_argument(
        "--elements",
        action="append",
        default=[],
        metavar="REGEX=N",
        help="the elements of x that one turn of the loop consumes, per lane",
    )
    parser.add_argument("--path", action="store_true", help="print the hot path's instructions")
    parser.add_argument("--table", action="store_true", help="a Markdown table of all kernels")
    wanted = parser.parse_args(arguments)
    given = [text.rpartition("=") for text in wanted.elements]

    def elements(kernel: Kernel) -> Fraction | None:
        found = [Fraction(number) for text, _, number in given if re.search(text, kernel.name)]
        return found[0] if found else kernel.elements

    files = wanted.files or sorted((ROOT / "csrc" / "cuda").rglob("*.cu"))
    try:
        found = [kernel for file in files for kernel in read(file, wanted.arch)]
        kernels = [kernel for kernel in found if re.search(wanted.only, kernel.name)]
        rows = [row(kernel, elements(kernel)) for kernel in kernels]
    except RuntimeError as error:
        sys.exit(str(error))
    if wanted.table:
        sys.stdout.write(markdown(rows) + "\n")
        return
    for kernel, cells in zip(kernels, rows, strict=True):
        sys.stdout.write(", ".join(f"{key} {cell}" for key, cell in cells.items()) + "\n")
        path = kernel.loop.path if kernel.loop else []
        opcodes = Counter(".".join(i.opcode.split(".")[:2]) for i in path)
        sys.stdout.write("    " + ", ".join(f"{n} {op}" for op, n in opcodes.most_common()) + "\n")
        if wanted.path:
            sys.stdout.writelines(
                f"    {i.address:05x} {i.guard:>5} {i.opcode} {i.operands}\n" for i in path
            )


if __name__ == "__main__":
    main()
