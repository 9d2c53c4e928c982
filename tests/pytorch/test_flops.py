"""Counters of FLOPs count a fused layer as the convolution that it replaces."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastblur import FusedBlurPool1d, FusedMaxBlurPool, antialias_, fuse_
from fastblur.flops import fvcore_handles

from ..conftest import needs_extension


def counted(net: nn.Module, *shape: int, backward: bool) -> int:
    x = torch.randn(shape, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = net(x)
        if backward:
            y.sum().backward()
    return counter.get_total_flops()


@needs_extension
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [dict(), dict(filter_size=(2, 5), stride=(1, 3)), dict(padding_mode="zeros", relu=True)],
    ids=str,
)
def test_a_layer_counts_as_the_reference(arguments: dict[str, Any], backward: bool) -> None:
    ours, theirs = (
        counted(FusedMaxBlurPool(**arguments, backend=backend), 2, 4, 13, 11, backward=backward)
        for backend in ("cpu", "reference")
    )
    assert ours == theirs > 0


@needs_extension
def test_one_dimension() -> None:
    assert counted(FusedBlurPool1d(3), 2, 4, 11, backward=False) == 2 * (2 * 4 * 6) * 3


@needs_extension
def test_a_fused_model_counts_as_before() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 2))
    antialias_(net)
    before = counted(net, 1, 3, 17, 17, backward=True)
    assert fuse_(net).fused
    assert counted(net, 1, 3, 17, 17, backward=True) == before


@needs_extension
def test_fvcore() -> None:
    """Its handles read the values of a traced graph; fvcore itself asks no more of them."""
    graph: Any = torch.jit.trace(FusedMaxBlurPool(3, 2, 1), torch.randn(2, 4, 8, 8)).inlined_graph
    handles = fvcore_handles()
    (node,) = (node for node in graph.nodes() if node.kind() in handles)
    count = handles[node.kind()](list(node.inputs()), list(node.outputs()))
    assert count == (2 * 4 * 4 * 4) * 4 * 4


@needs_extension
@pytest.mark.parametrize("first", ["fastblur", "torch.utils.flop_counter"])
def test_either_may_be_imported_first(first: str) -> None:
    code = f"""if True:
        import {first}, sys, torch, fastblur
        finders = len(sys.meta_path)
        from importlib.util import find_spec
        assert find_spec("torch.utils.flop_counter") is not None  # asking is not importing
        from torch.utils.flop_counter import FlopCounterMode
        with FlopCounterMode(display=False) as counter:
            fastblur.FusedMaxBlurPool()(torch.ones(1, 1, 4, 4))
        assert counter.get_total_flops() == 2 * 4 * 16
        assert len(sys.meta_path) == finders - ({first!r} == "fastblur")
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
