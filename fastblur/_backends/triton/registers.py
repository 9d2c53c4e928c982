"""Launches of Triton's kernels, such that none keeps values on the stack.

NVIDIA's assembler gives up registers so that more warps fit, and then keeps a few values on the
stack. Which kernels that happens to differs between GPUs and releases and follows from nothing in
the source. So the first launch asks the driver about its kernel, and if that spills, it and those
after it are of one that has as many registers as it needs. (Kernels write what they are given to
write and read nothing of it, so to launch one twice does no harm.)
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._library.triton import is_wrap_triton_enabled
from torch.library import wrap_triton

MOST = 255  # registers of a thread


class Launcher:
    """``Launcher(kernel)[grid](...)`` launches a kernel, or puts it into the graph being made.

    torch.compile makes its own kernel of the one in a graph, and cannot be told of registers.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._options: dict[tuple[object, ...], dict[str, int]] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        if is_wrap_triton_enabled():
            return wrap_triton(self._kernel)[grid]
        return functools.partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        beside = arguments[0]
        key = (beside.device, beside.dtype, *constants.values())
        options = self._options.get(key, {})
        compiled = self._kernel[grid](*arguments, **constants, **options)
        if key in self._options:
            return
        nvidia = beside.device.type == "cuda" and not torch.version.hip
        spills = nvidia and getattr(compiled, "n_spills", 0)
        self._options[key] = options = {"maxnreg": MOST} if spills else {}
        if spills:  # at once, so that no later call has to compile: a CUDA graph cannot
            self._kernel[grid](*arguments, **constants, **options)


launcher = functools.cache(Launcher)
