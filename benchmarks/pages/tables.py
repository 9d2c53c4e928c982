"""What a run found as Markdown tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..baselines import OURS, TRITON, UNFUSED
from .results import Row, by_rival, grouped


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A table whose last ``numbers`` columns are aligned to the right."""
    table = Table(box=box.MARKDOWN)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index >= len(columns) - numbers else "left")
    for row in rows:
        table.add_row(*(cell.replace("|", "\\|").replace("[", "\\[") for cell in row))
    text = io.StringIO()
    Console(file=text, width=10_000, color_system=None).print(table)
    lines = [line.strip() for line in text.getvalue().strip().splitlines()]
    if numbers:
        rules = ["---"] * (len(columns) - numbers) + ["---:"] * numbers
        lines[1] = f"| {' | '.join(rules)} |"
    return "\n".join(lines)


def provenance(run: dict[str, Any], rows: list[Row]) -> str:
    on_gpu = run["device"] == "cuda"
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
    return markdown_table(("what", "measured on"), facts)


def _time(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row['ms']:.3g} [{row['low_ms']:.3g}, {row['high_ms']:.3g}]"


def fastest_peer(rows: list[Row], compiled: bool) -> Row | None:
    peers = [r for r in rows if "fastblur" not in r["rival"] and ("compile_s" in r) == compiled]
    return min(peers, key=lambda row: row["ms"], default=None)


def _against(peer: Row | None, ours: Row) -> list[str]:
    if peer is None:
        return ["-", ""]
    name = peer["rival"].removeprefix("compiled ")
    return [f"{name}: {_time(peer)}", f"{peer['ms'] / ours['ms']:.1f} times"]


def layers(rows: list[Row]) -> str:
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
            cells += _against(fastest_peer(found, compiled), ours)
        lines.append(cells)
    return markdown_table(columns, lines, numbers=9)


def summary(rows: list[Row]) -> str:
    """Forward and backward together, one line for the layouts of a layer in one dtype."""
    full = [row for row in rows if row["mode"] == "full"]
    layouts = list(dict.fromkeys(row["layout"] for row in full))
    lines = []
    for (layer, dtype), both in grouped(full, "layer", "dtype").items():
        cells = [layer, dtype]
        for layout in layouts:
            found = [row for row in both if row["layout"] == layout]
            ours = by_rival(found).get(OURS)
            if ours is None:
                cells += ["-"] * 3
                continue
            _, times = _against(fastest_peer(found, compiled=False), ours)
            cells += [f"{ours['ms']:.3g}", f"{ours['fraction_of_limit']:.0%}", times]
        lines.append(cells)
    names = [f"{x}{word}" for x in layouts for word in (", ms", ": of limit", ": peer takes")]
    return markdown_table(("layer", "", *names), lines, numbers=len(names))


def in_cache(rows: list[Row]) -> str:
    """Nanoseconds per 16 elements, from ``benchmarks.roofline``."""
    calls = ("training forward", "backward")
    lines = [
        [row["layer"], row["dtype"], row["layout"]]
        + [f"{ns:.1f}" for call in calls for ns in row[call]]
        for row in rows
    ]
    columns = ("", "", "", "forward, in cache", "not", "backward, in cache", "not")
    return markdown_table(columns, lines, numbers=4)


def memory(rows: list[Row]) -> str:
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


def compile_times(rows: list[Row]) -> str:
    lines = []
    for (label, rival), found in grouped(rows, "label", "rival").items():
        seconds = {row["mode"] == "forward": row["compile_s"] for row in found}
        cells = [f"{seconds[key]:.1f}" if key in seconds else "-" for key in (True, False)]
        lines.append([label, rival, *cells])
    return markdown_table(("layer", "", "without grad", "with grad"), lines, numbers=2)


def levels(rows: list[Row]) -> str:
    lines = [
        [row["label"], row["mode"], row["rival"], _time(row), f"{row['fraction_of_limit']:.0%}"]
        for row in rows
    ]
    return markdown_table(("layer", "call", "", "ms", "of limit"), lines, numbers=2)


def upsampling(rows: list[Row]) -> str:
    """One line for a layer and call, a column for each rival: its time over fastblur's."""
    rivals = [name for name in dict.fromkeys(row["rival"] for row in rows) if name != OURS]
    lines = []
    for found in grouped(rows, "label", "mode").values():
        named = by_rival(found)
        ours = named[OURS]
        cells = [ours[key] for key in ("layer", "dtype", "layout", "mode")]
        cells += [_time(ours), f"{ours['fraction_of_limit']:.0%}"]
        cells += [f"{named[r]['ms'] / ours['ms']:.1f} times" if r in named else "-" for r in rivals]
        lines.append(cells)
    columns = ("layer", "", "", "call", "fastblur, ms", "of limit", *rivals)
    return markdown_table(columns, lines, numbers=len(rivals) + 2)


def overhead(rows: list[Row]) -> str:
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


def volumes(rows: list[Row]) -> str:
    """3-D layers: times, and the bytes kept for backward."""
    lines = []
    for found in grouped(rows, "label", "mode").values():
        named = by_rival(found)
        ours, unfused = named[OURS], named[UNFUSED]
        kept = [f"{row['saved_bytes'] / row['input_bytes']:.3g}" for row in (ours, unfused)]
        cells = [ours["layer"], ours["layout"], ours["mode"], _time(ours), _time(unfused)]
        cells += [f"{unfused['ms'] / ours['ms']:.1f} times", f"{ours['fraction_of_limit']:.0%}"]
        lines.append([*cells, " / ".join(kept)])
    columns = ["layer", "", "call", "fastblur", "unfused", "unfused takes", "of limit"]
    return markdown_table([*columns, "kept of x, fastblur / unfused"], lines, numbers=5)


def networks(rows: list[Row]) -> str:
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
