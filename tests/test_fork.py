"""A forked child, such as a DataLoader's worker, runs on one thread and waits for no other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import needs_extension

PROGRAM = """
import os, torch
from fastblur import FusedMaxBlurPool

torch.set_num_threads(3)
layer = FusedMaxBlurPool(3, 2, 1, backend="cpu")
x = torch.randn(4, 16, 128, 128, requires_grad=True)
dy = torch.randn(4, 16, 64, 64)


def run():
    y = layer(x)
    return y, *torch.autograd.grad(y, x, dy)


want = run()
child = os.fork()
if child == 0:
    got = run()
    torch.set_num_threads(1)  # torch.equal would hang
    os._exit(0 if all(map(torch.equal, got, want)) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert all(map(torch.equal, run(), want))  # the parent has its threads still
"""


@needs_extension
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_does_not_hang() -> None:
    # A session of its own, so that a child that hangs ends with it.
    with subprocess.Popen([sys.executable, "-c", PROGRAM], start_new_session=True) as program:
        try:
            assert program.wait(timeout=120) == 0
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, 9)
            raise
