"""The unfused chain, written out: max_pool2d, pad, conv2d, nothing of fastblur; and upsampling.

How far a result may be off is said here, once. Any order of summation errs by a few roundings of
the sum of its terms' absolute values, so `check` allows ROUNDINGS of those to each element. On the
case list the CPU kernels reach 5 in float32, and all reach 9 in float64, where the judge errs too;
random examples reach 6. In float32 the limit is 1e-6 of the terms, so a lost tap shows where it has
more than that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# One rounding where sums are kept: in float32 for all but float64.
EPS = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
ROUNDINGS = 16


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
    return blur(pooled(x, pool, pad, relu), stride, taps_h, taps_w, blur_pad, mode)


def pooled(x: Tensor, pool: Sequence[int], pad: Sequence[int], relu: bool) -> Tensor:
    return F.max_pool2d(torch.relu(x) if relu else x, tuple(pool), stride=1, padding=tuple(pad))


def blur(
    m: Tensor,
    stride: Sequence[int],
    taps_h: Sequence[float],
    taps_w: Sequence[float],
    blur_pad: Sequence[int],
    mode: str,
) -> Tensor:
    top, bottom, left, right = blur_pad
    m = F.pad(m, (left, right, top, bottom), "constant" if mode == "zeros" else mode)
    weight = torch.tensor([[a * b for b in taps_w] for a in taps_h], dtype=torch.float64)
    weight = weight.to(m).expand(m.shape[1], 1, -1, -1)
    return F.conv2d(m, weight, stride=tuple(stride), groups=m.shape[1])


def upsample(
    x: Tensor,
    stride: Sequence[int],
    taps_h: Sequence[float],
    taps_w: Sequence[float],
    mode: str,
) -> Tensor:
    """By its definition: zeros between the pixels, a pad, and a correlation with reversed taps."""
    s_h, s_w = stride
    around = 40  # further than any filter reaches
    x = F.pad(x, (around,) * 4, "constant" if mode == "zeros" else mode)
    n, c, h, w = x.shape
    spread = torch.stack([x, *[torch.zeros_like(x)] * (s_w - 1)], -1).view(n, c, h, s_w * w)
    spread = torch.stack([spread, *[torch.zeros_like(spread)] * (s_h - 1)], 3)
    spread = spread.view(n, c, s_h * h, s_w * w)
    for axis, stride_, taps in ((2, s_h, taps_h), (3, s_w, taps_w)):
        first = around * stride_ + max(0, math.ceil((len(taps) - stride_) / 2))
        size = spread.shape[axis] - 2 * around * stride_
        spread = sum(tap * spread.narrow(axis, first - a, size) for a, tap in enumerate(taps))
    return spread


class Answer(NamedTuple):
    """In float64: results, and the sums of their terms' absolute values."""

    y: Tensor
    dx: Tensor
    y_size: Tensor
    dx_size: Tensor

    def check(self, what: str, y: Tensor, dx: Tensor) -> None:
        """Fails unless both are right."""
        check(f"{what}: y", y, self.y, self.y_size)
        check(f"{what}: dx", dx, self.dx, self.dx_size)


def answer(
    x: Tensor,
    dy: Tensor,
    pool: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    taps_h: Sequence[float],
    taps_w: Sequence[float],
    blur_pad: Sequence[int],
    mode: str,
    relu: bool = False,
) -> Answer:
    """What y and dx should be, for x and the gradient of y; arguments as `judge`."""
    leaf = x.detach().double().clone(memory_format=torch.contiguous_format).requires_grad_()
    up = dy.detach().double().contiguous()
    m = pooled(leaf, pool, pad, relu)
    sizes = [abs(tap) for tap in taps_h], [abs(tap) for tap in taps_w]
    y = blur(m, stride, taps_h, taps_w, blur_pad, mode)
    (dx,) = torch.autograd.grad(y, leaf, up, retain_graph=True)
    (dx_size,) = torch.autograd.grad(blur(m, stride, *sizes, blur_pad, mode), leaf, up.abs())
    finite = m.detach().nan_to_num(0.0, 0.0, 0.0).abs()
    return Answer(y.detach(), dx, blur(finite, stride, *sizes, blur_pad, mode), dx_size)


def upsampling_answer(
    x: Tensor,
    dy: Tensor,
    stride: Sequence[int],
    taps_h: Sequence[float],
    taps_w: Sequence[float],
    mode: str,
) -> Answer:
    """:func:`answer` for `upsample`."""
    leaf, up = (t.detach().double().contiguous() for t in (x, dy))
    leaf.requires_grad_()
    y = upsample(leaf, stride, taps_h, taps_w, mode)
    (dx,) = torch.autograd.grad(y, leaf, up)
    size_of = partial(
        upsample,
        stride=stride,
        taps_h=[abs(tap) for tap in taps_h],
        taps_w=[abs(tap) for tap in taps_w],
        mode=mode,
    )
    other = leaf.detach().abs().requires_grad_()
    y_size = size_of(other)
    (dx_size,) = torch.autograd.grad(y_size, other, up.abs())
    return Answer(y.detach(), dx, y_size.detach(), dx_size)


def check(what: str, ours: Tensor, exact: Tensor, size: Tensor) -> None:
    """Fails unless `ours` is `exact` but for rounding; NaN and infinities where they should be."""
    assert ours.shape == exact.shape, f"{what}: shape {tuple(ours.shape)}, {tuple(exact.shape)}"
    got, finite = ours.detach().double(), exact.isfinite()
    special = [torch.where(finite, 0.0, t) for t in (got, exact)]
    torch.testing.assert_close(*special, rtol=0, atol=0, equal_nan=True, msg=f"{what}: not finite")
    error = torch.where(finite, got - exact, 0.0).abs()
    allowed = ROUNDINGS * EPS[ours.dtype] * size
    wrong = finite & ~(error <= allowed)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} are wrong, at {at} {got[at].item()!r} "
            f"for {exact[at].item()!r}, off by {error[at]:.3g}, allowed {allowed[at]:.3g}"
        )


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
