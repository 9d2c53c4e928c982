"""What hostile.py tries ends in an error that names the argument, in a process that goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .conftest import needs_extension
from .hostile import calls

pytestmark = needs_extension
ERRORS = {"TypeError", "ValueError", "RuntimeError", "NotImplementedError", "OutOfMemoryError"}


def test_hostile_calls_are_refused_and_never_crash() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    expected = list(calls())
    assert len(outcomes) == len(expected) >= 200
    wrong = []
    for call, outcome in zip(expected, outcomes, strict=True):
        assert outcome["call"] == str(call)
        if outcome["status"] != 0:
            wrong.append(f"{call}: the process died, wait status {outcome['status']}")
        elif outcome["kind"] not in ERRORS:
            wrong.append(f"{call}: {outcome['kind']} {outcome['message'][:200]}")
        elif call.mentions not in outcome["message"]:
            wrong.append(f"{call}: does not mention {call.mentions!r}: {outcome['message'][:200]}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(expected)}:", *wrong])
