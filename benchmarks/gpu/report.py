"""The findings as one JSON file and one Markdown file."""

from __future__ import annotations

import io
import json
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

METHOD = """\
Device time between CUDA events: median of the rounds, and their quartiles. Rivals run in turn,
once each a round. For single layers the L2 cache is emptied before each call (by reading), and the
device waits until the call is queued, so that Python's own time is not in the figures; training
steps run as they come. "GB/s" and "of copy" count, for every rival, the bytes that a fused kernel
must move: x, y and, in training, the codes. The copy is one on the device, of as many bytes, in the
same race. "Peak" is memory taken beyond the inputs in forward + backward, "saved" what waits for
backward."""
COLUMNS = (
    "rival",
    "mode",
    "ms",
    "quartiles",
    "n",
    "times ours",
    "GB/s",
    "of copy",
    "peak",
    "saved",
)


def write(results: dict[str, Any], out: Path) -> tuple[Path, Path]:
    """Writes both; returns their paths."""
    data, page = out / "results.json", out / "results.md"
    data.write_text(json.dumps(results, indent=1) + "\n")
    page.write_text(markdown(results))
    return data, page


def markdown(results: dict[str, Any]) -> str:
    facts = results["facts"]
    parts = [f"# fastblur on {facts['device']}", f"**{results['what']}**", METHOD]
    rows = [[name, str(value)] for name, value in facts.items()]
    rows += [[f"clocks {when}", str(value)] for when, value in results.get("clocks", {}).items()]
    parts.append(_table(("fact", "value"), rows))
    done = [[n, f"{s['seconds']:.0f}", s["note"]] for n, s in results["sections"].items()]
    parts.append(_table(("section", "seconds", "result"), done))
    if results["failures"]:
        parts.append("## Wrong\n\n" + "\n".join(f"- {what}" for what in results["failures"]))
    for (section, layer), found in groupby(
        results["rows"], key=lambda row: (row["section"], row["layer"])
    ):
        entries = list(found)
        ran = {row["ran"] for row in entries if row.get("ran")}
        parts.append(f"## {section}: {layer}")
        parts += [f"fastblur ran {words}." for words in sorted(ran)]
        times = [_cells(row) for row in entries if "ms" in row]
        if times:
            parts.append(_table(COLUMNS, times))
        parts += [f"- {row['rival']}: {row['note']}" for row in entries if "note" in row]
    return "\n\n".join(parts) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    ms = row["ms"]
    return [
        row["rival"],
        row["mode"],
        f"{ms['median']:.4f}",
        f"{ms['low']:.4f} to {ms['high']:.4f}",
        str(ms["rounds"]),
        f"{row['times ours']:.2f}",
        f"{row['bytes'] / ms['median'] / 1e6:.0f}" if row.get("bytes") else "",
        f"{row['fraction of copy']:.2f}" if row.get("fraction of copy") else "",
        _mib(row.get("peak_bytes")),
        _mib(row.get("saved_bytes")),
    ]


def _mib(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.1f} MiB"


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    table = Table(*columns, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*(cell.replace("|", "\\|").replace("[", "\\[") for cell in row))
    text = io.StringIO()
    Console(file=text, width=10_000, color_system=None).print(table)
    return "\n".join(line.strip() for line in text.getvalue().strip().splitlines())
