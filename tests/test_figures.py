"""The pictures and the table of docs/science.md come out of examples/figures.py alone."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT, PAGE, FIGURES = (
    ROOT / "examples" / "figures.py",
    ROOT / "docs" / "science.md",
    ROOT / "docs" / "figures",
)
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="runs from a source tree only")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("matplotlib", "mlxtend", "rich"):
        pytest.importorskip(name, reason="the script needs it")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("figures")


def test_the_page_says_what_was_measured(script: ModuleType) -> None:
    """No figure of the table was typed by hand or is left over from another run."""
    data = json.loads((FIGURES / "science.json").read_text())
    page = PAGE.read_text()
    assert script.fill(page, data) == page
    assert len(data["run"]["seeds"]) >= 3
    assert len(data["networks"]) == len(data["run"]["seeds"]) * len(script.POOLINGS)


def test_pictures_are_small_and_all_shown() -> None:
    pictures = sorted(path.name for path in FIGURES.glob("*.png"))
    assert pictures == ["signal.png", "similarity.png", "stability.png"]
    for name in pictures:
        assert (FIGURES / name).stat().st_size < 150_000
        assert f"(figures/{name})" in PAGE.read_text()


def test_table_by_hand(script: ModuleType) -> None:
    data = json.loads((FIGURES / "science.json").read_text())
    values = {"max pooling": (0.8, 0.9), "filter 4": (0.85, 0.97)}
    networks: list[dict[str, Any]] = [
        {"pooling": name, "seed": seed, "accuracy": 0.5, "swing": 0.25, "similarity": 0.75}
        | {"consistency": values.get(name, (0.0, 0.0))[seed]}
        for seed in range(2)
        for name in script.POOLINGS
    ]
    table = script.table(data | {"networks": networks})
    rows = [line for line in table.splitlines() if line.startswith(("| max pooling", "| max +"))]
    assert rows[0] == (
        "| max pooling | 50.00 ± 0.00 | 85.00 ± 7.07 |  | 0.250 ± 0.000 | 0.7500 ± 0.0000 |"
    )
    assert "| 91.00 ± 8.49 | +6.00 ± 1.41 |" in rows[3]


@pytest.mark.slow
def test_quick_run(script: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path), "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("\n| max") == len(script.POOLINGS)
    for name in script.PICTURES:
        (tmp_path / f"{name}.png").unlink()
    subprocess.run([*command, "--redraw"], check=True, capture_output=True, timeout=600)
    assert page.read_text() == text
    for name in script.PICTURES:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
