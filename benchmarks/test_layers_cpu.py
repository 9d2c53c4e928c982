"""One layer on the CPU, fused against the eager layers that compute the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastblur import FusedBlurPool, FusedMaxBlurPool, _extension, explain

from .conftest import Race

antialiased_cnns = pytest.importorskip("antialiased_cnns")
timm_layers = pytest.importorskip("timm.layers")

LAYERS = {
    "8x64x112 max3 f3": ((8, 64, 112, 112), 3, 1, 3),
    "8x64x112 max2 f4": ((8, 64, 112, 112), 2, 0, 4),
    "4x512x28 max2 f4": ((4, 512, 28, 28), 2, 0, 4),
    "64x64x10 max2 f4": ((64, 64, 10, 10), 2, 0, 4),
    "8x256x56 blur f4": ((8, 256, 56, 56), 1, 0, 4),
}


def forward(layer: nn.Module, x: Tensor, _: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return layer(x)

    return run


def backward(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    return lambda: torch.autograd.grad(y, leaf, dy, retain_graph=True)


def full(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    leaf = x.detach().requires_grad_()
    return lambda: torch.autograd.grad(layer(leaf), leaf, dy)


def copy_of(n_bytes: int) -> Callable[[], object]:
    """Moves exactly so many bytes: half of them read, half of them written."""
    source = torch.randn(n_bytes // 8)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


@pytest.mark.parametrize("run", [forward, backward, full])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(
    name: str,
    channels_last: bool,
    dtype: torch.dtype,
    run: Callable[[nn.Module, Tensor, Tensor], Callable[[], object]],
    race: Race,
) -> None:
    shape, pool, pad, f = LAYERS[name]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(shape).to(dtype=dtype, memory_format=memory_format)
    max_pool = [nn.MaxPool2d(pool, 1, pad)] if pool > 1 else []
    layers: dict[str, nn.Module] = {
        "fastblur": FusedMaxBlurPool(pool, 2, pad, filter_size=f) if pool > 1 else FusedBlurPool(f),
        "antialiased_cnns": nn.Sequential(
            *max_pool, antialiased_cnns.BlurPool(shape[1], filt_size=f).to(dtype)
        ),
    }
    if f % 2:  # with an even filter timm pads otherwise
        layers["timm"] = nn.Sequential(
            *max_pool, timm_layers.BlurPool2d(shape[1], filt_size=f).to(dtype)
        )
    y = layers["fastblur"](x)
    dy = torch.randn_like(y)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for layer in layers.values():
        torch.testing.assert_close(layer(x), y, rtol=tolerance, atol=tolerance)

    runners = {key: run(layer, x, dy) for key, layer in layers.items()}
    one_way = x.nbytes + y.nbytes
    if _extension.C is not None and run is not forward:
        one_way += explain(x, layers["fastblur"]).bytes_saved or 0  # type: ignore[arg-type]
    runners["copy of its bytes"] = copy_of(one_way * (2 if run is full else 1))
    race(f"{name} {dtype} {'NHWC' if channels_last else 'NCHW'} {run.__name__}", runners)
