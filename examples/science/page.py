"""The generated parts of docs/science.md: how it was measured, and the tables."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from . import cost
from .networks import NETWORKS, POOLINGS
from .results import Record, of

PART = re.compile(
    r"(<!-- figures.py: begin (?P<name>\w+) -->\n).*?(<!-- figures.py: end (?P=name) -->)",
    re.DOTALL,
)


def spread(values: list[float], scale: float = 1, digits: int = 2) -> str:
    """Mean and standard deviation."""
    deviation = f"{scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else "n/a"
    return f"{scale * statistics.fmean(values):.{digits}f} ± {deviation}"


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]], left: int = 2) -> str:
    """A table whose first columns are text."""
    names = list(head)
    align = ["---"] * left + ["---:"] * (len(names) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, align, *rows))


def kinds() -> Iterator[tuple[str, str]]:
    """Every network with every pooling, as the tables list them."""
    return ((network, pooling) for network in NETWORKS for pooling in POOLINGS)


def protocol(data: Record) -> str:
    """How the figures were made."""
    run = data["run"]
    seeds, epochs = len(run["seeds"]), run["epochs"]
    return (
        f"`{run['command']}` on {run['date']}: {run['train_images']:,} photographs to train, "
        f"{run['test_images']:,} others to test; {seeds} seed{'s' * (seeds > 1)}; {epochs} "
        f"epoch{'s' * (epochs > 1)} in batches of {run['batch_size']}; one thread for each "
        f"network, on a CPU with {run['cpu']}; fastblur {run['fastblur']}, torch {run['torch']}, "
        f"Python {run['python']}."
    )


def results(data: Record) -> str:
    """Accuracy, consistency and swing without and with random shifts in training, and the cost."""
    cells = {(row["network"], row["pooling"]): row for row in data["cost"]["rows"]}

    def row(network: str, pooling: str) -> list[str]:
        values: list[str] = [network, pooling]
        for key, scale, digits in (("accuracy", 100, 1), ("consistency", 100, 1), ("swing", 1, 3)):
            for shifts in (False, True):
                values.append(spread(of(data, network, pooling, shifts, key), scale, digits))
        spent = cells[network, pooling]
        values.append(f"{cost.median(spent):,.0f} ± {cost.half_range(spent):,.0f}")
        return [*values, *(f"{spent[key] / 1e6:.1f}" for key in ("saved_bytes", "peak_bytes"))]

    head = [
        *("network", "pooling", "accuracy, %", "with shifts", "consistency, %", "with shifts"),
        *("swing", "with shifts", "training images/s", "kept for backward, MB", "peak, MB"),
    ]
    return markdown(head, (row(*kind) for kind in kinds()))


def similarity(data: Record) -> str:
    """Local and global similarity, without and with random shifts in training."""

    def row(network: str, pooling: str) -> list[str]:
        values = [network, pooling]
        for key in ("local", "global", "global_corner"):
            for shifts in (False, True):
                values.append(spread(of(data, network, pooling, shifts, key), digits=3))
        return values

    head = ("local", "global", "global, from a corner")
    columns = ["network", "pooling", *(name for key in head for name in (key, "with shifts"))]
    return markdown(columns, (row(*kind) for kind in kinds()))


PARTS = {"protocol": protocol, "results": results, "similarity": similarity}


def fill(page: str, data: Record) -> str:
    """The page with new contents between its markers."""

    def part(found: re.Match[str]) -> str:
        return f"{found[1]}{PARTS[found['name']](data)}\n{found[3]}"

    return PART.sub(part, page)


def generated(page: str) -> dict[str, Any]:
    """The generated parts of a page."""
    return {found["name"]: found[0] for found in PART.finditer(page)}
