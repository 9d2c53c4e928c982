"""The table of multiply-adds in docs/choosing.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastblur import antialias_

PAGE = Path(__file__).parents[2] / "docs/choosing.md"
if not PAGE.exists():
    pytest.skip("runs from a source tree only", allow_module_level=True)
models = pytest.importorskip("torchvision.models", reason="the table is of torchvision's models")
ROWS = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text(), re.M)


def billions(model: torch.nn.Module) -> str:
    """Multiply-adds of an image, each of which the counter takes for two operations."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    return f"{counter.get_total_flops() / 2e9:.2f}"


def test_there_are_rows() -> None:
    assert len(ROWS) >= 4


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_multiply_adds(row: tuple[str, ...]) -> None:
    name, *said = row
    found = []
    for recipe in (None, dict(), dict(blur_first=True)):
        with torch.device("meta"):
            model = models.get_model(name)
        if recipe is not None:
            antialias_(model, **recipe)
        found.append(billions(model))
    assert found == said
