"""Training of one network, and what determines it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import CANVAS, MARGIN, centred


@dataclass(frozen=True)
class Recipe:
    """How every network is trained: SGD with momentum, one cycle of the learning rate."""

    epochs: int
    batch_size: int
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4


def training_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """One training step; returns the loss."""
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def optimizer_of(net: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """The optimizer of the recipe."""
    return torch.optim.SGD(
        net.parameters(),
        recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )


def train(
    net: nn.Module,
    data: tuple[Tensor, Tensor],
    recipe: Recipe,
    *,
    shifts: bool,
    seed: int,
    tick: Callable[[], object] = lambda: None,
) -> list[float]:
    """Trains in place and returns the loss of each step; the seed sets the order and the shifts.

    With `shifts` each image is moved by up to MARGIN pixels along both axes, anew in each epoch;
    without, it stays in the middle of its canvas. Calls `tick` after each step.
    """
    images, labels = data
    steps = len(images) // recipe.batch_size
    optimizer = optimizer_of(net, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, recipe.epochs * steps
    )
    order = torch.Generator().manual_seed(seed)
    moves = torch.Generator().manual_seed(seed + 1_000_000)
    losses = []
    net.train()
    for _ in range(recipe.epochs):
        chosen = torch.randperm(len(images), generator=order)[: steps * recipe.batch_size]
        for index in chosen.split(recipe.batch_size):
            x = centred(images[index], 2 * MARGIN if shifts else MARGIN)
            if shifts:
                x = shifted(x, moves)
            losses.append(training_step(net, optimizer, x, labels[index]))
            schedule.step()
            tick()
    return losses


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """[N, 1, CANVAS, CANVAS], each image a crop at its own random place."""
    most = x.shape[2] - CANVAS
    down, right = torch.randint(most + 1, (2, len(x)), generator=generator)
    windows = x.unfold(2, CANVAS, 1).unfold(3, CANVAS, 1)  # [N, 1, places, places, height, width]
    return windows[torch.arange(len(x)), :, down, right]
