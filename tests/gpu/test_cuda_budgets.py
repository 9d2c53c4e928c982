"""What the CUDA kernels may cost, read from the machine code in the installed extension: no GPU.

``python -m tests.gpu.test_cuda_budgets --update`` writes what they cost now to cuda_budgets.json,
and ``--table`` prints it. How instructions are counted is in sass.py.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest

from fastblur._backends import compiled

from . import instructions, sass

BASELINE = Path(__file__).with_suffix("").with_name("cuda_budgets.json")

MAX_REGISTERS = 168
# Registers are counted out for one architecture. On others a few kernels keep some words of what
# their sweep does not change in memory.
TUNED_FOR, MAX_STACK = "sm_90", 64
MIN_WARPS = 8  # of a multiprocessor; 168 registers leave 12, larger blocks could take some away
# A little more than nothing, so that not every touch of the sources needs a new baseline.
SLACK = 1.02

# Instructions per element of x on sm_90, by kernel, pool, its padding and taps. An H100 can issue
# about 8.6 for each byte that it moves (132 x 4 warps x 32 lanes x 1.7 GHz / 3.35 TB/s): 45 for an
# element of float32, 24 for one of a 16-bit type. These are about half of that: memory stays the
# limit. Backward of channels_last takes more: gradients are summed in float32, whatever their type,
# so nothing there can be done two at a time. Fewer are not always better: threads of half as many
# channels, and prefetches, cost two instructions an element in channels_last, and were faster on an
# H200 all the same. The ceilings hold whichever compiler built the extension.
CEILINGS: dict[tuple[str, int, int, int], float] = {
    ("forward_nchw", 2, 0, 4): 20.0,
    ("forward_nchw", 3, 1, 3): 28.0,
    ("backward_nchw", 2, 0, 4): 24.0,
    ("backward_nchw", 3, 1, 3): 28.0,
    ("forward_nhwc", 2, 0, 4): 13.0,
    ("forward_nhwc", 3, 1, 3): 16.0,
    ("backward_nhwc", 2, 0, 4): 18.0,
    ("backward_nhwc", 3, 1, 3): 27.0,
}
# bfloat16 is to be like float16, and costs it this much more to unpack.
BFLOAT16_MORE = 1.01
CEILING_TYPES = {"nchw": ["float"], "nhwc": ["__half", "__nv_bfloat16"]}


def library() -> tuple[Path | None, list[str], str]:
    """The extension, the architectures in it, and, if it has none to read, why."""
    if compiled.C is None:
        return None, [], str(compiled.WHY_NOT)
    info = compiled.BUILD
    if info["cuda"] is None:
        return None, [], "the extension was built without CUDA"
    try:
        for name in ("cuobjdump", "nvdisasm"):
            sass.tool(name)
    except sass.Missing as missing:
        return None, [], str(missing)
    archs = [arch for arch in info["cuda_archs"] if arch.startswith("sm_")]
    return Path(str(compiled.C.__file__)), archs, ""


LIBRARY, ARCHS, WHY_NOT = library()


def ceiling(kernel: sass.Kernel) -> float | None:
    """The fixed ceiling on instructions per element of x, if the kernel has one."""
    found = re.match(
        r"(\w+?_(nchw|nhwc))<(\w+), Sizes<(\d+), (\d+), (\d+), (0|false)>",
        kernel.name,
    )
    if found is None or kernel.arch != TUNED_FOR or found[3] not in CEILING_TYPES[found[2]]:
        return None
    at_most = CEILINGS.get((found[1], *map(int, found.group(4, 5, 6))))
    more = BFLOAT16_MORE if found[3] == "__nv_bfloat16" else 1.0
    return None if at_most is None else at_most * more


def per_element(kernel: sass.Kernel) -> float | None:
    if kernel.loop is None or kernel.elements is None:
        return None
    return float(len(kernel.loop.path) / kernel.elements)


def broken_limits(kernel: sass.Kernel) -> Iterable[str]:
    """What is wrong with a kernel, whichever compiler made it."""
    tuned = kernel.arch == TUNED_FOR
    if kernel.stack + kernel.local > MAX_STACK or (
        tuned and (kernel.stack or kernel.local or kernel.local_accesses)
    ):
        yield (
            f"uses local memory: {kernel.stack} bytes of stack, {kernel.local_accesses} accesses"
        )
    if kernel.registers > MAX_REGISTERS:
        yield f"{kernel.registers} registers, over {MAX_REGISTERS}"
    if kernel.warps < MIN_WARPS:
        yield f"{kernel.warps} warps fit a multiprocessor, under {MIN_WARPS}"
    if kernel.elements is None:
        return  # not one of the specialised kernels
    if kernel.loop is None:
        yield "has no loop with a global store: what does it sweep over?"
        return
    if any(i.opcode == "BRA.DIV" for i in kernel.loop.path):
        yield "its loop must bring the warp together (BRA.DIV): a shuffle is in a branch of lanes"
    loads, stores = kernel.loop.widths("load"), kernel.loop.widths("store")
    # The larger of x and y is read by forward and written by backward.
    main = stores if "backward" in kernel.name else loads
    # Where registers are short, a lane has fewer channels than fill 16 bytes.
    if max(main, default=0) < kernel.vector:
        yield f"main accesses are {max(main, default=0)} bytes wide, not {kernel.vector}"
    moved = sum(width * count for width, count in main.items() if width >= kernel.vector)
    if moved < kernel.elements * (kernel.element_size or 0):
        yield f"its loop moves {moved} bytes, less than its share of x: is it the right loop?"
    at_most, now = ceiling(kernel), per_element(kernel)
    if at_most is not None and now is not None and now > at_most:
        yield f"{now:.2f} instructions per element, over the ceiling of {at_most:.2f}"


def numbers(kernel: sass.Kernel) -> list[int]:
    """A kernel's line in the baseline."""
    loops = [len(kernel.loop.path), kernel.loop.slowest] if kernel.loop else [0, 0]
    return [kernel.registers, kernel.warps, *loops]


