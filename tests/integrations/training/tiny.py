"""A small network, its data, and whether it is fused."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastblur import fuse_
from fastblur.surgery import FilteredPool


def blurred() -> nn.Sequential:
    """With unfused anti-aliasing layers; the same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 1), FilteredPool.zhang(16)),
        *(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), FilteredPool.zhang(16)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )


def plain() -> nn.Sequential:
    """An ordinary one, whose max and strided convolution `antialias_` changes."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )


def batches() -> DataLoader[tuple[Tensor, ...]]:
    """Four batches of four images, in the same order each time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, 24, 24, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(16) % 2), batch_size=4)


def is_fused(model: nn.Module) -> bool:
    """Whether `fuse_` was here. Asks it, so it is the last thing to ask of a model."""
    report = fuse_(model)
    return report.already > 0 and not report.changed


def erase(model: nn.Module) -> None:
    """Sets every weight to zero, so that it must come from a checkpoint."""
    for parameter in model.parameters():
        nn.init.zeros_(parameter)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy, to compare with later."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
