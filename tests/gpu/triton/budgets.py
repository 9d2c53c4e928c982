"""What the Triton kernels cost, compiled ahead of time for GPUs that are not here.

Each kernel is compiled with the arguments, the types and the hints of a launch that is recorded on
fake tensors. ``python -m tests.gpu.triton.budgets --table`` prints what that costs beside the CUDA
kernel, and ``--update`` writes it to budgets.json, which test_triton_budgets.py holds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode

from fastblur._backends.triton import launch as triton_launch
from fastblur._backends.triton import registers as triton_registers
from fastblur._geometry import Geometry
from testing.cases import in_format

from .. import sass

BASELINE = Path(__file__).with_name("budgets.json")
GOAL = 1.5  # times the CUDA kernel's instructions
NVIDIA = ["sm_80", "sm_90", "sm_100", "sm_120"]
AMD = ["gfx942", "gfx1100"]
WARPS = {"gfx942": 64}  # lanes, if not 32
TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}
WORDS = {torch.int8: "i8", torch.int16: "i16", torch.int32: "i32"}


@dataclass(frozen=True)
class Spec:
    backward: bool
    pool: int
    pad: int
    taps: int
    relu: bool
    channels_last: bool
    dtype: torch.dtype

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        relu = ", relu" if self.relu else ""
        direction = "backward" if self.backward else "forward"
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{direction} {layout} {dtype}, max {self.pool} pad {self.pad}, {self.taps} taps{relu}"
        )


@dataclass
class Launch:
    kernel: Any
    arguments: dict[str, Any]
    warps: int


def launches(
    geometry: Geometry,
    size: tuple[int, ...],
    dtype: torch.dtype,
    channels_last: bool,
    arch: str = "sm_90",
) -> list[Launch]:
    """Of forward, with codes, and backward, as they would be made for a tensor on such a GPU."""
    found: list[Launch] = []

    def record(kernel: Any) -> Any:
        def launch(*values: Any, num_warps: int = 4, **constants: Any) -> None:
            names = dict(zip(kernel.arg_names, values, strict=False))
            found.append(Launch(kernel, names | constants, num_warps))

        return mock.MagicMock(__getitem__=lambda self, grid: launch)

    gpu = triton_launch.Gpu(int(arch[3:]) if arch in NVIDIA else 0, WARPS.get(arch, 32))
    with (
        FakeTensorMode(),
        mock.patch.object(triton_launch, "_launcher", record),
        mock.patch.object(triton_launch, "_gpu", return_value=gpu),
    ):
        x = in_format(torch.empty(size, dtype=dtype, device="cuda"), channels_last)
        call = triton_launch.Call(geometry, tuple(x.shape), channels_last, x, traced=False)
        with mock.patch.object(call, "_launching", return_value=contextlib.nullcontext()):
            y, codes = call.forward(x, True)
            call.backward(y, codes)
    return found


def compiled(launch: Launch, arch: str, registers: int | None = None) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = launch.kernel
    fixed = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    constants = {p.name for p in kernel.params if p.is_constexpr}
    signature, hints = {}, {}
    for i, name in enumerate(kernel.arg_names):
        value = launch.arguments[name]
        if name in constants:
            signature[name] = "constexpr"
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + (TYPES | WORDS)[value.dtype]
            hints[(i,)] = [["tt.divisibility", 16]]
        elif value == 1 and name not in fixed:
            signature[name] = "constexpr"  # as Triton makes of it
            constants.add(name)
        else:
            signature[name] = "i32"
            if name not in fixed and value % 16 == 0:
                hints[(i,)] = [["tt.divisibility", 16]]
    values = {name: launch.arguments[name] for name in constants}
    target = (
        GPUTarget("cuda", int(arch[3:]), 32)
        if arch.startswith("sm")
        else GPUTarget("hip", arch, WARPS.get(arch, 32))
    )
    source = ASTSource(kernel, signature, constexprs=values, attrs=hints)
    options = {"num_warps": launch.warps} | ({"maxnreg": registers} if registers else {})
    return triton.compile(source, target=target, options=options)


def launch_of(spec: Spec, arch: str) -> Launch:
    geometry = Geometry.resolve(spec.pool, 2, spec.pad, filter_size=spec.taps, relu=spec.relu)
    found = launches(geometry, (8, 64, 56, 56), spec.dtype, spec.channels_last, arch)
    assert [launch.kernel.__name__ for launch in found] == ["forward", "backward"]
    return found[spec.backward]


def machine_code(
    spec: Spec, arch: str, registers: int | None = None
) -> tuple[sass.Kernel, Fraction]:
    """The kernel, and the elements of x that a thread takes in a turn of its loop."""
    launch = launch_of(spec, arch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled(launch, arch, registers).asm["cubin"])
        (kernel,) = sass.read(path)
    lanes = launch.arguments["STRIPS"] * launch.arguments["CHANNELS"]
    lanes *= 2 if launch.arguments.get("PACKED") else 1
    return kernel, Fraction(2 * 4 * lanes, 32 * launch.warps)


def on_stack(kernel: sass.Kernel) -> int:
    """Bytes there, and instructions that read or write them."""
    return kernel.stack + kernel.local + kernel.local_accesses


def registers_and_spills(spec: Spec, arch: str, registers: int | None = None) -> tuple[int, int]:
    """Registers, and what of them is on the stack; 0 if nothing."""
    if arch in AMD:
        text = compiled(launch_of(spec, arch), arch).asm["amdgcn"]

        def of(name: str) -> int:
            (count,) = re.findall(rf"\.{name}: *(\d+)", text)
            return int(count)

        # Scalar registers may spill into lanes of vector registers, which is not memory.
        return of("vgpr_count"), of("vgpr_spill_count") + of("private_segment_fixed_size")
    kernel, _ = machine_code(spec, arch, registers)
    return kernel.registers, on_stack(kernel)


def specs() -> Iterator[Spec]:
    """What the table shows."""
    for channels_last in (False, True):
        for dtype in (torch.float32, torch.float16):
            for backward in (False, True):
                for pool, pad, taps in ((1, 0, 4), (2, 0, 4), (3, 1, 3)):
                    for relu in (False, True) if pool > 1 else (False,):
                        yield Spec(backward, pool, pad, taps, relu, channels_last, dtype)


def every_spec() -> Iterator[Spec]:
    for spec in specs():
        for taps in range(2, 6):
            for pad in (0, 1) if spec.pool == 3 else (0,):
                yield Spec(
                    spec.backward, spec.pool, pad, taps, spec.relu, spec.channels_last, spec.dtype
                )


SHOWN = list(dict.fromkeys(specs()))
EVERY = list(dict.fromkeys(every_spec()))


def cuda_cost(spec: Spec) -> float | None:
    """Instructions per element of the CUDA kernel, from its own budget."""
    budgets = json.loads((BASELINE.parents[1] / "cuda_budgets.json").read_text())
    direction = "backward" if spec.backward else "forward"
    layout = "nhwc" if spec.channels_last else "nchw"
    type_name = {torch.float32: "float", torch.float16: "__half"}[spec.dtype]
    size = spec.dtype.itemsize
    relu = "true" if spec.relu else "false"
    start = f"{direction}_{layout}<{type_name}, Sizes<{spec.pool}, {spec.pad}, {spec.taps}, {relu}>"
    for name, (_, _, turn, *_) in budgets["kernels"]["sm_90"].items():
        rest = name.removeprefix(start)
        if rest == name or (not spec.backward and spec.pool > 1 and "true" not in rest):
            continue
        last = re.findall(r"(\d+)>$", name)
        return float(turn / sass.ELEMENTS[layout](size, int(last[0]) if last else 0))
    return None


def numbers(spec: Spec) -> dict[str, Any]:
    kernel, elements = machine_code(spec, "sm_90")
    assert kernel.loop is not None
    widths = kernel.loop.widths("store" if spec.backward else "load")
    return {
        "registers": kernel.registers,
        "spilled": on_stack(kernel),
        "instructions": round(float(len(kernel.loop.path) / elements), 2),
        "bytes": max(widths),
    }


def table(each: Callable[[Spec], dict[str, Any]]) -> str:
    rows = []
    for spec in SHOWN:
        now, cuda = each(spec), cuda_cost(spec)
        rows.append(
            {
                "kernel": str(spec),
                "regs": str(now["registers"]),
                "spill": str(now["spilled"]),
                "access B": str(now["bytes"]),
                "instr/element": f"{now['instructions']:.1f}",
                "CUDA": f"{cuda:.1f}" if cuda else "-",
                "ratio": f"{now['instructions'] / cuda:.2f}" if cuda else "-",
                f"goal {GOAL}": "-"
                if not cuda
                else "yes"
                if now["instructions"] <= GOAL * cuda
                else "no",
            }
        )
    return sass.markdown(rows)


def spills_of(archs: list[str]) -> str:
    """Of all sizes: the kernels that spill until they are given more registers."""
    rows, summary = [], []
    for arch in archs:
        found = [(spec, *registers_and_spills(spec, arch)) for spec in EVERY]
        spilling = [row for row in found if row[2]]
        cured = 0
        for spec, registers, spilled in spilling:
            then, left = registers, spilled
            if arch in NVIDIA:
                then, left = registers_and_spills(spec, arch, triton_registers.MOST)
            cured += left == 0
            rows.append(
                {
                    "kernel": str(spec),
                    "target": arch,
                    "regs": str(registers),
                    "spill": str(spilled),
                    f"regs of {triton_registers.MOST}": str(then),
                    "then": str(left),
                }
            )
        summary.append(
            f"{arch}: {len(found)} kernels, {len(spilling)} spill, {cured} of these with "
            f"{triton_registers.MOST} registers no more\n"
        )
    return (sass.markdown(rows) + "\n\n" if rows else "") + "".join(summary)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.triton.budgets")
    parser.add_argument("--update", action="store_true", help=f"write {BASELINE.name}")
    parser.add_argument("--table", action="store_true", help="print a Markdown table")
    parser.add_argument(
        "--spills",
        nargs="*",
        choices=NVIDIA + AMD,
        metavar="TARGET",
        help=f"print which of all sizes spill at first; of {', '.join(NVIDIA + AMD)}",
    )
    wanted = parser.parse_args()
    if wanted.spills is not None:
        sys.stdout.write(spills_of(wanted.spills or NVIDIA + AMD))
        return
    found = {str(spec): numbers(spec) for spec in SHOWN}
    if wanted.update:
        lines = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
        head = f'"triton": "{triton.__version__}",\n  "arch": "sm_90",\n  "kernels"'
        BASELINE.write_text(f"{{\n  {head}: {{\n{lines}\n  }}\n}}\n")
    if wanted.table:
        sys.stdout.write(table(lambda spec: found[str(spec)]) + "\n")


if __name__ == "__main__":
    main()
