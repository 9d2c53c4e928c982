"""What a training step costs with each pooling: images per second, and memory.

Apart from the training runs, which share the machine with one another. The time is the processor's,
of one thread: waiting for other programs does not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from testing.measure import peak_bytes, saved_bytes, storages

from . import networks, training
from .data import CANVAS


@dataclass(frozen=True)
class Timing:
    """How the speed is measured: in each round every pooling runs `steps` steps, in turn."""

    rounds: int = 15
    steps: int = 8


@dataclass
class Runner:
    """A network with its optimizer, ready for steps on one batch."""

    net: nn.Module
    optimizer: torch.optim.Optimizer

    @classmethod
    def make(cls, network: str, pooling: str, recipe: training.Recipe) -> Runner:
        """A new network."""
        net = networks.build(network, pooling, 0).train()
        return cls(net, training.optimizer_of(net, recipe))

    def step(self, x: Tensor, y: Tensor) -> None:
        """One training step."""
        training.training_step(self.net, self.optimizer, x, y)


def measure(
    recipe: training.Recipe, timing: Timing, tick: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Speed and memory of every network. Calls `tick` once for each network and round."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.rand(recipe.batch_size, 1, CANVAS, CANVAS)
        y = torch.randint(10, (recipe.batch_size,))
        rows = []
        for network in networks.NETWORKS:
            runners = {name: Runner.make(network, name, recipe) for name in networks.POOLINGS}
            speeds = speeds_of(runners, x, y, timing, tick)
            for name, runner in runners.items():
                rows.append({"network": network, "pooling": name, "speeds": speeds[name]})
                rows[-1] |= memory_of(runner, x, y)
    finally:
        torch.set_num_threads(before)
    return {"timing": asdict(timing), "batch_size": recipe.batch_size, "rows": rows}


def count(timing: Timing) -> int:
    """How often `measure` calls its `tick`."""
    return len(networks.NETWORKS) * timing.rounds


def speeds_of(
    runners: dict[str, Runner], x: Tensor, y: Tensor, timing: Timing, tick: Callable[[], object]
) -> dict[str, list[float]]:
    """Images per second of each, one value for each round."""
    for runner, _ in product(runners.values(), range(2)):
        runner.step(x, y)  # to warm up
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(timing.rounds):
        for name, runner in runners.items():
            start = time.process_time()
            for _ in range(timing.steps):
                runner.step(x, y)
            seconds = time.process_time() - start
            speeds[name].append(round(timing.steps * len(x) / seconds, 1))
        tick()
    return speeds


def memory_of(runner: Runner, x: Tensor, y: Tensor) -> dict[str, int]:
    """Bytes that autograd keeps for backward, and the most that a step allocates at one time."""
    net = runner.net
    without = storages(net) | {x.untyped_storage().data_ptr(), y.untyped_storage().data_ptr()}
    return {
        "saved_bytes": saved_bytes(lambda: cross_entropy(net(x), y), without),
        "peak_bytes": peak_bytes(lambda: runner.step(x, y)),
    }


def median(row: dict[str, Any]) -> float:
    """Images per second."""
    return statistics.median(row["speeds"])


def half_range(row: dict[str, Any]) -> float:
    """Half the distance between the quartiles of its rounds."""
    low, _, high = statistics.quantiles(row["speeds"], n=4)
    return (high - low) / 2
