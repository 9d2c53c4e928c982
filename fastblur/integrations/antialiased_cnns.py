"""The blur pools of antialiased_cnns, fused: change the import and nothing else.

They do what those of antialiased-cnns 0.3 do, and do not import it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .._geometry import check_scalar
from ..surgery.recognition.known import read_antialiased_cnns
from ._drop_in import DropIn, binomial_filter

__all__ = ["BlurPool", "BlurPool1D"]

_KINDS = {"refl": "Reflection", "reflect": "Reflection", "repl": "Replication"}
_KINDS |= {"replicate": "Replication", "zero": "Zero"}


class _Blur(DropIn):
    settings = ("stride", "pad")
    read = read_antialiased_cnns
    channels: Any = None
    axes: ClassVar[int]

    def __init__(
        self, channels: int, pad_type: str, filt_size: int, stride: int, pad_off: int
    ) -> None:
        check_scalar("filt_size", filt_size, 1, 7)
        if pad_type not in _KINDS:
            raise ValueError(f"pad_type must be one of {', '.join(_KINDS)}, got {pad_type!r}")
        plane = binomial_filter(filt_size if self.axes == 2 else 1, filt_size)
        shape = (channels, *[1] * self.axes)
        super().__init__((plane if self.axes == 2 else plane[0]).repeat(*shape, 1))
        self.filt_size = filt_size
        self.pad_off = pad_off
        self.pad_sizes = [(filt_size - 1) // 2 + pad_off, filt_size // 2 + pad_off] * self.axes
        self.stride = stride
        self.off = int((stride - 1) / 2)
        self.channels = channels
        self.pad = getattr(nn, f"{_KINDS[pad_type]}Pad{self.axes}d")(self.pad_sizes)
        self.settle()

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layer; one tap only subsamples, whatever the dtype, also under autocast."""
        if self.filt_size == 1:
            step = slice(None, None, self.stride)
            padded: Tensor = self.pad(input) if self.pad_off else input
            return padded[:, :, *[step] * self.axes]
        return super().forward(input)


class BlurPool(_Blur):
    """``antialiased_cnns.BlurPool``, fused: blur and subsample.

    Arguments, defaults, attributes and numbers are those of the original, and so is the buffer
    ``filt``, which is part of the state dict.

    Args:
        channels: number of channels of the input.
        pad_type: "reflect" or "refl", "replicate" or "repl", "zero".
        filt_size: number of binomial taps, 1 to 7.
        stride: of the blur.
        pad_off: padding of each side besides ``(filt_size - 1) // 2`` before and
            ``filt_size // 2`` after.

    Shape:
        - Input: [N, channels, H, W]; float32, float64, float16 or bfloat16.
        - Output: [N, channels, ceil(H / stride), ceil(W / stride)] if ``pad_off`` is 0.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there is no such ``filt_size`` or ``pad_type``. The original layer raises an
            UnboundLocalError.
        RuntimeError: when it is called: what the original layer raises it for, such as another
            number of channels.

    Example:
        >>> import torch
        >>> from fastblur.integrations.antialiased_cnns import BlurPool
        >>> BlurPool(64, stride=2)(torch.zeros(1, 64, 56, 56)).shape
        torch.Size([1, 64, 28, 28])
    """

    stands_for = "antialiased_cnns.BlurPool"
    axes = 2

    def __init__(
        self,
        channels: int,
        pad_type: str = "reflect",
        filt_size: int = 4,
        stride: int = 2,
        pad_off: int = 0,
    ) -> None:
        super().__init__(channels, pad_type, filt_size, stride, pad_off)


class BlurPool1D(_Blur):
    """``antialiased_cnns.blurpool.BlurPool1D``, fused: :class:`BlurPool` along one axis.

    Arguments and errors are those of :class:`BlurPool`; ``filt_size`` is 3 by default.

    Shape:
        - Input: [N, channels, L]; float32, float64, float16 or bfloat16.
        - Output: [N, channels, ceil(L / stride)] if ``pad_off`` is 0.
    """

    stands_for = "antialiased_cnns.blurpool.BlurPool1D"
    axes = 1

    def __init__(
        self,
        channels: int,
        pad_type: str = "reflect",
        filt_size: int = 3,
        stride: int = 2,
        pad_off: int = 0,
    ) -> None:
        super().__init__(channels, pad_type, filt_size, stride, pad_off)
