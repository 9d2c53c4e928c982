"""A run of the benchmarks as Markdown and pictures.

``python -m benchmarks.report results.json`` writes results.md, the pictures and a shorter JSON file
to a folder; with ``--page docs/performance.md`` it also writes the generated part of that page.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from . import plots
from .baselines import OURS, TRITON
from .results import Row, by_rival, grouped, load, of_kind, save
from .tables import markdown_table

BEGIN, END = "<!-- benchmarks.report: begin -->", "<!-- benchmarks.report: end -->"
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


def beside(page: Path) -> str:
    """Where a page has its pictures and results, from its folder."""
    return f"figures/{page.stem}"


def markdown(results: dict[str, Any], pictures_at: str) -> str:
    """The generated part of the page: what was measured, on what, and the tables."""
    parts = [_provenance(results["run"], results["rows"])]
    layers = of_kind(results, "layer")
    if layers:
        more = GPU_NOTES if layers[0]["device"] == "cuda" else FAULT_NOTES
        parts += ["### One layer", NOTES + more, _layers(layers)]
        if any(row["mode"] == "full" for row in layers):
            parts += [_picture("limit", "share of the limit by layer", pictures_at)]
            parts += ["### Memory of one layer", MEMORY_NOTES, _memory(layers)]
            parts += [_picture("memory", "memory by layer", pictures_at)]
        compiled = [row for row in layers if "compile_s" in row]
        if compiled:
            parts += [
                "### torch.compile",
                "Seconds of the first calls, nothing cached.",
                _compile(compiled),
            ]
    levels = of_kind(results, "levels")
    if levels:
        parts += ["### Levels of the CPU kernels", _levels(levels)]
    overhead = of_kind(results, "overhead")
    if overhead:
        parts += ["### A call with nothing to compute", _overhead(overhead)]
    models = of_kind(results, "model")
    if models:
        parts += ["### Whole networks", _models(models)]
        parts += [_picture("model", "training steps", pictures_at)]
    return "\n\n".join(parts)


def _picture(name: str, words: str, folder: str) -> str:
    return f"![{words}]({folder}/{name}.png)"


def _provenance(run: dict[str, Any], rows: list[Row]) -> str:
    on_gpu = run["device"] == "cuda"
    what = f"**Measured on a GPU: {run['gpu']}.**" if on_gpu else CPU_ONLY
    build = run.get("build") or {}
    versions = ", ".join(f"{n} {v}" for n, v in run["versions"].items() if v)
    rounds = sorted({row["rounds"] for row in rows})
    spread = sorted((row["high_ms"] - row["low_ms"]) / row["ms"] for row in rows)
    facts = [
        ("device", run["gpu"] if on_gpu else run["cpu"]),
        ("cores, threads", f"{run['cores']}, {run['threads']}"),
        ("largest cache", f"{run['cache_bytes'] / 2**20:.0f} MiB"),
        ("fastblur's CPU target, torch's", f"{run['simd']}, {run['torch_simd']}"),
        ("system", f"{run['system']}, Python {run['python']}"),
        ("versions", versions),
        ("compiler of fastblur", str(build.get("compiler"))),
        ("date, commit", f"{run['date']}, {run['commit']}"),
        ("command", run["command"]),
        ("rounds", f"{rounds[0]} to {rounds[-1]}"),
        (
            "spread",
            f"between the quartiles {spread[len(spread) // 2]:.0%} of the median in the middle "
            f"row, {spread[-1]:.0%} in the worst",
        ),
    ]
    return f"{what}\n\n{markdown_table(('what', 'measured on'), facts)}"


def _time(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row['ms']:.3g} [{row['low_ms']:.3g}, {row['high_ms']:.3g}]"


def _fastest(rows: list[Row], compiled: bool) -> Row | None:
    peers = [r for r in rows if "fastblur" not in r["rival"] and ("compile_s" in r) == compiled]
    return min(peers, key=lambda row: row["ms"], default=None)


def _against(peer: Row | None, ours: Row) -> list[str]:
    if peer is None:
        return ["-", ""]
    name = peer["rival"].removeprefix("compiled ")
    return [f"{name}: {_time(peer)}", f"{peer['ms'] / ours['ms']:.1f} times"]


def _layers(rows: list[Row]) -> str:
    on_gpu = rows[0]["device"] == "cuda"
    columns = ["layer", "", "", "call", "fastblur", "Triton" if on_gpu else "faults"]
    columns += ["GB/s", "limit", "of limit", "peer", "", "compiled", ""]
    lines = []
    for found in grouped(rows, "label", "mode").values():
        named = by_rival(found)
        if OURS not in named:
            continue
        ours = named[OURS]
        cells = [ours[key] for key in ("layer", "dtype", "layout", "mode")]
        other = _time(named.get(TRITON)) if on_gpu else f"{ours['page_faults']:.0f}"
        cells += [_time(ours), other, f"{ours['gb_per_s']:.1f}"]
        cells += [f"{ours['limit_ms']:.3g}"]
        cells += [f"{ours['fraction_of_limit']:.0%}"]
        for compiled in (False, True):
            cells += _against(_fastest(found, compiled), ours)
        lines.append(cells)
    return markdown_table(columns, lines, numbers=9)


def _memory(rows: list[Row]) -> str:
    full = [row for row in rows if row["mode"] == "full"]
    rivals = list(dict.fromkeys(row["rival"] for row in full))
    lines = []
    for found in grouped(full, "label").values():
        named = by_rival(found)
        cells = [_shares(named.get(name)) for name in rivals]
        lines.append([found[0]["layer"], found[0]["dtype"], found[0]["layout"], *cells])
    names = [f"{name}: peak, kept" for name in rivals]
    return markdown_table(("layer", "", "", *names), lines, numbers=len(rivals))


def _shares(row: Row | None) -> str:
    if row is None:
        return "-"
    return ", ".join(
        f"{row[key] / row['input_bytes']:.3g}" for key in ("peak_bytes", "saved_bytes")
    )


def _compile(rows: list[Row]) -> str:
    lines = []
    for (label, rival), found in grouped(rows, "label", "rival").items():
        seconds = {row["mode"] == "forward": row["compile_s"] for row in found}
        cells = [f"{seconds[key]:.1f}" if key in seconds else "-" for key in (True, False)]
        lines.append([label, rival, *cells])
    return markdown_table(("layer", "", "without grad", "with grad"), lines, numbers=2)


def _levels(rows: list[Row]) -> str:
    lines = [
        [row["label"], row["mode"], row["rival"], _time(row), f"{row['fraction_of_limit']:.0%}"]
        for row in rows
    ]
    return markdown_table(("layer", "call", "", "ms", "of limit"), lines, numbers=2)


def _overhead(rows: list[Row]) -> str:
    words = {
        "forward": "forward, no_grad",
        "training forward": "forward, with grad",
        "full": "forward + backward",
    }
    rivals = list(dict.fromkeys(row["rival"] for row in rows))
    lines = []
    for (cold, label, mode), found in grouped(rows, "cold", "label", "mode").items():
        named = by_rival(found)
        cells = [f"{1e3 * named[name]['ms']:.1f}" if name in named else "-" for name in rivals]
        caches = "emptied" if cold else "warm"
        lines.append([label, words.get(mode, mode), caches, *cells])
    names = [f"{name}, µs" for name in rivals]
    return markdown_table(("", "call", "caches", *names), lines, numbers=len(rivals))


def _models(rows: list[Row]) -> str:
    lines = []
    for found in grouped(rows, "label").values():
        named = by_rival(found)
        unfused = named.get("unfused")
        for name, row in named.items():
            ratio = f"{row['ms'] / unfused['ms']:.2f}" if unfused else "-"
            sizes = [f"{row[key] / 2**20:.0f}" for key in ("saved_bytes", "peak_bytes")]
            lines.append([row["layer"], row["layout"], name, _time(row), ratio, *sizes])
    columns = ("network", "", "", "step, ms", "of unfused", "kept, MiB", "peak, MiB")
    one = rows[0]
    by = "" if one["dtype"] == "float32" else " by autocast"
    words = (
        f"A training step (forward, backward, SGD) at batch {one['batch']} and {one['pixels']} x "
        f"{one['pixels']} pixels, {one['dtype']}{by}. *Kept* is what autograd keeps for backward "
        "without parameters and buffers, *peak* the most that torch allocates in a step; steps "
        "follow one another as in training, with warm caches."
    )
    return f"{words}\n\n{markdown_table(columns, lines, numbers=4)}"


def everything(results: dict[str, Any]) -> str:
    """Each row on a line of its own."""
    lines = []
    for row in results["rows"]:
        share = row.get("fraction_of_limit")
        lines.append(
            [row["kind"], row["label"], row["mode"], row["rival"], _time(row), str(row["rounds"])]
            + ["" if share is None else f"{share:.3f}"]
            + [f"{row[key]:,}" if key in row else "" for key in ("peak_bytes", "saved_bytes")]
        )
    columns = ("", "", "call", "rival", "ms", "rounds", "of limit", "peak, bytes", "kept, bytes")
    return markdown_table(columns, lines, numbers=5)


def fill(page: str, part: str) -> str:
    """The page with another generated part.

    Raises:
        ValueError: the page does not have the two markers, once each and in order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page must have {BEGIN!r} and then {END!r}, once each")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def write(results: dict[str, Any], out: Path, page: Path | None) -> None:
    """Writes everything to a folder; to a page its part, with pictures and results beside it."""
    folders = [out] if page is None else [out, page.parent / beside(page)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        plots.draw(results, folder)
        save(results, folder / "results.json")
    report = f"# Benchmarks\n\n{markdown(results, '.')}\n\n### Every row\n\n{everything(results)}\n"
    (out / "results.md").write_text(report)
    if page is not None:
        page.write_text(fill(page.read_text(), markdown(results, beside(page))))


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, help="file of pytest --benchmark-json")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="(%(default)s)")
    parser.add_argument("--page", type=Path, help="whose generated part to write")
    options = parser.parse_args(arguments)
    try:
        write(load(options.results), options.out, options.page)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
