"""How things are timed: rivals in turn, cold caches, medians with spread.

What differs between devices is here alone, in :class:`Clock`: the CPU has the wall clock, a GPU
CUDA events.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .workloads import Traffic

Runner = Callable[[], object]
# Bytes. A cache of hundreds of MiB serves far more cores than take part in a race: to read three
# times as much would take longer than the race does.
SMALLEST_BUFFER, LARGEST_BUFFER = 64 * 2**20, 512 * 2**20
SLEEP_CYCLES = 4_000_000  # about two milliseconds, longer than Python takes to queue any rival


@dataclass(frozen=True)
class Times:
    """Milliseconds of one rival: over its rounds the median, the quartiles and the extremes."""

    median: float
    low: float
    high: float
    min: float
    max: float
    rounds: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Times:
        values = sorted(1e3 * value for value in seconds)
        quartiles = [values[0]] * 3
        if len(values) > 1:
            quartiles = statistics.quantiles(values, n=4, method="inclusive")
        low, median, high = quartiles
        return cls(median, low, high, values[0], values[-1], len(values))


class CudaStamp:
    """A moment on the device's own clock; the difference of two is in seconds."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, start: CudaStamp) -> float:
        self.event.synchronize()
        return float(start.event.elapsed_time(self.event)) / 1e3


class Clock:
    """The time on a device, and its caches.

    Attributes:
        now: the moment: two of them differ by seconds.
        buffer: what the caches are filled with, three times as large as they are, within limits.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.on_gpu = device, device.type == "cuda"
        self.now: Callable[[], Any] = CudaStamp if self.on_gpu else time.perf_counter
        size = min(max(3 * cache_bytes(device), SMALLEST_BUFFER), LARGEST_BUFFER)
        # Ones: pages of zeros that nobody wrote are one page, and reading them evicts nothing.
        self.buffer = torch.ones(size // 4, device=device)

    def prepare(self, cold: bool) -> None:
        """Finishes what came before and, if it is to be cold, empties the caches.

        By reading: what was written would have to leave the cache in the time of the next call.
        On a GPU the device then waits, so that Python's own time is not in the figure.
        """
        if self.on_gpu:
            torch.cuda.synchronize()
        if cold:
            self.buffer.sum()
            if self.on_gpu:
                torch.cuda._sleep(SLEEP_CYCLES)


def page_faults() -> int:
    """Pages of memory that this process has touched for the first time, so far.

    Whether the C library hands out large memory afresh depends on what was freed before, and a new
    page takes longer to come than to fill.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def cache_bytes(device: torch.device) -> int:
    """Size of the largest cache, 0 if the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    units = {"K": 2**10, "M": 2**20}
    sizes = [
        int(text[:-1]) * units[text[-1]]
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        if (text := path.read_text().strip())[-1] in units
    ]
    return max(sizes, default=0)


class Race:
    """Times functions one after the other, round by round, so that all meet the same conditions."""

    def __init__(
        self, clock: Clock, runners: Mapping[str, Runner], cold: bool = True, repeats: int = 1
    ) -> None:
        """Nothing is called yet.

        Args:
            clock: of the device.
            runners: what to call, by name. If one has an attribute ``before``, this is called
                first, untimed, and ``run`` is timed.
            cold: whether to empty the caches before each timing.
            repeats: calls in one timing, for calls that take microseconds.
        """
        self.clock, self.cold, self.repeats = clock, cold, repeats
        self.before = {name: getattr(run, "before", None) for name, run in runners.items()}
        self.runners = {name: getattr(run, "run", run) for name, run in runners.items()}
        if repeats > 1 and any(self.before.values()):
            raise ValueError(
                "what needs something before each call cannot be repeated in one timing"
            )
        self.seconds: dict[str, list[float]] = {name: [] for name in runners}
        self.faults: dict[str, list[int]] = {name: [] for name in runners}

    def run(self, rounds: int, warm_up: int = 2, deadline: float = float("inf")) -> None:
        """All rounds; fewer, but at least three, if the deadline (of time.monotonic) comes."""
        names = list(self.runners)
        for number in range(-warm_up, rounds):
            if number >= 3 and time.monotonic() > deadline:
                break
            first = number % len(names)
            for name in names[first:] + names[:first]:
                elapsed, faults = self._time(name)
                if number >= 0:
                    self.seconds[name].append(elapsed)
                    self.faults[name].append(faults)

    def _time(self, name: str) -> tuple[float, int]:
        run, before = self.runners[name], self.before[name]
        if before is not None:
            before()
        self.clock.prepare(self.cold)
        faults = page_faults()
        start = self.clock.now()
        for _ in range(self.repeats):
            result = run()
        elapsed = self.clock.now() - start
        faults = page_faults() - faults
        del result  # not before: to free memory takes time
        return float(elapsed) / self.repeats, faults

    @property
    def times(self) -> dict[str, Times]:
        return {name: Times.of(values) for name, values in self.seconds.items()}


LIMIT = "limit"


def limit(traffic: Traffic, device: torch.device) -> Runner:
    """A copy of as many bytes to memory that is in use already, by all threads.

    Half of the bytes are read and half written, which is just what forward and backward together
    do. Of the ways to copy on the CPU that were compared at 0.5 to 128 MiB with two threads, this
    was the fastest or within a tenth of it: the C library's memmove, with one thread or two, and
    a product with 1 into the target were the others.
    """
    source = torch.randn(max(traffic.total // 8, 1), device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)
