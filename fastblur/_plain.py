"""Whether a call on tensors is plain: they are memory, and nothing but autograd is at work."""

from __future__ import annotations

import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

# Bound here, for a call asks all of them.
keys_of = torch._C._dispatch_keys
included = torch._C._dispatch_tls_local_include_set
function_modes = torch._C._len_torch_function_stack


@functools.cache
def states(device_type: str) -> tuple[frozenset[int], frozenset[int]]:
    """What the dispatcher says where nothing is at work, of a tensor and of what is around it.

    Asked in a thread of its own, where nothing is at work whatever surrounds this call.
    """
    keys: set[int] = set()
    around: set[int] = set()

    def ask() -> None:
        for inference in (False, True):
            with torch.inference_mode(inference):
                keys.add(keys_of(torch.empty(0, device=device_type)).raw_repr())
                around.add(included().raw_repr())

    # In a torch that is not known yet, or in a process that ends, nothing is plain.
    with contextlib.suppress(RuntimeError), ThreadPoolExecutor(1) as other:
        other.submit(ask).exception()
    return frozenset(keys), frozenset(around)


def is_plain(*tensors: Any) -> bool:
    """Whether tensors are memory of a CPU or a GPU, and nothing but autograd is at work."""
    keys, around = states(tensors[0].device.type)
    return (
        included().raw_repr() in around
        and not function_modes()
        and forward_ad._current_level < 0
        and all(
            (type(t) is Tensor or type(t) is Parameter) and keys_of(t).raw_repr() in keys
            for t in tensors
        )
    )
