"""A process forks after it has used several threads, as a DataLoader does: its child must not wait
for threads that it does not have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import needs_extension

pytestmark = [
    needs_extension,
    pytest.mark.skipif(
        os.environ.get("FASTBLUR_SANITIZED") == "tsan",
        reason="ThreadSanitizer does not support forks with threads",
    ),
]

# The child compares bytes, for torch's own kernels may wait in it for ever.
PROGRAM = """
import os, sys, torch
from fastblur import FusedMaxBlurPool

torch.set_num_threads(4)
layer = FusedMaxBlurPool(3, 2, 1)
torch.manual_seed(0)
x = torch.randn(8, 64, 56, 56)
if sys.argv[1] == "channels_last":
    x = x.to(memory_format=torch.channels_last)
leaf = x.requires_grad_()
dy = torch.randn_like(layer(leaf))

def compute():
    y = layer(leaf)
    (dx,) = torch.autograd.grad(y, leaf, dy)
    with torch.no_grad():
        again = layer(leaf)
    return [t.detach().numpy().tobytes() for t in (y, dx, again)]

want = compute()
for generation in range(2):  # and a child of the child
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert compute() == want, "the parent"
        sys.stdout.flush()
        os._exit(code)
    assert compute() == want, "the child"
    print("right", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_forked_child_computes(layout: str) -> None:
    command = [sys.executable, "-c", PROGRAM, layout]
    # A session of its own, so that a child that hangs ends with it.
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            out, error = program.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, 9)
            raise
    assert program.returncode == 0, error[-2000:]
    assert out.split() == ["right", "right"]
