"""Layers of packages that are not installed here, written from what they compute.

Their class names, attributes and buffers are those of the originals: that is what fuse_ goes by.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _filter(channels: int, f: int = 3) -> Tensor:
    row = {3: torch.tensor([1.0, 2.0, 1.0]), 5: torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])}[f]
    return (torch.outer(row, row) / row.sum() ** 2).repeat(channels, 1, 1, 1)


class BlurMaxPool2d(nn.Module):
    """Composer's: zeros around the blur, its stride is the kernel's unless given."""

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1
    ) -> None:
        super().__init__()
        self.kernel_size, self.padding, self.dilation = kernel_size, padding, dilation
        self.stride = kernel_size if stride is None else stride
        self.register_buffer("filt2d", _filter(1))

    def forward(self, x: Tensor) -> Tensor:
        m = F.max_pool2d(x, self.kernel_size, 1, self.padding, self.dilation)
        return F.conv2d(
            m, self.filt2d.repeat(x.shape[1], 1, 1, 1), None, self.stride, 1, 1, x.shape[1]
        )


class BlurPool2d(nn.Module):
    """Composer's, which has the name of timm's."""

    def __init__(self, channels: int = 0, stride: int = 2) -> None:
        super().__init__()
        self.channels, self.stride, self.padding = channels, stride, 1
        self.register_buffer("blur_filter", _filter(max(channels, 1)))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.blur_filter if self.channels else self.blur_filter.repeat(x.shape[1], 1, 1, 1)
        return F.conv2d(x, weight, None, self.stride, 1, 1, x.shape[1])


class BlurConv2d(nn.Module):
    """Composer's: blur with stride 1, then the strided convolution; or the other way."""

    def __init__(self, inputs: int, outputs: int, stride: int = 2, blur_first: bool = True) -> None:
        super().__init__()
        self.blur_first = blur_first
        self.blur_stride = 1 if blur_first else stride
        self.conv = nn.Conv2d(inputs, outputs, 3, stride if blur_first else 1, 1)
        self.register_buffer("blur_filter", _filter(inputs if blur_first else outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.blur_first else self.conv(x)
        x = F.conv2d(x, self.blur_filter, None, self.blur_stride, 1, 1, x.shape[1])
        return self.conv(x) if self.blur_first else x


class BlurPoolConv2d(nn.Module):
    """ffcv-imagenet's: blur with stride 1, then the convolution that was there."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("blur_filter", _filter(conv.in_channels))

    def forward(self, x: Tensor) -> Tensor:
        groups = self.conv.in_channels
        return self.conv(F.conv2d(x, self.blur_filter, stride=1, padding=(1, 1), groups=groups))


class Downsample(nn.Module):
    """TResNet's inner layer: three taps, reflected borders."""

    def __init__(self, filt_size: int = 3, stride: int = 2, channels: int = 1) -> None:
        super().__init__()
        self.filt_size, self.stride, self.channels = filt_size, stride, channels
        self.register_buffer("filt", _filter(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), "reflect")
        return F.conv2d(x, self.filt, stride=self.stride, groups=x.shape[1])


class Scripted:
    """Stands for TResNet's scripted form, which is no module."""


class AntiAliasDownsampleLayer(nn.Module):
    """TResNet's outer layer."""

    def __init__(self, channels: int, scripted: bool = False) -> None:
        super().__init__()
        self.op = Scripted() if scripted else Downsample(channels=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)
