"""Converts exported programs to PyTorch's own operators.

A program of ``torch.export`` contains the fused operators, so whoever runs it imports fastblur.
``torch.onnx.export`` of a model needs nothing from here: the layers detect it. ``docs/export.md``
compares the ways to export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

from ._backends import reference
from ._dispatch.operators import geometry_from

__all__ = ["decompositions"]


def decompositions() -> dict[OpOverload, Callable[..., Any]]:
    """Decompositions of the fused operators into pooling, padding and convolution.

    Pass them to ``torch.export.ExportedProgram.run_decompositions``. The resulting programs are
    for inference. They round 16-bit types after the max and after the blur, as the unfused chain
    does.

    Returns:
        An entry for each operator that a program can contain: those of pooling and of upsampling;
        for the compiled extension, if it is installed, and for Triton, if it has been used.

    Example:
        >>> import torch, fastblur
        >>> pool, x = fastblur.FusedMaxBlurPool(), torch.zeros(1, 2, 8, 8)
        >>> program = torch.export.export(pool, (x,))
        >>> program = program.run_decompositions(fastblur.export.decompositions())
        >>> any("fastblur" in str(node.target) for node in program.graph.nodes)
        False
    """
    # Not registered globally: fake tensors use torch's global table too, and would take the shape
    # of the codes from here.
    found = {}
    for family in ("", "triton_"):
        for name, by in (("max_blur_pool_forward", _forward), ("blur_upsample", _upsample)):
            operator = getattr(torch.ops.fastblur, family + name, None)
            if operator is not None:
                found[operator.default] = by
    return found


def _forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *geometry, _channels_last, _need_codes = arguments
    g = geometry_from(geometry)
    y = reference.chain(x, g, torch.outer(_row(g.taps_h), _row(g.taps_w)), _pad)
    # Only the training operators read codes, and they reject these.
    return y, torch.empty((x.shape[0], 0), dtype=torch.uint8, device=x.device)


def _upsample(x: Tensor, *arguments: Any) -> Tensor:
    *geometry, _channels_last = arguments
    g = geometry_from(geometry)
    weight = torch.outer(_row(g.taps_h), _row(g.taps_w)).to(device=x.device, dtype=x.dtype)
    channels = x.shape[1]
    y = F.conv_transpose2d(x, weight.expand(channels, 1, -1, -1), stride=g.stride, groups=channels)
    top, bottom, left, right = g.blur_padding
    y = _crop(y, -2, top, bottom - g.stride[0] + 1, g.padding_mode)
    return _crop(y, -1, left, right - g.stride[1] + 1, g.padding_mode)


def _crop(y: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Cuts both ends off, and with "replicate" adds them to the edges that are left."""
    if after < 0:
        y = F.pad(y, (0, 0, 0, -after) if axis == -2 else (0, -after))
        after = 0
    size = y.shape[axis] - before - after
    inside = y.narrow(axis, before, size)
    if mode == "zeros" or before == after == 0:
        return inside
    ends = (y.narrow(axis, 0, before + 1), y.narrow(axis, before + size - 1, after + 1))
    lower, upper = (end.sum(axis, keepdim=True) for end in ends)
    return torch.cat((lower, inside.narrow(axis, 1, size - 2), upper), axis)


# Decompositions must not write in place, as torch.tensor and circular F.pad do.
def _row(taps: tuple[float, ...]) -> Tensor:
    return torch.cat([torch.full((1,), tap, dtype=torch.float64) for tap in taps])


def _pad(x: Tensor, padding: Sequence[int], mode: str) -> Tensor:
    if mode != "circular":
        return F.pad(x, padding, mode)
    left, right, top, bottom = padding
    for axis, before, after in ((-1, left, right), (-2, top, bottom)):
        size = x.shape[axis]
        x = torch.cat((x.narrow(axis, size - before, before), x, x.narrow(axis, 0, after)), axis)
    return x
