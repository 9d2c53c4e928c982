"""One process or several, and their stop signals."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class Processes:
    """This process among those that `torchrun` started; a single one without it."""

    def __init__(self, device: str) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        self.device = torch.device(device, local) if device == "cuda" else torch.device(device)
        if device == "cuda":
            torch.cuda.set_device(self.device)
        self.distributed = "RANK" in os.environ
        # Communication other than gradients never waits for a GPU.
        self._talk: dist.ProcessGroup | None = None
        if self.distributed:
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
            self._talk = dist.new_group(backend="gloo")

    @property
    def first(self) -> bool:
        """Whether this process writes files and output."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value's sum over all processes."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.distributed:
            dist.all_reduce(total, group=self._talk)
        return total.tolist()

    def largest(self, value: int) -> int:
        """The value's maximum over all processes."""
        most = torch.tensor(value)
        if self.distributed:
            dist.all_reduce(most, dist.ReduceOp.MAX, group=self._talk)
        return int(most)

    def gather(self, value: T) -> list[T]:
        """The value of each process, by rank."""
        values: list[Any] = [value]
        if self.distributed:
            values = [None] * self.count
            dist.all_gather_object(values, value, group=self._talk)
        return values

    def share(self, tensors: list[Tensor]) -> None:
        """Copies the first process's tensors to all, in place."""
        if self.distributed:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def close(self) -> None:
        """Leaves the process group."""
        if self.distributed:
            dist.destroy_process_group()


class StopSignal:
    """Records the first Ctrl-C or SIGTERM, so that a step can end; a second ends the process.

    A terminal and `torchrun` both deliver a Ctrl-C, so it arrives twice. Two signals within a
    second count as one.
    """

    def __init__(self) -> None:
        self.received = 0  # the signal's number
        self._when = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received and time.monotonic() - self._when > 1:
            os._exit(128 + number)
        if not self.received:
            self.received, self._when = number, time.monotonic()


def leave_signals_to_parent(_: int) -> None:
    """Start-up of a data-loading process: leaves signals to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
