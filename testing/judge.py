"""The unfused chain, written out: max_pool2d, pad, conv2d, nothing of fastblur."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def binomial(n: int) -> list[float]:
    row = [1.0]
    for _ in range(n - 1):
        row = [a + b for a, b in zip([0.0, *row], [*row, 0.0], strict=True)]
    return [value / 2 ** (n - 1) for value in row]


def judge(
    x: Tensor,
    pool: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    taps_h: Sequence[float],
    taps_w: Sequence[float],
    blur_pad: Sequence[int],
    mode: str,
    relu: bool = False,
) -> Tensor:
    """x [N, C, H, W]; pairs are (h, w), blur_pad is (top, bottom, left, right)."""
    if relu:
        x = torch.relu(x)
    m = F.max_pool2d(x, tuple(pool), stride=1, padding=tuple(pad))
    top, bottom, left, right = blur_pad
    m = F.pad(m, (left, right, top, bottom), "constant" if mode == "zeros" else mode)
    weight = torch.tensor([[a * b for b in taps_w] for a in taps_h], dtype=torch.float64)
    weight = weight.to(x).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(m, weight, stride=tuple(stride), groups=x.shape[1])


def judge_with_gradient(x: Tensor, dy: Tensor, *chain: object) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    y = judge(leaf, *chain)  # type: ignore[arg-type]
    (dx,) = torch.autograd.grad(y, leaf, dy.contiguous())
    return y.detach(), dx


def scale(x: Tensor, taps_h: Sequence[float], taps_w: Sequence[float]) -> float:
    """The largest that an output can be: what an error is relative to."""
    finite = x[torch.isfinite(x)]
    largest = finite.abs().max().item() if finite.numel() else 1.0
    gain = math.fsum(map(abs, taps_h)) * math.fsum(map(abs, taps_w))
    return max(largest * gain, 1e-30)
