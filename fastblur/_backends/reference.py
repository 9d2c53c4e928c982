"""The operation as three layers of plain PyTorch.

It shares nothing with the fast paths except the geometry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._dispatch.autograd import is_tracing
from .._dispatch.operators import Size
from .._geometry import Geometry
from .._geometry.upsampling import Upsampling
from .._geometry.volume import Volume
from .backend import Backend


class Reference(Backend):
    """Keeps no codes: autograd keeps what the layers need."""

    name = "reference"
    device_type = "cpu"
    keeps_codes = False

    def why_not(self, device: torch.device) -> None:
        return None

    def run(self, x: Tensor, geometry: Geometry) -> Tensor:
        return max_blur_pool(x, geometry)

    def upsample(self, x: Tensor, upsampling: Upsampling) -> Tensor:
        return blur_upsample(x, upsampling)

    def kernels(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> str:
        return "max_pool2d, pad, conv2d"

    def upsampling_kernels(
        self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor
    ) -> str:
        return "pad, conv_transpose2d"


REFERENCE = Reference()


def max_blur_pool(x: Tensor, geometry: Geometry) -> Tensor:
    """``relu`` if requested, ``max_pool2d`` with stride 1, ``pad``, depthwise ``conv2d``.

    Args:
        x: [N, C, H, W].
        geometry: the geometry of the call.

    Returns:
        [N, C, H_out, W_out], in the dtype of ``x``.
    """
    return chain(x, geometry, _filter(geometry), F.pad)


def chain(
    x: Tensor,
    geometry: Geometry,
    filter: Tensor,
    pad: Callable[[Tensor, Sequence[int], str], Tensor],
) -> Tensor:
    """:func:`max_blur_pool` with a given 2-D filter and padding function."""
    if geometry.relu:
        x = F.relu(x)
    if geometry.kernel_size != (1, 1):
        x = F.max_pool2d(x, geometry.kernel_size, stride=1, padding=geometry.padding)
    top, bottom, left, right = geometry.blur_padding
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    x = pad(x, (left, right, top, bottom), mode)
    weight = filter.to(device=x.device, dtype=x.dtype)
    channels = _channels(x)
    return F.conv2d(x, weight.expand(channels, 1, -1, -1), stride=geometry.stride, groups=channels)


def blur_upsample(x: Tensor, upsampling: Upsampling) -> Tensor:
    """``pad`` if the edges are repeated, ``conv_transpose2d``, and a crop.

    Args:
        x: [N, C, H, W].
        upsampling: the arguments of the call.

    Returns:
        [N, C, stride_h * H, stride_w * W], in the dtype of ``x``.
    """
    sizes = upsampling.output_size(*x.shape[2:])
    weight = _filter(upsampling.blur).to(device=x.device, dtype=x.dtype)
    # One edge more than any filter reaches, for an odd one that reaches further after the map.
    edges = 0
    if upsampling.padding_mode == "replicate":
        edges = max(weight.shape) // 2 // min(upsampling.stride) + 1
        x = F.pad(x, (edges,) * 4, "replicate")
    y = F.conv_transpose2d(
        x, weight.expand(_channels(x), 1, -1, -1), stride=upsampling.stride, groups=_channels(x)
    )
    for axis, stride, size in zip((-2, -1), upsampling.stride, sizes, strict=True):
        n_taps = weight.shape[axis]
        before = max(0, (n_taps - stride + 1) // 2)
        beyond = before + stride - n_taps - edges * stride  # with a stride longer than the taps
        if beyond > 0:
            y = F.pad(y, (0, 0, 0, beyond) if axis == -2 else (0, beyond))
        y = y.narrow(axis, before + edges * stride, size)
    return y


def _filter(geometry: Geometry) -> Tensor:
    taps = (torch.tensor(row, dtype=torch.float64) for row in (geometry.taps_h, geometry.taps_w))
    return torch.outer(*taps)


def _channels(x: Tensor) -> int:
    # torch.jit.trace takes sizes for variables, and a convolution in ONNX has a known weight.
    return int(x.shape[1]) if is_tracing() else x.shape[1]


def max_blur_pool3d(x: Tensor, volume: Volume) -> Tensor:
    """``relu`` if requested, ``max_pool3d`` with stride 1, ``pad``, depthwise ``conv3d``.

    Args:
        x: [N, C, D, H, W].
        volume: the geometry of the call.

    Returns:
        [N, C, D_out, H_out, W_out], in the dtype of ``x``.
    """
    if volume.relu:
        x = F.relu(x)
    if volume.kernel_size != (1, 1, 1):
        x = F.max_pool3d(x, volume.kernel_size, stride=1, padding=volume.padding)
    front, back, top, bottom, left, right = volume.blur_padding
    mode = "constant" if volume.padding_mode == "zeros" else volume.padding_mode
    x = F.pad(x, (left, right, top, bottom, front, back), mode)
    rows = [torch.tensor(row, dtype=torch.float64) for row in volume.taps]
    filter = rows[0][:, None, None] * torch.outer(rows[1], rows[2])
    weight = filter.to(device=x.device, dtype=x.dtype)
    channels = _channels(x)
    weight = weight.expand(channels, 1, -1, -1, -1)
    return F.conv3d(x, weight, stride=volume.stride, groups=channels)
