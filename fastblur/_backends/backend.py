"""What a backend is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import _autograd
from .._geometry import Geometry
from .._operators import Operators, Size

Codes = tuple[tuple[int, ...], torch.dtype]


class Backend:
    """One way to run the op.

    Attributes:
        name: what ``backend=`` calls it.
        device_type: where it is at home; tests and the doctor run it there.
        keeps_codes: whether it keeps codes for backward (else whatever autograd keeps).
    """

    name: str
    device_type: str
    keeps_codes = True

    def why_not(self, device: torch.device) -> str | None:
        """The reason why it cannot run on a device, or None if it can. Raises nothing."""
        raise NotImplementedError

    @property
    def operators(self) -> Operators:
        """Its operators, defined; asked only where it can run."""
        raise NotImplementedError

    def run(self, x: Tensor, geometry: Geometry) -> Tensor:
        """``(x [N, C, H, W], geometry) -> y``, for checked input."""
        return _autograd.max_blur_pool(x, geometry, self.operators)

    def codes(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> Codes:
        """Shape and dtype of the codes for a tensor like ``beside``; sizes may be symbolic."""
        raise NotImplementedError

    def kernels(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> str:
        """Which of its kernels run a call, for people."""
        raise NotImplementedError

    def direct(
        self, geometry: Geometry, device: torch.device
    ) -> Callable[[Tensor], Tensor | None] | None:
        """A shorter path for plain tensors, if there is one; see ``_direct.py``."""
        return None


def in_words(geometry: Geometry) -> str:
    """The max and the taps."""
    k_h, k_w = geometry.kernel_size
    pool = "no max" if geometry.linear else f"max {k_h}x{k_w}"
    return f"{pool}, {len(geometry.taps_h)}x{len(geometry.taps_w)} taps"
