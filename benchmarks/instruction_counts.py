"""Instructions that the CPU kernels take, and bytes, against a committed baseline.

Both are the same in every run of one build, so a change of a few per cent is a change of the code
and not of the weather. Valgrind counts; it knows no AVX-512, so the levels below it are counted.
Another compiler or torch counts otherwise: the baseline names those it was made with.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fastblur._backends import compiled
from fastblur._geometry import Geometry
from testing.measure import peak_bytes, saved_bytes

from .baselines import OURS, Call, at_level, full, make
from .workloads import Workload, both_layouts

ROOT = Path(__file__).resolve().parents[1]
BASELINE = Path(__file__).with_name("instruction_counts.json")
TOLERANCE = 0.03
NOT_CHECKED = 77  # exit status, that of skipped tests in other tools too
WORKLOADS = [
    either
    for workload in (
        Workload((2, 48, 28, 28), 3, 1, 3),
        Workload((2, 48, 28, 28), 2, 0, 4),
        Workload((2, 19, 15, 15), 2, 0, 4),  # small maps; channels that fill no vector
        Workload((2, 48, 28, 28), 1, 0, 4),
        replace(Workload((2, 48, 28, 28), 2, 0, 4), dtype=torch.bfloat16),
    )
    for either in both_layouts(workload)
]
Counts = dict[str, int]


def calls(workload: Workload) -> dict[str, Callable[[], object]]:
    """The kernels themselves, by their addresses: what Python adds is not in the counts."""
    geometry = Geometry.resolve(workload.pool, 2, workload.pad, workload.filter_size)
    cpu = torch.device("cpu")
    x, dy = workload.input(cpu), workload.output_gradient(cpu)
    call = compiled.CPU.call(geometry.arguments(), tuple(x.shape), workload.channels_last, x)
    y, codes = call.forward(x, True)
    dx = call.backward(dy, codes)
    kernels = call.native
    # Tensors are arguments too, for their memory to be there as long as the calls.
    return {
        "forward": lambda x=x, y=y: kernels.forward(x.data_ptr(), y.data_ptr(), 0, 1),
        "training forward": lambda x=x, y=y: kernels.forward(
            x.data_ptr(), y.data_ptr(), codes.data_ptr(), 1
        ),
        "backward": lambda dx=dx: kernels.backward(
            dy.data_ptr(), codes.data_ptr(), dx.data_ptr(), 1
        ),
    }


def count_here() -> list[str]:
    """Runs every call twice, valgrind counting the second; returns what was counted, in order."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    subprocess.run(["callgrind_control", "--instr=on", str(os.getpid())], check=True)
    names = []
    for level in compiled.C.cpu.targets():  # type: ignore[union-attr]
        for workload in WORKLOADS:
            for mode, call in calls(workload).items():
                with at_level(level):
                    call()
                    torch._C._valgrind_toggle()
                    call()
                    torch._C._valgrind_toggle_and_dump_stats()
                names.append(f"{level} | {workload} | {mode}")
    return names


def count() -> Counts:
    """Instructions of each call, counted in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no"]
        command += [f"--callgrind-out-file={out / 'counts'}", sys.executable, "-m", __spec__.name]
        # One thread and one order of hashes: nothing that differs from run to run.
        settings = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "FASTBLUR_CPU_TARGET": ""}
        done = subprocess.run(
            [*command, "--count-here", str(out / "names")],
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"counting failed:\n{done.stdout}{done.stderr}")
        names = json.loads((out / "names").read_text())
        return {name: _total(out / f"counts.{i}") for i, name in enumerate(names, start=1)}


def _total(path: Path) -> int:
    found = re.search(r"^totals: (\d+)$", path.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{path} has no total")
    return int(found[1])


def weigh() -> Counts:
    """Bytes that forward and backward allocate at most, and those kept in between."""
    found = {}
    for workload in WORKLOADS:
        device = torch.device("cpu")
        rival = make(OURS, workload, device)
        leaf = workload.input(device).requires_grad_()
        call: Call = full(rival, leaf, workload.output_gradient(device))
        found[f"bytes | {workload} | peak"] = peak_bytes(call)
        found[f"bytes | {workload} | saved"] = saved_bytes(lambda r=rival, x=leaf: r.layer(x))  # type: ignore[misc]
    return found


def origin() -> dict[str, str]:
    """What the counts depend on besides the sources."""
    return {
        "torch": torch.__version__.partition("+")[0],
        "compiler": str(compiled.BUILD["compiler"]),
    }


def compare(found: Counts, baseline: Counts) -> list[tuple[str, int | None, int | None, str]]:
    """Each count with its former value and what is wrong, an empty text if nothing is."""
    rows = []
    for name in sorted(found.keys() | baseline.keys()):
        now, before = found.get(name), baseline.get(name)
        wrong = ""
        if now is None:
            wrong = "no longer counted"
        elif before is None:
            wrong = "not in the baseline"
        elif abs(now - before) > TOLERANCE * before:
            wrong = "more" if now > before else "less"
        rows.append((name, before, now, wrong))
    return rows


def show(rows: list[tuple[str, int | None, int | None, str]], console: Console) -> None:
    table = Table("call", "baseline", "now", "change", "")
    for name, before, now, wrong in rows:
        change = f"{now / before - 1:+.1%}" if now and before else ""
        table.add_row(name, _number(before), _number(now), change, wrong)
    console.print(table)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def why_not() -> str | None:
    """Why nothing can be counted here."""
    if compiled.C is None:
        return f"there is nothing to count: {compiled.WHY_NOT}"
    missing = [name for name in ("valgrind", "callgrind_control") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found"
    if not torch._C._valgrind_supported_platform():
        return "this torch is built without valgrind's requests"
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m benchmarks.instruction_counts", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="file (%(default)s)")
    parser.add_argument("--all", action="store_true", help="show also what has not changed")
    parser.add_argument("--count-here", type=Path, help="for the process under valgrind")
    options = parser.parse_args(arguments)
    if options.count_here:
        options.count_here.write_text(json.dumps(count_here()))
        return 0
    console = Console(width=120)
    reason = why_not()
    if reason is not None:
        console.print(f"NOT CHECKED, instruction counts: {reason}.")
        return NOT_CHECKED
    found = count() | weigh()
    kept = json.loads(options.baseline.read_text()) if options.baseline.exists() else {}
    if not options.update and kept.get("origin") != origin():
        console.print(
            f"NOT CHECKED, instruction counts: the baseline is of {kept.get('origin')}, and this "
            f"build of {origin()}."
        )
        return NOT_CHECKED
    rows = compare(found, kept.get("counts", {}))
    wrong = [row for row in rows if row[3]]
    if shown := rows if options.all else wrong:
        show(shown, console)
    if options.update:
        data = {"origin": origin(), "counts": dict(sorted(found.items()))}
        options.baseline.write_text(json.dumps(data, indent=1) + "\n")
        console.print(f"{options.baseline}: {len(found)} counts written, {len(wrong)} changed.")
        return 0
    console.print(
        f"{len(found)} counts, {len(wrong)} off by more than {TOLERANCE:.0%}."
        + (" If that is meant: python -m benchmarks.instruction_counts --update" if wrong else "")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
