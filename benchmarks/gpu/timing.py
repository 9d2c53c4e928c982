"""How a GPU is timed here: rivals in turn, cold caches, device time alone, medians with spread."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Runner = Callable[[], object]
WARM_UP_ROUNDS = 2
SLEEP_CYCLES = 4_000_000  # about two milliseconds, longer than Python takes to queue any rival


@dataclass(frozen=True)
class Times:
    """Milliseconds of one rival: of all its rounds, the median and the quartiles."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> Times:
        if len(values) < 2:
            return cls(values[0], values[0], values[0], len(values))
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))


class Clock:
    """Times functions on a device; on the CPU only to let the script run without a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        if self.on_gpu:
            cache = torch.cuda.get_device_properties(device).L2_cache_size
            self.cold = torch.zeros(max(3 * cache, 2**26) // 4, device=device)

    def race(
        self, runners: dict[str, Runner], rounds: int, deadline: float, cold: bool = True
    ) -> dict[str, Times]:
        """Runs all of them once in each round, so that they meet the same clocks and heat.

        Args:
            runners: what to time, by name.
            rounds: how many; fewer, but at least three, if the deadline (of time.monotonic) comes.
            deadline: see above.
            cold: whether to empty the L2 cache first, and to let the device wait until the whole
                call is queued; else calls are timed as they come, overhead included.
        """
        times: dict[str, list[float]] = {name: [] for name in runners}
        names = list(runners)
        for number in range(-WARM_UP_ROUNDS, rounds):
            if number >= 3 and time.monotonic() > deadline:
                break
            first = number % len(names)
            for name in names[first:] + names[:first]:
                elapsed = self._time(runners[name], cold)
                if number >= 0:
                    times[name].append(elapsed)
        return {name: Times.of(values) for name, values in times.items()}

    def _time(self, run: Runner, cold: bool) -> float:
        if not self.on_gpu:
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        if cold:
            # Read, not written: what is written would have to leave the cache in the timed part.
            self.cold.sum()
            torch.cuda._sleep(SLEEP_CYCLES)
        begin.record()
        result = run()
        end.record()
        end.synchronize()
        del result
        return begin.elapsed_time(end)


def peak_bytes(run: Runner, device: torch.device) -> int | None:
    """Device memory that a call takes at most, beyond what is there before it."""
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def saved_bytes(forward: Callable[[], torch.Tensor]) -> int:
    """What a forward keeps alive for backward, the input included where it is kept."""
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward()
    return sum(kept.values())
