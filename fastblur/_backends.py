"""Which backend runs a call, and why not another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from . import _autograd, _extension, _ops, _reference
from ._geometry import Geometry

BackendName: TypeAlias = Literal["auto", "cpu", "reference"]


@dataclass(frozen=True)
class Backend:
    """One way to run the op.

    Attributes:
        name: what ``backend=`` calls it.
        run: ``(x [N, C, H, W], geometry) -> y``, for checked input.
        why_not: the reason why it cannot run on a device type, or None if it can.
        keeps_codes: whether it keeps codes for backward (else whatever autograd keeps).
    """

    name: str
    run: Callable[[Tensor, Geometry], Tensor]
    why_not: Callable[[str], str | None]
    keeps_codes: bool


def _why_not_cpu(device_type: str) -> str | None:
    if not _ops.AVAILABLE:
        return _extension.WHY_NOT
    if device_type not in ("cpu", "meta"):
        return f"it runs on the CPU only, and the input is on {device_type!r}"
    return None


# In the order in which "auto" tries them.
BACKENDS = (
    Backend("cpu", _autograd.max_blur_pool, _why_not_cpu, keeps_codes=True),
    Backend("reference", _reference.max_blur_pool, lambda device_type: None, keeps_codes=False),
)
NAMES = ("auto", *(backend.name for backend in BACKENDS))


def choose(name: str, device_type: str) -> Backend:
    """The backend that runs a call.

    Raises:
        ValueError: no backend has this name.
        RuntimeError: it has been named and cannot run; ``"auto"`` never raises.
    """
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(map(repr, NAMES))}, got {name!r}")
    for backend in BACKENDS:
        if name not in ("auto", backend.name):
            continue
        reason = backend.why_not(device_type)
        if reason is None:
            return backend
        if name != "auto":
            raise RuntimeError(f"backend {name!r} cannot run: {reason}")
    raise AssertionError("the reference runs everywhere")
