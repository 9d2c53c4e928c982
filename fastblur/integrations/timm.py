"""timm's blur pool, fused: ``timm.create_model(..., aa_layer=BlurPool2d)``.

It does what ``timm.layers.BlurPool2d`` does in timm 1.0.31, and does not import timm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..surgery.recognition.known import read_timm
from ._drop_in import DropIn, binomial_filter

__all__ = ["BlurPool2d"]


class BlurPool2d(DropIn):
    """``timm.layers.BlurPool2d``, fused: blur and subsample.

    Arguments, defaults, attributes, numbers and errors are timm's, and so is the buffer ``filt``,
    which is not part of the state dict. Every model of timm that has an argument ``aa_layer``
    takes the class.

    Two things differ. The filter has at most 31 taps, and a filter of another dtype or on another
    device than the input is no error: ``timm.create_model`` hands its ``device`` and ``dtype`` to
    no class but its own.

    Args:
        channels: number of channels of the input. Default: any.
        filt_size: number of binomial taps, 2 to 31.
        stride: of the blur.
        pad_mode: "reflect", "replicate", "constant" (zeros) or "circular". Both sides are padded
            with ``(stride + filt_size - 2) // 2``.
        device: of the buffer.
        dtype: of the buffer.

    Shape:
        - Input: [N, C, H, W], or [C, H, W] if ``channels`` is given; float32, float64, float16 or
          bfloat16.
        - Output: the same with ``(H + 2 * padding - filt_size) // stride + 1`` rows.

    Raises:
        AssertionError: ``filt_size`` is less than 2.
        RuntimeError: when it is called: what timm's layer raises it for, such as another number of
            channels, or an input smaller than the padding of "reflect".
        TypeError: an argument is of the wrong type.
        ValueError: ``filt_size`` is more than 31, or the values of ``filt`` are not separable.

    Example:
        >>> import torch
        >>> from fastblur.integrations.timm import BlurPool2d
        >>> BlurPool2d(64)(torch.zeros(1, 64, 56, 56)).shape
        torch.Size([1, 64, 28, 28])
    """

    stands_for = "timm.layers.BlurPool2d"
    settings = ("filt_size", "stride", "pad_mode", "padding")
    read = read_timm
    channels: Any = None
    padding: Any = None

    def __init__(
        self,
        channels: int | None = None,
        filt_size: int = 3,
        stride: int = 2,
        pad_mode: str = "reflect",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not filt_size > 1:
            raise AssertionError(f"filt_size must be 2 or more, got {filt_size!r}")
        shape = (channels or 1, 1, filt_size, filt_size)
        super().__init__(torch.zeros(shape, device=device, dtype=dtype), persistent=False)
        self.channels = channels
        self.filt_size = filt_size
        self.stride = stride
        self.pad_mode = pad_mode
        self.padding = [_padding(filt_size, stride)] * 4
        self.reset_parameters()
        self.settle()

    def reset_parameters(self) -> None:
        """Fills the buffer."""
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        """Fills the buffer, as timm asks for after it has made a model on the meta device."""
        with torch.no_grad():
            plane = binomial_filter(self.filt_size, self.filt_size, "cpu")
            channels = 1 if self.channels is None else self.channels
            self.filter.copy_(plane.repeat(channels, 1, 1, 1))
        self._read_taps()

    def takes_unbatched(self) -> bool:
        """Whether the original layer takes inputs without a batch."""
        return self.channels is not None


def _padding(size: Any, stride: Any) -> Any:
    """Timm's padding of a side, or one for each entry of a stride that is a pair."""
    if isinstance(stride, Sequence) and not isinstance(stride, str):
        return [_padding(size, entry) for entry in stride]
    return (stride - 1 + size - 1) // 2
