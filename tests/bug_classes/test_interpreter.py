"""This folder's tests once more, with Triton's kernels in its interpreter, in its own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .runners import INTERPRETED

ROOT = Path(__file__).parent.parent.parent
FILES = ("test_numbers.py", "test_places.py", "test_calls.py", "test_far_offsets.py")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.parametrize("file", FILES)
def test_in_the_interpreter(file: str) -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-k", "triton", f"tests/bug_classes/{file}"),
        ],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 8
