"""Detects plain calls: the tensors are memory, and only autograd is active."""

from __future__ import annotations

import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.overrides import has_torch_function_unary

# Bound once, because every call reads all of them.
keys_of = torch._C._dispatch_keys
included = torch._C._dispatch_tls_local_include_set
function_modes = torch._C._len_torch_function_stack


@functools.cache
def states(device_type: str) -> tuple[frozenset[int], frozenset[int]]:
    """The dispatch keys of a plain tensor, and those of a thread in which nothing is active.

    Read in a new thread, where nothing is active whatever surrounds this call.
    """
    keys: set[int] = set()
    around: set[int] = set()

    def ask() -> None:
        for inference in (False, True):
            with torch.inference_mode(inference):
                keys.add(keys_of(torch.empty(0, device=device_type)).raw_repr())
                around.add(included().raw_repr())

    # With an unknown torch version, or at process exit, nothing is plain.
    with contextlib.suppress(RuntimeError), ThreadPoolExecutor(1) as other:
        other.submit(ask).exception()
    return frozenset(keys), frozenset(around)


def is_overridden(input: Any) -> bool:
    """Whether a ``__torch_function__`` is asked: that of a subclass, a proxy of fx, or a mode."""
    return has_torch_function_unary(input) and not torch.compiler.is_compiling()


def is_plain(known: tuple[frozenset[int], frozenset[int]], *tensors: Any) -> bool:
    """Whether the tensors are memory of one type of device, and only autograd is active.

    ``known`` is what :func:`states` returns for that type.
    """
    keys, around = known
    if included().raw_repr() not in around or function_modes() or forward_ad._current_level >= 0:
        return False
    for t in tensors:  # a loop, because a generator is much slower
        if (type(t) is not Tensor and type(t) is not Parameter) or (
            keys_of(t).raw_repr() not in keys
        ):
            return False
    return True
