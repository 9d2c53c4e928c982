"""What hostile.py tries ends in an error whose first line says why, in a process that goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..conftest import needs_extension
from .hostile import calls

pytestmark = needs_extension
ERRORS = {"TypeError", "ValueError", "RuntimeError", "NotImplementedError", "OutOfMemoryError"}


def test_hostile_calls_are_refused_and_never_crash(
    record_property: Callable[[str, object], None],
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.hostile"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    expected = list(calls())
    assert len(outcomes) == len(expected) >= 200
    record_property("calls", len(outcomes))
    wrong = []
    for call, outcome in zip(expected, outcomes, strict=True):
        assert outcome["call"] == str(call)
        if outcome["status"] != 0:
            wrong.append(f"{call}: the process died, wait status {outcome['status']}")
        elif outcome["kind"] not in ERRORS:
            wrong.append(f"{call}: {outcome['kind']} {outcome['message'][:200]}")
        else:
            first = outcome["message"].split("\n")[0]
            missing = [text for text in call.says if text not in first]
            if missing or not any(call.says):
                wrong.append(f"{call}: does not say {missing}: {first[:200]}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(expected)}:", *wrong])
