"""The operation as three layers of plain PyTorch.

It shares nothing with the fast paths except the geometry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._autograd import is_tracing
from .._geometry import Geometry
from .._operators import Size
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

    def kernels(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> str:
        return "max_pool2d, pad, conv2d"


REFERENCE = Reference()


def max_blur_pool(x: Tensor, geometry: Geometry) -> Tensor:
    """``relu`` if requested, ``max_pool2d`` with stride 1, ``pad``, depthwise ``conv2d``.

    Args:
        x: [N, C, H, W].
        geometry: the geometry of the call.

    Returns:
        [N, C, H_out, W_out], in the dtype of ``x``.
    """
    taps_h = torch.tensor(geometry.taps_h, dtype=torch.float64)
    taps_w = torch.tensor(geometry.taps_w, dtype=torch.float64)
    return chain(x, geometry, torch.outer(taps_h, taps_w), F.pad)


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
    # torch.jit.trace takes sizes for variables, and a convolution in ONNX has a known weight.
    channels = int(x.shape[1]) if is_tracing() else x.shape[1]
    return F.conv2d(x, weight.expand(channels, 1, -1, -1), stride=geometry.stride, groups=channels)
