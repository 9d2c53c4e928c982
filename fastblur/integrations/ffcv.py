"""ffcv-imagenet's blurred convolution, fused: change the class and nothing else.

It does what the ``BlurPoolConv2d`` of that repository's training script does, which the
configurations with ``use_blurpool: 1`` use.
"""

from __future__ import annotations

from torch import nn

from ..surgery.filtered_pool import BlurredConv2d
from ..surgery.recognition.known import read_ffcv_conv
from ._drop_in import DropIn, binomial_filter

__all__ = ["BlurPoolConv2d"]


class BlurPoolConv2d(DropIn, BlurredConv2d):
    """ffcv-imagenet's ``BlurPoolConv2d``: a fused blur in front of a convolution.

    The blur is [1, 2, 1] / 4 along both axes, with stride 1 and zeros around. The child ``conv``
    and the buffer ``blur_filter``, which is part of the state dict, are those of the original.

    Args:
        conv: the convolution, which keeps its stride.

    Shape:
        - Input and output: those of the convolution.

    Raises:
        RuntimeError: when it is called with what convolutions refuse.

    Example:
        >>> import torch
        >>> from fastblur.integrations.ffcv import BlurPoolConv2d
        >>> conv = torch.nn.Conv2d(16, 32, 3, stride=2, padding=1)
        >>> BlurPoolConv2d(conv)(torch.zeros(1, 16, 56, 56)).shape
        torch.Size([1, 32, 28, 28])
    """

    stands_for = "ffcv-imagenet's BlurPoolConv2d"
    settings = ("blur_filter",)
    read = read_ffcv_conv

    def __init__(self, conv: nn.Conv2d) -> None:
        filter = binomial_filter(3, 3).repeat(conv.in_channels, 1, 1, 1)
        super().__init__(filter, "blur_filter", conv=conv)
        self.settle()

    def takes_unbatched(self) -> bool:
        """Whether the original layer takes inputs without a batch."""
        return True
