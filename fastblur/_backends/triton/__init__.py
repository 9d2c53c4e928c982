"""The Triton backend: what it can run, its codes, and its operators, which compilers look into.

This module does not import triton, which is slow; the first use of the backend does.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import _compat
from ..._dispatch import autograd
from ..._dispatch.operators import Arguments, Checked, Operators, Size
from ..._geometry import Geometry
from ..backend import Backend, Codes, in_words

_HAS_TRITON = importlib.util.find_spec("triton") is not None  # does not import it


class Triton(Backend):
    """Codes are words of four columns each, in the memory order of x.

    The top of ``forward.py`` describes the words. Only these codes have four
    dimensions, so no other backend accepts them.

    Args:
        traced: whether calls are recorded into a graph.
    """

    name = "triton"
    device_type = "cuda"
    alignment = 1

    def __init__(self, traced: bool = False) -> None:
        self._traced = traced

    def why_not(self, device: torch.device) -> str | None:
        if not _HAS_TRITON:
            return (
                "triton is not installed (pip install triton; PyTorch's own builds for CUDA and "
                "ROCm bring it, and those for XPU pytorch-triton-xpu)"
            )
        if device.type not in ("cuda", "xpu"):  # ROCm devices are called cuda too
            return f"it runs on GPUs only (CUDA, ROCm, XPU), and the input is on {device.type!r}"
        return _why_not_loaded()

    @property
    def operators(self) -> Operators:
        reason = _why_not_loaded()
        assert reason is None, reason
        return OPERATORS

    def call(self, geometry: Arguments, size: Size, channels_last: bool, beside: Tensor) -> Any:
        """Checks a call; see ``_dispatch/operators.py``."""
        from . import launch

        return launch.Call(_checked(geometry), size, channels_last, beside, self._traced)

    def codes(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> Codes:
        return codes_of(geometry, size, channels_last)

    def kernels(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> str:
        call = self.call(geometry.arguments(), size, channels_last, beside)
        return f"{in_words(geometry)} ({call.kernels()})"


TRITON = Triton()


@functools.lru_cache(maxsize=1024)
def _checked(geometry: Arguments) -> Geometry:
    return Geometry(*geometry).checked()


def codes_of(
    geometry: Geometry, size: Size, channels_last: bool, beside: Tensor | None = None
) -> Codes:
    """Shape and dtype of the codes; sizes may be symbolic."""
    images, channels, height, width = size
    if geometry.linear:
        return (images, 0, 0, 0), torch.int8
    _, m_w = geometry.pooled_size(height, width)
    (k_h, _), (p_h, _) = geometry.kernel_size, geometry.padding
    rows = height + max(0, 2 * p_h - k_h + 1)  # of x or of m, whichever has more
    strips = (m_w + 3) // 4
    shape = (images, rows, strips, channels) if channels_last else (images, channels, rows, strips)
    bits = 4 * geometry.code_bits
    return shape, torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32


OPERATORS = Operators("triton_max_blur_pool", codes_of)


@functools.cache
def _load() -> str | None:
    """Registers the operators, or returns the reason why that fails."""
    try:
        from . import launch  # noqa: F401

        OPERATORS.define({"CompositeExplicitAutograd": TRITON})
        autograd.register(OPERATORS)
        _open_to_compilers()
    except Exception as error:  # an unknown version of triton or torch
        return f"triton does not load ({type(error).__name__}: {error})"
    return None


def _why_not_loaded() -> str | None:
    return _load()


# Like torch.compiler.assume_constant_result, which would import the compiler and triton.
_why_not_loaded._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _open_to_compilers() -> None:
    """Lets torch.compile decompose the operators into launches, like ``torch.library.triton_op``.

    ``triton_op`` defines operators itself, and accepts a schema only from torch 2.14 on.
    """
    from torch._subclasses.functional_tensor import FunctionalTensorMode

    traced = Checked(Triton(traced=True).call, TRITON.alignment)
    for name in ("forward", "backward", "apply"):
        torch.library.register_torch_dispatch(
            f"fastblur::{OPERATORS.family}_{name}",
            FunctionalTensorMode,
            functools.partial(_launches, getattr(traced, name)),
            lib=OPERATORS.library,
        )


def _launches(
    run: Callable[..., Any], mode: Any, operator: Any, types: Any, args: Any, kwargs: Any
) -> Any:
    # An exported program keeps the operators whole, so that it can be saved.
    if _compat.keeps_triton_operators():
        return mode.__torch_dispatch__(operator, types, args, kwargs)
    with mode:
        return run(*args, **kwargs)
