"""Bytes that a call keeps for backward, and the most that are allocated while it runs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

CPU = torch.device("cpu")


def storages(net: nn.Module) -> set[int]:
    """Addresses of what a network owns, which nobody keeps for backward."""
    return {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}


def saved_bytes(call: Callable[[], object], without: Collection[int] = ()) -> int:
    """Of the distinct storages that autograd keeps, but for those at these addresses."""
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        # Detached, for a node holds what it keeps, and this function: a tensor that in turn holds
        # the node would never be freed.
        kept.append(t.detach())
        return kept[-1]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        call()
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for address, size in sizes.items() if address not in without)


def peak_bytes(call: Callable[[], object], device: torch.device = CPU) -> int:
    """The most that is allocated on a device at one time beyond what was there before.

    Counted from torch's own allocations, so that neither the C library's reserves nor other
    processes play a part.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    assert record.profiler is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    events = [e for e in events if e.device_type() == DeviceType.CPU]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
