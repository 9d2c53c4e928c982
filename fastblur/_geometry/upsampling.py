"""Anti-aliased upsampling: the transpose of a blur, with its arguments, checks and borders.

A blur reads ``y[i] = sum_a taps[a] x[s i + a - before]``. Its transpose writes, from a map of size
``n`` to one of exactly ``s n``::

    y[s i + a - before] += taps[a] x[i]        before = max(0, ceil((f - s) / 2))

This is ``conv_transpose2d``, one axis at a time, and the gradient of a blur with zeros around. So
the backward kernels compute it, and their derivatives are its derivatives. The filter is centred on
the pixel that it enlarges, if f - s is even; if not, it is half an output position off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from .checks import IntOrPair, Pair, TapsArgument
from .geometry import Geometry

UpsamplePadding: TypeAlias = Literal["zeros", "replicate"]
UPSAMPLE_PADDINGS: tuple[str, ...] = get_args(UpsamplePadding)
Gain: TypeAlias = float | Literal["auto"]

_Taps = tuple[float, ...]


@dataclass(frozen=True)
class Upsampling:
    """Everything about a call except its input. Create one with :meth:`resolve`.

    Attributes:
        blur: the blur whose transpose upsamples; its taps include the gain.
        repeated: how often the first and last row, the first and last column are repeated around
            the input before: (top, bottom, left, right).
        padding_mode: "zeros" or "replicate".
    """

    blur: Geometry
    repeated: tuple[int, int, int, int]
    padding_mode: str

    @classmethod
    def resolve(
        cls,
        filter_size: IntOrPair | None = None,
        stride: IntOrPair = 2,
        taps: TapsArgument | None = None,
        gain: Gain = "auto",
        padding_mode: str = "zeros",
    ) -> Upsampling:
        """Checks the arguments of a layer or function and fills in the defaults.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: a value is not allowed.
        """
        if padding_mode not in UPSAMPLE_PADDINGS:
            raise ValueError(
                f"padding_mode must be one of {', '.join(map(repr, UPSAMPLE_PADDINGS))}, got "
                f"{padding_mode!r}"
            )
        blur = Geometry.resolve(1, stride, 0, filter_size, taps, 0, "zeros")
        taps_h, taps_w = _with_gain(gain, (blur.taps_h, blur.taps_w), blur.stride)
        axes = tuple(zip((taps_h, taps_w), blur.stride, strict=True))
        repeated = (0, 0, 0, 0)
        border = padding_mode
        if padding_mode == "replicate" and not all(_folds(*axis) for axis in axes):
            (top, bottom), (left, right) = (_reach(*axis) for axis in axes)
            repeated, border = (top, bottom, left, right), "zeros"
        padding: list[int] = []
        for (row, s), first, last in zip(axes, repeated[::2], repeated[1::2], strict=True):
            before, after = _padding(row, s)
            padding += before + s * first, after + s * last  # a repeated row makes s outputs
        geometry = Geometry.resolve(1, blur.stride, 0, None, (taps_h, taps_w), padding, border)
        return cls(geometry, repeated, padding_mode)

    @property
    def stride(self) -> Pair:
        """The factors (vertical, horizontal)."""
        return self.blur.stride

    def output_size(self, height: int, width: int) -> Pair:
        """Size (height, width) of the output; input sizes may be symbolic."""
        return height * self.stride[0], width * self.stride[1]

    def check_input(self, x: Tensor) -> None:
        """Raises TypeError or ValueError if ``x`` does not fit; reads only its metadata."""
        self.blur.check_input(x)

    def plain(self) -> dict[str, Any]:
        """Arguments of :meth:`resolve` that give the same."""
        taps = self.blur.taps_h, self.blur.taps_w
        return dict(stride=self.stride, taps=taps, gain=1.0, padding_mode=self.padding_mode)

    def repeat_edges(self, x: Tensor) -> Tensor:
        """The input with its edges repeated. The gradient of ``F.pad`` is not deterministic."""
        for axis, before, after in ((-2, *self.repeated[:2]), (-1, *self.repeated[2:])):
            first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
            if before or after:
                x = torch.cat([*[first] * before, x, *[last] * after], axis)
        return x


def _with_gain(gain: Any, taps: tuple[_Taps, _Taps], stride: Pair) -> tuple[_Taps, _Taps]:
    if isinstance(gain, str) and gain == "auto":
        rows = (_constant_kept(row, s) for row, s in zip(taps, stride, strict=True))
        return next(rows), next(rows)
    if isinstance(gain, bool) or not isinstance(gain, Real):
        raise TypeError(f"gain must be 'auto' or a number, got {gain!r}")
    try:
        row = tuple(float(gain) * tap for tap in taps[0])
    except OverflowError:
        row = (math.inf,)
    if not all(map(math.isfinite, row)):
        raise ValueError(f"gain must be finite, and so its products with the taps, got {gain!r}")
    return row, taps[1]


def _constant_kept(taps: _Taps, stride: int) -> _Taps:
    """The taps, scaled so that those that meet in an output sum to 1: every ``stride``-th."""
    if stride > len(taps):
        raise ValueError(
            f"gain must be a number if the stride is longer than the filter, got 'auto' for "
            f"{len(taps)} taps and a stride of {stride}"
        )
    try:
        sums = [math.fsum(taps[phase::stride]) for phase in range(stride)]
        row = tuple(tap / sums[a % stride] for a, tap in enumerate(taps))
    except (OverflowError, ZeroDivisionError):
        row = (math.inf,)
    if not all(map(math.isfinite, row)):
        raise ValueError(
            f"gain must be a number if taps that meet in an output sum to 0 or to infinity, got "
            f"'auto' for taps {taps} and a stride of {stride}"
        )
    return row


def _padding(taps: _Taps, stride: int) -> Pair:
    """The blur's padding before and after, with which it reads n positions from s n."""
    before = max(0, (len(taps) - stride + 1) // 2)
    return before, len(taps) - 1 - before


def _reach(taps: _Taps, stride: int) -> Pair:
    """How many positions before the first and after the last one reach the output."""
    before, after = _padding(taps, stride)
    return after // stride, (before + stride - 1) // stride


def _folds(taps: _Taps, stride: int) -> bool:
    """Whether the transpose of a blur with padding "replicate" repeats the edge by itself.

    That transpose adds what falls outside the output to the output's edge. With four symmetric taps
    and stride 2, one value falls outside, and it equals what a repeated edge would add there. With
    no more taps than the stride nothing falls outside, and a repeated edge adds nothing.
    """
    return len(taps) <= stride or ((len(taps), stride) == (4, 2) and taps[0] == taps[3])


Operation: TypeAlias = Geometry | Upsampling
