"""What a run wrote down: pytest-benchmark's JSON file as rows, without the single timings."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    """A run, from the JSON file of pytest-benchmark or from what ``save`` made of one.

    Raises:
        ValueError: it holds none of these benchmarks.
    """
    data = json.loads(path.read_text())
    if "benchmarks" not in data:
        return _checked(data, path)
    machine = data["machine_info"]
    mine = machine.get("fastblur", {})
    cpu = machine.get("cpu", {})
    run = {
        "date": data["datetime"][:10],
        "commit": data["commit_info"].get("id", "unknown")[:12]
        + (" with changes" if data["commit_info"].get("dirty") else ""),
        "cpu": cpu.get("brand_raw") or machine.get("processor") or "unknown",
        "cores": cpu.get("count"),
        "system": f"{machine['system']} {machine['machine']}",
        "python": machine["python_version"],
        **mine,
    }
    rows = [_row(entry) for entry in data["benchmarks"] if "kind" in entry["extra_info"]]
    return _checked({"run": run, "rows": rows}, path)


def _row(entry: dict[str, Any]) -> Row:
    info = entry["extra_info"]
    values = [1e3 * second for second in entry["stats"]["data"]]
    low = median = high = values[0]
    if len(values) > 1:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    times = {"ms": median, "low_ms": low, "high_ms": high, "min_ms": min(values)}
    return _rounded(info | times | {"rounds": len(values)})


def _checked(data: dict[str, Any], path: Path) -> dict[str, Any]:
    if not data.get("rows"):
        raise ValueError(f"{path} holds no results of these benchmarks")
    return data


def save(results: dict[str, Any], path: Path) -> None:
    """Writes it, one row a line: for a repository, where a change can be read."""
    rows = ",\n ".join(json.dumps(row, sort_keys=True) for row in results["rows"])
    run = json.dumps(results["run"], indent=1)
    path.write_text(f'{{"run": {run},\n"rows": [\n {rows}\n]}}\n')


def _rounded(row: Row) -> Row:
    """Six digits of each number: more is noise, and this way a saved run says just the same."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def of_kind(results: dict[str, Any], *kinds: str) -> list[Row]:
    return [row for row in results["rows"] if row["kind"] in kinds]


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows that agree in these, in the order in which they ran."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def by_rival(rows: Iterable[Row]) -> dict[str, Row]:
    return {row["rival"]: row for row in rows}