def worse_than(kernel: sass.Kernel, before: list[int]) -> Iterable[str]:
    """What got worse since the baseline. Registers count by the warps that they leave room for."""
    registers, warps, *loops = numbers(kernel)
    if warps < before[1]:
        yield (
            f"{before[1]} -> {warps} warps per multiprocessor "
            f"({before[0]} -> {registers} registers)"
        )
    names = ("its steady loop", "its slowest loop")
    for name, old, new in zip(names, before[2:], loops, strict=True):
        if new > old * SLACK:
            text = f"{old} -> {new} instructions a turn of {name}"
            if kernel.elements is not None:
                each = (float(n / kernel.elements) for n in (old, new))
                text += ", {:.2f} -> {:.2f} per element".format(*each)
            yield text


@pytest.mark.skipif(LIBRARY is None, reason=WHY_NOT or "-")
@pytest.mark.parametrize("arch", ARCHS)
def test_budgets(arch: str) -> None:
    assert LIBRARY is not None
    kernels = sass.read(LIBRARY, arch)
    assert kernels, f"no machine code for {arch}"
    baseline = json.loads(BASELINE.read_text())
    broken = [f"{kernel.name}: {text}" for kernel in kernels for text in broken_limits(kernel)]
    broken += against_baseline(kernels, baseline["nvcc"], baseline["kernels"].get(arch))
    if broken:
        pytest.fail("\n".join([f"{arch}; if meant: {UPDATE}", *sorted(broken)]), pytrace=False)


UPDATE = "python -m tests.gpu.test_cuda_budgets --update"


