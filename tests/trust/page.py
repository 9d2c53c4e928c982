"""docs/trust.md from the records. The text between figures is here; the figures are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from testing import records

from .runs import ROOT, RUNS, Run

PAGE = ROOT / "docs" / "trust.md"
GPU = ROOT / "docs" / "figures" / "performance_gpu" / "results.json"
NO_RUN = "**no run on record**"
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
Figures = Mapping[str, Any]

HEAD = """\
<!-- Written by make trust. A change by hand is overwritten, and a test finds it. -->
# What was run

How far can you trust these kernels? This page lists what was run to find faults in them, and what
came of it. `make trust` writes it: it repeats the short runs, reads the records of the long ones in
[tests/records/](../tests/records/), and fills in every figure. `python -m tests.trust NAME` repeats
a run and replaces its record.

{machines}

What the words mean is in [the glossary](glossary.md); *generic* is the portable CPU target.

*Since* compares the sources of a run, each part of `csrc/` and `fastblur/`, with those of commit
{commit}, at which `bits` last ran. It says *same*, or which of them has changed. *Local changes*
means that no commit has the sources of the run. `git diff --stat {commit} -- csrc fastblur` shows
what has changed after that.
"""
RUN_PART = """\
## Runs

{table}

Their commands:

```text
{commands}
```
"""
BITS = """\
## The same bits

Every call over the case list was repeated with {threads} threads: {calls} calls, of which
{differ} gave other bits than the first (y, codes, dx and apply; float32, float64, float16,
bfloat16; both layouts; ties and NaN among the values). Each input has so many images that every
thread gets a part.

Between the CPU targets a result may differ in its last places. The table has the share of inputs
where it does, and the largest difference in units in the last place of the largest result.

{table}

(The reasons are not from the records; a test holds the second one.) The portable target has no
fused multiply-add, so it rounds each product before it adds. AVX2 and AVX-512 differ over the case
list in one kind of call: dx of channels_last maps with fewer channels
than an AVX-512 vector and as many as an AVX2 vector. Those take the loop for any geometry on one,
the fused loop on the other, which add in another order. The fuzzer found a second kind: y of
contiguous rows with a horizontal stride above 2, where the compiler fuses other products and sums.
"""
COVERAGE = """\
## Coverage

{table}

Lines of a C++ template count once, however often it is instantiated; its branches count in every
instance that the compiler makes, most of which no call reaches. `csrc/cuda/` is not in the table,
because it is not in that build. The run left out: {left_out}.
"""
GPU_PART = """\
## On a GPU

{table}

