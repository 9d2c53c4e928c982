"""Exported programs without fastblur's operators, for what knows standard operators only.

``torch.export`` puts the fused operators into its program, and who runs that imports fastblur.
``torch.onnx.export`` of a model needs nothing from here: the layers notice it. ``docs/export.md``
has the ways to export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

from ._backends import reference
from ._operators import geometry_from

__all__ = ["decompositions"]


def decompositions() -> dict[OpOverload, Callable[..., Any]]:
    """What turns the fused operator of an exported program into pooling, padding and convolution.

    For ``torch.export.ExportedProgram.run_decompositions``; the programs are for inference. 16-bit
    types are rounded after the max and after the blur, as by the unfused chain.

    Returns:
        An entry for each forward operator that a program can have: the compiled extension's, if it
        is there, and Triton's, if that has been used.

    Example:
        >>> import torch, fastblur
        >>> pool, x = fastblur.FusedMaxBlurPool(), torch.zeros(1, 2, 8, 8)
        >>> program = torch.export.export(pool, (x,))
        >>> program = program.run_decompositions(fastblur.export.decompositions())
        >>> any("fastblur" in str(node.target) for node in program.graph.nodes)
        False
    """
    # Not registered for everybody in torch's own table: fake tensors look into that too, and would
    # take the shape of the codes from here.
    names = ("max_blur_pool_forward", "triton_max_blur_pool_forward")
    there = (getattr(torch.ops.fastblur, name, None) for name in names)
    return {operator.default: _forward for operator in there if operator is not None}


def _forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *geometry, _channels_last, _need_codes = arguments
    g = geometry_from(geometry)
    y = reference.chain(x, g, torch.outer(_row(g.taps_h), _row(g.taps_w)), _pad)
    # Nothing reads codes but the operators of training, which refuse these.
    return y, torch.empty((x.shape[0], 0), dtype=torch.uint8, device=x.device)


# Torch wants nothing changed in place here, as it is by torch.tensor and by circular padding.
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
