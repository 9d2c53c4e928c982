"""What a call costs when there is nothing to compute: 1 x 4 x 8 x 8."""

from __future__ import annotations

import pytest
import torch

from fastblur import FusedMaxBlurPool

from .conftest import Race
from .test_layers_cpu import forward, full


@pytest.mark.parametrize("run", [forward, full])
def test_overhead(run: object, race: Race) -> None:
    x = torch.randn(1, 4, 8, 8)
    layers = {
        "fastblur": FusedMaxBlurPool(3, 2, 1, filter_size=3),
        "unfused": FusedMaxBlurPool(3, 2, 1, filter_size=3, backend="reference"),
    }
    try:
        from antialiased_cnns import BlurPool
    except ImportError:
        pass
    else:
        layers["antialiased_cnns"] = torch.nn.Sequential(
            torch.nn.MaxPool2d(3, 1, 1), BlurPool(4, filt_size=3)
        )
    dy = torch.randn(1, 4, 4, 4)
    runners = {name: run(layer, x, dy) for name, layer in layers.items()}  # type: ignore[operator]
    race(f"1x4x8x8 {run.__name__}", runners, rounds=21, repeats=200, evict=False)  # type: ignore[attr-defined]
