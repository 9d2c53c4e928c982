"""benchmarks/gpu/run.py runs through without a GPU, and says that this measures none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import needs_extension

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"
pytestmark = [
    needs_extension,
    pytest.mark.skipif(not SCRIPT.exists(), reason="runs from a source tree only"),
]


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="the script writes its tables with rich")
    done = script("--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    page = (tmp_path / "results.md").read_text()
    assert results["what"] == "dry run on the CPU: not a GPU measurement"
    assert results["what"] in page
    assert results["failures"] == []
    names = ["layers", "tests", "training step", "sanitizer", "torch.compile"]
    assert list(results["sections"]) == names
    assert not any("failed" in section["note"] for section in results["sections"].values())
    assert "skipped" in (tmp_path / "tests.txt").read_text()
    timed = [row for row in results["rows"] if "ms" in row]
    for section, rival in (
        ("layers", "unfused"),
        ("torch.compile", "compiled unfused"),
        ("torch.compile", "compiled slices"),
        ("torch.compile", "compiled max_pool2d + slices"),
    ):
        modes = {r["mode"] for r in timed if (r["section"], r["rival"]) == (section, rival)}
        assert modes == {"forward", "training forward", "backward", "full"}
    for row in timed:
        assert row["ms"]["low"] <= row["ms"]["median"] <= row["ms"]["high"]
        assert row["rival"] in page


def test_refuses_to_time_without_a_gpu(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = script("--out", str(tmp_path))
    assert done.returncode == 1
    assert "There is no CUDA device; --device cpu" in done.stderr
