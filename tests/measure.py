"""Bytes that a call keeps for backward, and the most that are allocated while it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def storages(net: nn.Module) -> set[int]:
    """Addresses of what a network owns, which nobody keeps for backward."""
    return {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}


def saved_bytes(call: Callable[[], object], without: Collection[int] = ()) -> int:
    """Of the distinct storages that autograd keeps, but for those at these addresses."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        call()
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for address, size in sizes.items() if address not in without)


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that is allocated at one time beyond what was there before, on the CPU.

    Counted from torch's own allocations, so that neither the C library's reserves nor other
    processes play a part.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    results = record.profiler.kineto_results
    events = [e for e in results.events() if e.name() == "[memory]"]
    events = [e for e in events if e.device_type() == DeviceType.CPU]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
