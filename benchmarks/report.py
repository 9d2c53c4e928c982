"""A run of the benchmarks as Markdown and pictures.

``python -m benchmarks.report results.json`` writes results.md, the pictures and a shorter JSON file
to a folder; with ``--page docs/performance.md`` it also writes the generated parts of that page,
and the long tables to docs/performance_tables.md.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from .pages import plots, tables
from .pages.results import load, of_kind, save

GENERATED = "<!-- Written by python -m benchmarks.report. -->"
CPU_ONLY = "**Measured on a CPU. Nothing in this part is a GPU measurement.**"
NOTES = """\
Times are medians of the rounds, in milliseconds, with the quartiles in brackets; in every round
each rival ran once, after the caches had been emptied. *Limit* is the time, in the same race, of a
copy of as many bytes as a fused kernel must move; *of limit* is the share of that speed that was
reached. *Peer* is the fastest layer of another package or of plain PyTorch, *compiled* the fastest
of three formulations given to torch.compile, and beside each is how many times as long it took."""
FAULT_NOTES = """
*Faults*: new pages of memory that the system had to find for fastblur's results during the call (in
the median round), which the copy has not to wait for."""
GPU_NOTES = """
*fastblur* is the CUDA backend, *Triton* the other one. The device waits until a call has been
queued, so Python's own time is not in these figures; where kernels take less than a few
microseconds, what is left is the device's time to start them."""
MEMORY_NOTES = """\
In bytes per byte of the input: at most allocated beyond the input during forward and backward, and
kept in between. Counted by torch's allocator, so it is the same on every run."""
SUMMARY_NOTES = """\
Medians in milliseconds. *Of limit* is the share of the speed of a copy of as many bytes that was
reached. *Peer takes* is the time of the fastest layer of another package or of plain PyTorch, over
fastblur's."""

UPSAMPLING_NOTES = """\
Medians in milliseconds, with the quartiles in brackets. *Of limit* is the share of the speed of a
copy of as many bytes that was reached. The other columns give the time of other ways, over
fastblur's."""


def beside(page: Path) -> str:
    """Where a page has its pictures and results, from its folder."""
    return f"figures/{page.stem}"


def tables_of(page: Path) -> Path:
    """The page of the long tables."""
    return page.with_name(f"{page.stem}_tables.md")


def _measured_on(results: dict[str, Any]) -> str:
    gpu = results["run"]["gpu"] if results["run"]["device"] == "cuda" else None
    return f"**Measured on a GPU: {gpu}.**" if gpu else CPU_ONLY


def _picture(name: str, words: str, folder: str) -> str:
    return f"![{words}]({folder}/{name}.png)"


def summary(results: dict[str, Any], pictures_at: str, tables_at: str | None = None) -> str:
    """The generated part of the page: pictures, and what fits into two small tables."""
    run = results["run"]
    cpu = "" if run["device"] == "cuda" else f"{run['cpu']}, {run['threads']} threads, "
    parts = [f"{_measured_on(results)} {cpu}torch {run['versions']['torch']}, {run['date']}."]
    if tables_at is not None:
        parts[0] += f" [All rows]({tables_at}), with the quartiles and the software."
    layers = of_kind(results, "layer")
    if any(row["mode"] == "full" for row in layers):
        parts += ["### One layer, forward and backward", SUMMARY_NOTES, tables.summary(layers)]
        parts += [_picture("limit", "share of the limit by layer", pictures_at)]
        parts += [_picture("memory", "memory by layer", pictures_at)]
    upsampling = of_kind(results, "upsampling")
    if upsampling:
        parts += [UPSAMPLING_NOTES, tables.upsampling(upsampling)]
        if tables_at is None:
            parts += [tables.provenance(run, results["rows"])]
    models = of_kind(results, "model")
    if models:
        parts += ["### Whole networks", tables.networks(models)]
        parts += [_picture("model", "training steps", pictures_at)]
    return "\n\n".join(parts)


def details(results: dict[str, Any]) -> str:
    """What it was measured on, and the long tables."""
    parts = [_measured_on(results), tables.provenance(results["run"], results["rows"])]
    layers = of_kind(results, "layer")
    if layers:
        more = GPU_NOTES if layers[0]["device"] == "cuda" else FAULT_NOTES
        parts += ["## One layer", NOTES + more, tables.layers(layers)]
        if any(row["mode"] == "full" for row in layers):
            parts += ["## Memory of one layer", MEMORY_NOTES, tables.memory(layers)]
        compiled = [row for row in layers if "compile_s" in row]
        if compiled:
            parts += ["## torch.compile", "Seconds of the first calls, nothing cached."]
            parts += [tables.compile_times(compiled)]
    levels = of_kind(results, "levels")
    if levels:
        parts += ["## Levels of the CPU kernels", tables.levels(levels)]
    volumes = of_kind(results, "volume")
    if volumes:
        parts += ["## Video and volumes", tables.volumes(volumes)]
    overhead = of_kind(results, "overhead")
    if overhead:
        parts += ["## A call with nothing to compute", tables.overhead(overhead)]
    return "\n\n".join(parts)


def tables_page(results: dict[str, Any], page: Path) -> str:
    """The whole page of the long tables."""
    title = page.read_text().partition("\n")[0].removeprefix("# ")
    intro = f"[{title}]({page.name}) says how these were measured."
    return "\n\n".join([f"# {title}: tables", GENERATED, intro, details(results)]) + "\n"


def fill(page: str, part: str, name: str = "benchmarks.report") -> str:
    """The page with another generated part.

    Raises:
        ValueError: the page does not have the two markers, once each and in order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page must have {begin!r} and then {end!r}, once each")
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n\n{part}\n\n{end}{after}"


def filled(results: dict[str, Any], page: Path) -> str:
    """The page with its generated parts."""
    more = tables_of(page).name if of_kind(results, "layer") else None
    text = fill(page.read_text(), summary(results, beside(page), more))
    roofline = page.parent / beside(page) / "roofline.json"
    if roofline.exists():
        rows = json.loads(roofline.read_text())["rows"]
        text = fill(text, tables.in_cache(rows), "benchmarks.roofline")
    return text


def write(results: dict[str, Any], out: Path, page: Path | None) -> None:
    """Writes everything to a folder; to a page its parts, with pictures and results beside it."""
    folders = [out] if page is None else [out, page.parent / beside(page)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        plots.draw(results, folder)
        save(results, folder / "results.json")
    parts = ["# Benchmarks", summary(results, "."), details(results)]
    parts += ["## Every row", tables.everything(results)]
    (out / "results.md").write_text("\n\n".join(parts) + "\n")
    if page is not None:
        page.write_text(filled(results, page))
        if of_kind(results, "layer"):
            tables_of(page).write_text(tables_page(results, page))


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, help="file of pytest --benchmark-json")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="(%(default)s)")
    parser.add_argument("--page", type=Path, help="whose generated parts to write")
    options = parser.parse_args(arguments)
    try:
        write(load(options.results), options.out, options.page)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
