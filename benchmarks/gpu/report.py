"""The findings as one JSON file and one Markdown file."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from ..pages.tables import markdown_table

METHOD = """\
Device time between CUDA events: median of the rounds, and their quartiles. Rivals run in turn,
once each a round. For single layers the L2 cache is emptied before each call (by reading), and the
device waits until the call is queued, so that Python's own time is not in the figures; training
steps run as they come. "GB/s" and "of limit" count, for every rival, the bytes that a fused kernel
must move: x, y and, in training, the codes. The limit is a copy on the device, of as many bytes, in
the same race. "Peak" is memory taken beyond the inputs by the call, "saved" what waits for
backward."""
COLUMNS = (
    "rival",
    "mode",
    "ms",
    "quartiles",
    "n",
    "times ours",
    "GB/s",
    "of limit",
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
    parts.append(markdown_table(("fact", "value"), rows))
    done = [[n, f"{s['seconds']:.0f}", s["note"]] for n, s in results["sections"].items()]
    parts.append(markdown_table(("section", "seconds", "result"), done))
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
            parts.append(markdown_table(COLUMNS, times))
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
        f"{row['fraction of limit']:.2f}" if row.get("fraction of limit") else "",
        _mib(row.get("peak_bytes")),
        _mib(row.get("saved_bytes")),
    ]


def _mib(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.1f} MiB"
