"""Chooses the backend that runs a call, and explains why the others do not.

A backend is an instance of :class:`Backend` in its own module. This module defines their order. A
failure while a backend loads becomes its ``why_not`` reason and raises nothing.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from .._dispatch.autograd import is_tracing
from .backend import Backend
from .compiled import CPU, CUDA
from .reference import REFERENCE
from .triton import TRITON

__all__ = ["BACKENDS", "NAMES", "REFERENCE", "Backend", "BackendName", "check_name", "choose"]

BackendName: TypeAlias = Literal["auto", "cpu", "cuda", "triton", "reference"]

# In the order in which "auto" tries them. The compiled CUDA kernels are faster than Triton's in
# nearly all measured calls (docs/triton.md), so they come first.
BACKENDS: tuple[Backend, ...] = (CUDA, TRITON, CPU, REFERENCE)
NAMES = ("auto", *(backend.name for backend in BACKENDS))


def check_name(name: str) -> None:
    """Raises ValueError if the name is neither "auto" nor a backend's."""
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(map(repr, NAMES))}, got {name!r}")


def choose(name: str, device: torch.device) -> Backend:
    """The backend that runs a call. During ONNX export that is always the reference.

    Raises:
        ValueError: no backend has this name.
        RuntimeError: the named backend cannot run; ``"auto"`` never raises this.
    """
    check_name(name)
    if _goes_into_onnx():
        return REFERENCE
    for backend in BACKENDS:
        if name not in ("auto", backend.name):
            continue
        reason = backend.why_not(device)
        if reason is None:
            return backend
        if name != "auto":
            raise RuntimeError(f"backend {name!r} cannot run: {reason}")
    raise AssertionError("the reference runs everywhere")


def _goes_into_onnx() -> bool:
    """Whether ``torch.onnx.export`` captures the call; ONNX has only standard operators."""
    # The last check imports the exporter, so it runs only for captured calls.
    captured = torch.compiler.is_exporting() or is_tracing()  # the latter with dynamo=False
    return captured and torch.onnx.is_in_onnx_export()
