"""The base class of the backends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._dispatch import autograd
from .._dispatch.operators import Operators, Size
from .._geometry import Geometry
from .._geometry.upsampling import Operation, Upsampling

Codes = tuple[tuple[int, ...], torch.dtype]


class Backend:
    """One way to run the operation.

    Attributes:
        name: its name in ``backend=``.
        device_type: the type of device on which tests and the doctor run it.
        keeps_codes: whether it keeps codes for backward; if not, autograd decides what to keep.
    """

    name: str
    device_type: str
    keeps_codes = True

    def why_not(self, device: torch.device) -> str | None:
        """The reason why it cannot run on a device, or None if it can. Never raises."""
        raise NotImplementedError

    @property
    def operators(self) -> Operators:
        """Its family of operators, defined; read only if the backend can run."""
        raise NotImplementedError

    def run(self, x: Tensor, geometry: Geometry) -> Tensor:
        """Computes y from a checked x [N, C, H, W]."""
        return autograd.max_blur_pool(x, geometry, self.operators)

    def upsample(self, x: Tensor, upsampling: Upsampling) -> Tensor:
        """Computes the transpose of a blur from a checked x [N, C, H, W]."""
        return autograd.blur_upsample(x, upsampling, self.operators)

    def codes(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> Codes:
        """Shape and dtype of the codes for a tensor like ``beside``; sizes may be symbolic."""
        raise NotImplementedError

    def kernels(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> str:
        """The kernels that run a call, in words."""
        raise NotImplementedError

    def upsampling_kernels(
        self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor
    ) -> str:
        """The kernels that run the transpose of a blur, in words; ``size`` is its output's."""
        return f"backward of {self.kernels(geometry, size, channels_last, beside)}"

    def direct(
        self, operation: Operation, device: torch.device
    ) -> Callable[[Tensor], Tensor | None] | None:
        """The direct path for plain tensors, or None; see ``_dispatch/direct.py``."""
        return None


def in_words(geometry: Geometry) -> str:
    """The sizes of the max and of the filter, in words."""
    k_h, k_w = geometry.kernel_size
    pool = "no max" if geometry.linear else f"max {k_h}x{k_w}"
    return f"{pool}, {len(geometry.taps_h)}x{len(geometry.taps_w)} taps"
