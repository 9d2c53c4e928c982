"""Pictures of a run: share of the limit, memory, training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ..baselines import OURS
from .results import Row, by_rival, grouped, of_kind

MARKERS = "os^vDPX*"


def draw(results: dict[str, Any], out: Path) -> None:
    """Writes the pictures that the results allow."""
    full = [row for row in of_kind(results, "layer") if row["mode"] == "full"]
    where = results["run"]["gpu"] or f"CPU: {results['run']['cpu']}"
    models = of_kind(results, "model")
    if full:
        with _axes(full, "limit: share of its speed, forward and backward", where, out) as axes:
            _dots(axes, full, lambda row: row["fraction_of_limit"])
            axes.axvline(1, color="black", linewidth=0.8)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        with _axes(full, "memory: peak, bytes per byte of the input", where, out) as axes:
            _dots(axes, full, lambda row: row["peak_bytes"] / row["input_bytes"])
            axes.set_xlim(left=0)
    if models:
        with _axes(models, "model: training step, ms", where, out) as axes:
            _bars(axes, models, lambda row: row["ms"])


@contextmanager
def _axes(rows: list[Row], title: str, where: str, out: Path) -> Iterator[Axes]:
    """A line for each label; the file is named by the title's first word."""
    name, label = title.split(": ")
    labels = list(grouped(rows, "label"))
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.22 * len(labels)), layout="constrained")
    yield axes
    axes.set_yticks(range(len(labels)), [text for (text,) in labels], fontsize=7)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(label, fontsize=8)
    axes.set_title(where, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(out / f"{name}.png", dpi=90, metadata={"Software": None})
    plt.close(figure)


def _rivals(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["rival"] for row in rows))


def _dots(axes: Axes, rows: list[Row], value: Callable[[Row], float]) -> None:
    """A mark for each rival, hollow but for fastblur's, since many are in one place."""
    places = {label: place for place, (label,) in enumerate(grouped(rows, "label"))}
    for number, rival in enumerate(_rivals(rows)):
        mine = [row for row in rows if row["rival"] == rival]
        axes.scatter(
            [value(row) for row in mine],
            [places[row["label"]] for row in mine],
            marker=MARKERS[number % len(MARKERS)],
            facecolors=f"C{number}" if rival == OURS else "none",
            edgecolors=f"C{number}",
            label=rival,
        )


def _bars(axes: Axes, rows: list[Row], value: Callable[[Row], float]) -> None:
    rivals = _rivals(rows)
    for number, rival in enumerate(rivals):
        mine = [(i, by_rival(found).get(rival)) for i, found in enumerate(_groups(rows))]
        places = [i + (number + 0.5) / (len(rivals) + 1) - 0.4 for i, row in mine if row]
        lengths = [value(row) for _, row in mine if row]
        axes.barh(places, lengths, 1 / (len(rivals) + 1), label=rival)


def _groups(rows: list[Row]) -> list[list[Row]]:
    return list(grouped(rows, "label").values())
