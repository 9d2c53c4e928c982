"""Which backend runs a call, and why not another.

A backend is an instance of :class:`Backend`, in a module of its own; here is their order. Whatever
goes wrong while one loads is its ``why_not``, and no error.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from .backend import Backend
from .compiled import CPU, CUDA
from .reference import REFERENCE
from .triton import TRITON

__all__ = ["BACKENDS", "NAMES", "REFERENCE", "Backend", "BackendName", "check_name", "choose"]

BackendName: TypeAlias = Literal["auto", "cpu", "cuda", "triton", "reference"]

# In the order in which "auto" tries them. Nothing measured says that Triton's kernels are faster
# than the compiled ones, so they come after those for the same devices.
BACKENDS: tuple[Backend, ...] = (CUDA, TRITON, CPU, REFERENCE)
NAMES = ("auto", *(backend.name for backend in BACKENDS))


def check_name(name: str) -> None:
    """Raises ValueError unless a backend, or "auto", has this name."""
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(map(repr, NAMES))}, got {name!r}")


def choose(name: str, device: torch.device) -> Backend:
    """The backend that runs a call; the reference, whatever the name, while it goes into ONNX.

    Raises:
        ValueError: no backend has this name.
        RuntimeError: it has been named and cannot run; ``"auto"`` never raises.
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
    """Whether ``torch.onnx.export`` is capturing the call: an ONNX file has standard operators."""
    # The second question imports the exporter, so it is asked of captured calls alone.
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
