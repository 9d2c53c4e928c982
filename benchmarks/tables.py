"""Markdown tables."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


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
