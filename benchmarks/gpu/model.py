"""A small anti-aliased network, to see what of a layer's gain is left in a training step."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from fastblur import FusedBlurPool, FusedMaxBlurPool

# Makes the pooling of a stage, its ReLU included, from its channels and the size of its max.
Pooling = Callable[[int, int], nn.Module]


def _antialiased_cnns(channels: int, pool: int) -> nn.Module:
    from antialiased_cnns import BlurPool

    maximum = [nn.MaxPool2d(pool, 1, pool // 2)] if pool > 1 else []
    return nn.Sequential(nn.ReLU(inplace=True), *maximum, BlurPool(channels, filt_size=4))


def _fused(backend: str) -> Pooling:
    def make(_: int, pool: int) -> nn.Module:
        if pool == 1:
            return FusedBlurPool(4, relu=True, backend=backend)  # type: ignore[arg-type]
        return FusedMaxBlurPool(pool, 2, pool // 2, relu=True, backend=backend)  # type: ignore[arg-type]

    return make


def _strided(_: int, pool: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(max(pool, 2), 2, pool // 2))


VARIANTS: dict[str, Pooling] = {
    "fastblur": _fused("auto"),
    "unfused": _fused("reference"),
    "antialiased_cnns": _antialiased_cnns,
    "max pooling, not anti-aliased": _strided,
}


def network(pooling: Pooling, width: int) -> nn.Module:
    """Three stages as in a ResNet: one max with blur, then blurs alone."""
    layers: list[nn.Module] = []
    channels = 3
    for number, pool in enumerate((3, 1, 1)):
        wide = width * 2**number
        layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide)]
        layers += [pooling(wide, pool)]
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def step(
    pooling: Pooling, device: torch.device, dtype: torch.dtype, channels_last: bool, small: bool
) -> Callable[[], object]:
    """A training step that can be called any number of times; 16-bit types run by autocast."""
    batch, size, width = (2, 32, 4) if small else (64, 224, 64)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    model = network(pooling, width).to(device=device, memory_format=memory_format)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(batch, 3, size, size, device=device).to(memory_format=memory_format)
    target = torch.randint(1000, (batch,), device=device)

    def run() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(x), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return run
