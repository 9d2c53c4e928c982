"""TorchScript: traces run, save and load like the model; scripting is refused in plain words."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from fastblur import FusedBlurPool, FusedBlurPool1d, FusedMaxBlurPool
from fastblur.surgery import FilteredPool

from ..conftest import needs_extension

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), FusedMaxBlurPool(3, 2, 1, relu=True), FusedBlurPool()
    ).eval()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_trace_serves_other_sizes_formats_and_gradients(channels_last: bool, grad: bool) -> None:
    model = net()
    format = torch.channels_last if channels_last else torch.contiguous_format
    with torch.set_grad_enabled(grad):
        trace = torch.jit.trace(model, (torch.randn(2, 3, 16, 16).to(memory_format=format),))
    for x in (torch.randn(2, 3, 16, 16), torch.randn(1, 3, 21, 30), torch.randn(3, 3, 18, 17)):
        for given in (x, x.to(memory_format=torch.channels_last)):
            with torch.no_grad():
                torch.testing.assert_close(trace(given), model(given))
            (want,), (got,) = (
                torch.autograd.grad(run(given).square().sum(), model[0].weight)
                for run in (model, trace)
            )
            torch.testing.assert_close(got, want)
            assert want.abs().sum() > 0


def test_tracing_gives_no_alarm_of_its_own() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.jit.trace(net(), (torch.randn(1, 3, 16, 16),))
        torch.jit.trace(FusedBlurPool1d(), (torch.ones(2, 9),))
        torch.jit.trace(FilteredPool.zhang(2), (torch.ones(1, 2, 9, 9),))
        torch.jit.trace(FusedMaxBlurPool(backend="reference"), (torch.ones(1, 2, 9, 9),))
    assert not [w for w in seen if "fastblur" in w.filename]


@needs_extension
def test_loaded_elsewhere(tmp_path: Path) -> None:
    """A process that loads a trace imports fastblur first; without, torch says which is missing."""
    model, x = net(), torch.randn(2, 3, 16, 16)
    torch.jit.trace(model, (x,)).save(tmp_path / "trace.pt")
    torch.save((x, model(x).detach()), tmp_path / "data.pt")
    load = (
        "import torch\nx, y = torch.load('data.pt')\n"
        "torch.testing.assert_close(torch.jit.load('trace.pt')(x).detach(), y)"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    for lines, works in (("import fastblur\n" + load, True), (load, False)):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", lines],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == works, done.stderr
        if not works:
            assert "Unknown builtin op: fastblur::max_blur_pool_forward" in done.stderr


@pytest.mark.parametrize("model", [FusedMaxBlurPool(), nn.Sequential(nn.ReLU(), FusedBlurPool())])
def test_script_is_refused(model: nn.Module) -> None:
    with pytest.raises(
        NotImplementedError, match=r"torch\.jit\.script cannot compile Fused.*trace"
    ):
        torch.jit.script(model)