def against_baseline(
    kernels: list[sass.Kernel], nvcc: str, before: dict[str, list[int]] | None
) -> list[str]:
    """Which kernels got worse; nothing, with a remark, if the baseline is of another compiler."""
    compilers = {kernel.compiler for kernel in kernels}
    if compilers != {nvcc} or before is None:
        by = ", ".join(sorted(compilers))
        why = f"not in the baseline: {UPDATE}" if before is None else f"the baseline is by {nvcc}"
        text = f"{kernels[0].arch} by nvcc {by} is compared with the fixed limits only; {why}"
        warnings.warn(text, stacklevel=2)
        return []
    now = {kernel.name: kernel for kernel in kernels}
    broken = [f"{name}: not in the baseline" for name in now.keys() - before.keys()]
    broken += [f"{name}: in the baseline only" for name in before.keys() - now.keys()]
    for name in now.keys() & before.keys():
        broken += [f"{name}: {text}" for text in worse_than(now[name], before[name])]
    return broken


# ---- the reader itself -------------------------------------------------------------------------

# A loop with a rare block that comes back, a narrow alternative, and a loop of an inner path.
LOOP = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/              @!P0 BRA `(.L_x_2) ;
        /*0020*/                   LDG.E.128.CONSTANT R4, desc[UR6][R2.64] ;
        /*0030*/                   BRA `(.L_x_3) ;
.L_x_2:
        /*0040*/                   LDG.E R4, desc[UR6][R2.64] ;
        /*0050*/                   LDG.E R5, desc[UR6][R2.64+0x4] ;
        /*0060*/                   LDG.E R6, desc[UR6][R2.64+0x8] ;
        /*0070*/                   LDG.E R7, desc[UR6][R2.64+0xc] ;
.L_x_3:
        /*0080*/                   FFMA R4, R4, R4, R4 ;
        /*0090*/               @P1 FADD R4, R4, R4 ;
        /*00a0*/              @!P2 BRA P3, `(.L_x_5) ;
MARK    /*00c0*/                   MUFU.RCP R4, R4 ;
.L_x_4:
        /*00d0*/                   STG.E desc[UR6][R8.64], R4 ;
        /*00e0*/               @P4 BRA `(.L_x_4) ;
.L_x_5:
        /*00f0*/                   STG.E.128 desc[UR6][R8.64], R4 ;
        /*0100*/               @P5 BRA `(.L_x_0) ;
        /*0110*/                   EXIT ;
"""
MARK = "        /*00b0*/                   PMTRIG 0x80 ;\n"


def test_hot_path() -> None:
    loop = instructions.steady_loop(instructions.blocks(LOOP.replace("MARK", MARK).splitlines()))
    assert loop is not None
    hot = ["BRA", "LDG", "BRA", "FFMA", "FADD", "BRA", "STG", "BRA"]
    assert [i.opcode.split(".")[0] for i in loop.path] == hot
    assert (loop.widths("load"), loop.widths("store")) == ({16: 1}, {16: 1})
    assert (loop.rare, loop.aside) == (4, 4)  # the marked block and its loop; the narrow loads
    assert loop.classes == {"branch": 4, "load": 1, "store": 1, "fp32": 2}


def test_what_is_not_marked_counts() -> None:
    """All but inner loops."""
    text = LOOP.replace("MARK", "").replace("@P4 BRA `(.L_x_4)", "@P4 EXIT")
    loop = instructions.steady_loop(instructions.blocks(text.splitlines()))
    assert loop is not None
    assert [len(loop.path), loop.rare, loop.aside] == [8 + 3, 0, 4]


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "warps"),
    [
        ("sm_90", 32, 0, 128, 64),
        ("sm_90", 72, 0, 128, 28),
        ("sm_90", 168, 0, 128, 12),
        ("sm_90", 255, 0, 128, 8),
        ("sm_90", 32, 0, 32, 32),
        ("sm_90", 32, 48 << 10, 128, 16),
        ("sm_100", 40, 0, 256, 48),
        ("sm_120", 32, 0, 128, 48),
        ("sm_120", 32, 0, 512, 48),
        ("sm_80", 128, 0, 128, 16),
    ],
)
def test_occupancy(arch: str, registers: int, shared: int, threads: int, warps: int) -> None:
    assert sass.warps_per_multiprocessor(arch, registers, shared, threads) == warps