[The CUDA kernels](cuda.md#how-the-kernels-are-tested) tells of runs whose records were not kept.
"""


def read(name: str) -> dict[str, Any] | None:
    """A record, if there is one."""
    file = records.FOLDER / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def table(head: Iterable[str], rows: Iterable[Iterable[object]], align: str = "") -> str:
    """A table in Markdown; ``align`` has an r for each column that is set to the right."""
    head = list(head)
    marks = ["---:" if mark == "r" else "---" for mark in align.ljust(len(head))]
    lines = [head, marks, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def share(reached: int, total: int) -> str:
    return f"{100 * reached / total:.1f} % of {total:,}" if total else "-"


def tests(figures: Figures) -> str:
    """Of a run of pytest."""
    words = f"{figures['passed']:,} passed, {figures['failed']:,} failed"
    if figures.get("failing"):
        words += f" ({', '.join(f'`{name}`' for name in figures['failing'])})"
    return words + (f", {figures['skipped']:,} skipped" if figures["skipped"] else "")


def seeded(figures: Figures) -> str:
    return "; ".join(
        f"{part}: {of['caught']} of {of['seeded']} caught" for part, of in figures.items()
    )


def by_version(figures: Figures) -> str:
    return "; ".join(
        f"Python and torch {pair}: {tests(of | {'skipped': 0})}" for pair, of in figures.items()
    )


FUZZED = {
    "full": "under AddressSanitizer and UBSan",
    "installed": "of the extension's own objects",
    "cuda": "of the CUDA sources",
}


def fuzzed(figures: Figures) -> str:
    kinds = [f"{figures[k]['runs']:,} runs {words}" for k, words in FUZZED.items() if k in figures]
    opened = [f"`{name}`" for name in figures.get("open", ())]
    mended = figures["findings"] - len(opened)
    found = f"{mended} defects found and mended"
    found += f", {len(opened)} open ({', '.join(opened)})" if opened else ""
    return "; ".join([*kinds, f"{found}; each is a case that runs first"])


SAYS: dict[str, Callable[[Figures], str]] = {
    "properties": lambda f: f"{f['examples']:,} examples, {f['failing examples']:,} failing",
    "hostile": lambda f: f"{f['calls']:,} calls; {tests(f)}",
    "fuzz": fuzzed,
    "aarch64": lambda f: (
        f"{f['calls']:,} calls of two targets, {f['wrong']} wrong; {f['emulator']}"
    ),
    "mutants": seeded,
    "cuda_mutants": lambda f: f"{f['caught']} of {f['seeded']} caught",
    "bits": lambda f: f"{f['calls']:,} calls, {f['calls that differ']:,} with other bits",
    "far": lambda f: f"{tests(f)}; the largest had {f['elements']:,} elements",
    "versions": by_version,
    "wheel": lambda f: f"{f['wheel']}, {f['megabytes']} MB",
}


def machines() -> str:
    """What the runs ran on."""
    found: dict[str, list[str]] = {}
    for run in RUNS:
        record = read(run.name)
        if record is None or "cpu" not in record:
            continue
        torch = record["torch"].partition("+")[0]
        on = f"{record['cpu']}, {record['cores']} cores, Python {record['python']}, torch {torch}"
        found.setdefault(on, []).append(f"`{run.name}`")
    if not found:
        return ""
    parts = [f"{', '.join(names)} on {on}" for on, names in found.items()]
    return f"The runs ran on: {'; '.join(parts)}." if len(parts) > 1 else f"All ran on {on}."


def since(record: Figures, now: Figures) -> str:
    """Which sources have changed after a run."""
    then, today = record["sources"], now["sources"]
    if then is None or today is None:
        return "local changes"
    changed = [name for name in sorted({*then, *today}) if then.get(name) != today.get(name)]
    return f"changed: {', '.join(changed)}" if changed else "same"


def row(run: Run, now: Figures) -> list[str]:
    record = read(run.name)
    if record is None:
        return [f"`{run.name}`", run.title, "**not run**", "", ""]
    says = SAYS.get(run.name, tests)(record["figures"])
    when = f"{record['date']}, {record['commit']}"
    return [f"`{run.name}`", run.title, says, when, since(record, now)]


def bits(record: Figures) -> str:
    figures = record["figures"]
    rows = []
    for pair, found in figures["pairs"].items():
        cells = []
        for what in ("y", "codes", "dx", "applied"):
            count, units = found["differ"].get(what, 0), found["units"].get(what)
            of = f"{100 * count / found['inputs']:.1f} %" if count else "0"
            cells.append(f"{of}, {units}" if units else of)
        rows.append([pair, f"{found['inputs']:,}", *cells])
    head = ("targets", "inputs", "y", "codes", "dx", "apply")
    return BITS.format(
        threads=", ".join(map(str, figures["threads"])),
        calls=f"{figures['calls']:,}",
        differ=f"{figures['calls that differ']:,}" if figures["calls that differ"] else "none",
        table=table(head, rows, " rrrrr"),
    )


def coverage(record: Figures) -> str:
    parts = record["figures"]["cpp"] | record["figures"]["python"]
    rows = [
        [f"`{p}/`", share(*of["lines"]), share(*of["branches"])] for p, of in sorted(parts.items())
    ]
    return COVERAGE.format(
        table=table(("part", "lines", "branches"), rows, " rr"),
        left_out=", ".join(f"`{name}`" for name in record["figures"]["left out"]),
    )


def on_gpu() -> str:
    """What ran on which GPU: the benchmarks' results, and the record of benchmarks/gpu/run.py."""
    run = json.loads(GPU.read_text())["run"]
    timed = f"[{run['gpu']}](performance_gpu.md), torch {run['versions']['torch']}"
    rows = [
        [
            "benchmarks, each result checked before it is timed",
            timed,
            f"{run['date']}, {run['commit']}",
        ]
    ]
    record = read("gpu") or {"facts": {}, "sections": {}, "started": ""}
    said = {name: section["note"] for name, section in record["sections"].items()}
    when = f"{record['started']}, {record['facts'].get('commit')}" if said else ""
    rows.append(["tests that need a GPU", said.get("tests", NO_RUN), when])
    tools = dict(
        part.split(": ", 1) for part in said.get("sanitizer", "").split("; ") if ": " in part
    )
    rows += [[f"compute-sanitizer, {tool}", tools.get(tool, NO_RUN), when] for tool in SANITIZERS]
    return GPU_PART.format(table=table(("what", "result", "when, at"), rows))


def render() -> str:
    """The page."""
    now = read("bits")
    if now is None:
        raise FileNotFoundError("tests/records/bits.json: python -m tests.trust writes it")
    head = ("run", "what is tried", "found", "when, at", "since")
    commands = "\n".join(f"{run.name + ':':<14}{run.command}" for run in RUNS)
    suite = read("suite")
    parts = (
        HEAD.format(commit=now["commit"], machines=machines()),
        RUN_PART.format(table=table(head, (row(run, now) for run in RUNS)), commands=commands),
        bits(now),
        coverage(suite) if suite else "## Coverage\n\n**Not run.**",
        on_gpu(),
    )
    return "\n\n".join(part.strip() for part in parts) + "\n"