TOY = """
template <class T, int N, bool kRare>
__global__ void __launch_bounds__(256) sweep(const T* __restrict__ x, T* y, short n) {
  float4 sum = {};
#pragma unroll 1
  for (int i = threadIdx.x; i < n; i += 256) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];
    for (int k = 0; k < N; ++k) sum.x = fmaf(sum.x, v.x, 1.5f), sum.y = fmaf(sum.y, v.y, 2.5f);
    reinterpret_cast<float4*>(y)[i] = v;
    if (kRare && sum.x > 4) {
      asm volatile("pmevent 7;");
#pragma unroll
      for (int k = 0; k < 9; ++k) sum.y += expf(sum.x * k) * logf(sum.y + k);
    }
  }
  y[threadIdx.x] = sum.x + sum.y;
}
template __global__ void sweep<float, 20, false>(const float*, float*, short);
template __global__ void sweep<float, 20, true>(const float*, float*, short);
"""


def test_a_compiled_loop(tmp_path: Path) -> None:
    try:
        for name in ("nvcc", "cuobjdump", "nvdisasm"):
            sass.tool(name)
    except sass.Missing as missing:
        pytest.skip(str(missing))
    source = tmp_path / "toy.cu"
    source.write_text(TOY)
    plain, rare = sass.read(source, "sm_90")
    assert [plain.name, rare.name] == ["sweep<float, 20, false>", "sweep<float, 20, true>"]
    assert plain.arguments == ["float", 20, 0]
    assert (plain.threads, plain.parameters, plain.arch) == (256, 18, "sm_90")
    for kernel in (plain, rare):
        assert kernel.loop is not None
        assert kernel.loop.classes["fp32"] == 40
        assert (kernel.loop.widths("load"), kernel.loop.widths("store")) == ({16: 1}, {16: 1})
        assert len(kernel.loop.path) < 40 + 20
        assert (kernel.loop.rare > 100) == (kernel is rare)


# ---- the command -------------------------------------------------------------------------------


def update(kernels: list[sass.Kernel]) -> None:
    """Writes the baseline, a line for each kernel."""
    compilers = {kernel.compiler for kernel in kernels}
    if len(compilers) != 1:
        sys.exit(f"the kernels are by several compilers: {', '.join(sorted(compilers))}")
    lines: dict[str, list[str]] = {}
    for kernel in kernels:
        line = f"      {json.dumps(kernel.name)}: {json.dumps(numbers(kernel))}"
        lines.setdefault(kernel.arch, []).append(line)
    parts = [f'    "{arch}": {{\n' + ",\n".join(of) + "\n    }" for arch, of in lines.items()]
    about = "kernel: [registers, warps per multiprocessor, instructions in a turn: steady, slowest]"
    BASELINE.write_text(
        f'{{\n  "about": "{about}",\n  "nvcc": "{compilers.pop()}",\n  "kernels": {{\n'
        + ",\n".join(parts)
        + "\n  }\n}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.test_cuda_budgets")
    parser.add_argument("--update", action="store_true", help=f"write {BASELINE.name}")
    parser.add_argument("--table", action="store_true", help="print a Markdown table")
    parser.add_argument("--arch", help="of the table; default: all")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the table: names")
    parser.add_argument("--library", type=Path, default=LIBRARY, help="default: the installed one")
    wanted = parser.parse_args()
    if wanted.library is None:
        sys.exit(WHY_NOT)
    if wanted.update:
        update(sass.read(wanted.library))
    if wanted.table:
        kernels = sass.read(wanted.library, wanted.arch)
        shown = [kernel for kernel in kernels if re.search(wanted.only, kernel.name)]
        sys.stdout.write(sass.markdown([sass.row(k, k.elements) for k in shown]) + "\n")


if __name__ == "__main__":
    main()
