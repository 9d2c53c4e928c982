"""Shift equivariance of strided 1-D layers (Zhang, ICML 2019, sections 3.1, 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._running import Model, axes, device_of, evaluating

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class ShiftEquivariance:
    """The result of :func:`shift_equivariance`.

    Attributes:
        shifts: int64 [T], in samples of the input.
        distance: float64 [T, N], d(t) of each signal, relative.
        responses: float64 [T, N, C, L / stride], one period of the layer's response to the
            shifted signal.
        predicted: float64 [T, N, C, L / stride], the response to the unshifted signal, shifted by
            t / stride samples.
        stride: stride of the layer.
        mean: mean distance over shifts and signals.
        largest: largest distance over shifts and signals.
    """

    shifts: Tensor
    distance: Tensor
    responses: Tensor
    predicted: Tensor
    stride: int
    mean: float
    largest: float

    def __str__(self) -> str:
        t, n = self.distance.shape
        return (
            f"distance from equivariance: mean {self.mean:.3f}, largest {self.largest:.3f} "
            f"(relative), stride {self.stride}, {t} shifts, {n} {'signal' if n == 1 else 'signals'}"
        )

    def plot(self, ax: Axes | None = None, *, label: str | None = None) -> Axes:
        """Plots the mean distance over signals against the shift; needs matplotlib."""
        ax = axes(ax)
        ax.plot(self.shifts.tolist(), self.distance.mean(1).tolist(), marker="o", label=label)
        ax.set(xlabel="shift (samples)", ylabel="distance from equivariance (relative)")
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        ax.grid(alpha=0.3)
        return ax


def shift_equivariance(
    layer: Model, signal: Tensor, shifts: Sequence[int] | None = None
) -> ShiftEquivariance:
    r"""Distance between a 1-D layer's response to a shifted signal and its shifted response.

    A layer :math:`F` of stride :math:`s` returns one sample for every :math:`s` input samples. A
    signal shifted by :math:`t` should therefore give the response shifted by :math:`t / s` output
    samples:

    .. math:: d(t) = \frac{\lVert F(S_t\, x) - S_{t/s}\, F(x) \rVert}{\lVert F(x) \rVert}

    :math:`t / s` need not be an integer, so a shift of the response shifts the band-limited signal
    through its samples: it rotates the phase of each Fourier component. For a linear layer
    :math:`d` is zero for all shifts exactly if nothing aliases (except the component at Nyquist,
    whose sine the samples do not contain). For any layer it is zero if :math:`t` is a multiple of
    :math:`s`. Norms run over channels and samples, not over signals.

    (Zhang 2019, section 3.1, compares at the resolution of the input. Comparing at the output
    samples needs one interpolation instead of two.)

    The signal is one period of a periodic signal. The layer receives several periods, and only one
    in the middle is compared, so padding has no effect if it reaches no further than a period.

    Args:
        layer: a module or another callable from [N, C, L] to [N, C', L / stride], for any L.
        signal: floating point [L], [C, L] or [N, C, L]; L is a multiple of the stride.
        shifts: shifts to the right in samples. Default: 0 to twice the stride.

    Returns:
        The distance for each shift, and the responses: see :class:`ShiftEquivariance`. If F(x) is
        zero, the distance is infinite, or zero if F(S_t x) is zero too.

    Raises:
        ValueError: an argument is wrong, or the layer does not have an integer stride.

    Example:
        The signal of period 4 of Zhang's Figures 2 and 3:

        >>> import torch
        >>> from fastblur import FusedMaxBlurPool1d
        >>> from fastblur.metrics import shift_equivariance
        >>> signal = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
        >>> plain = shift_equivariance(torch.nn.MaxPool1d(2), signal, [0, 1])
        >>> plain.responses[:, 0, 0].tolist()
        [[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
        >>> blurred = shift_equivariance(FusedMaxBlurPool1d(filter_size=3), signal, [0, 1])
        >>> blurred.responses[:, 0, 0].tolist()
        [[0.5, 1.0, 0.5, 1.0], [0.75, 0.75, 0.75, 0.75]]
        >>> round(plain.largest, 3), round(blurred.largest, 3)
        (0.707, 0.0)
    """
    x = _signals(signal).to(device_of(layer, signal.device))
    if shifts is not None and not (len(shifts) and all(isinstance(t, int) for t in shifts)):
        raise ValueError(f"shifts must be one or more ints, got {shifts!r}")
    length = x.shape[2]
    with evaluating(layer):
        stride = _stride(layer, x)
        period = length // stride
        steps = list(range(2 * stride + 1) if shifts is None else shifts)

        def middle(t: int) -> Tensor:
            shifted = x.roll(t, 2).repeat(1, 1, _PERIODS)
            return _response(layer, shifted)[..., period : 2 * period].cpu().double()

        reference, found = middle(0), [middle(t) for t in steps]
    # Outside inference mode, so that the result can be modified and differentiated.
    responses = torch.stack(found)
    predicted = torch.stack([_turn(reference, t / stride) for t in steps])
    difference = (responses - predicted).flatten(2).norm(dim=2)
    distance = difference / reference.flatten(1).norm(dim=1)
    distance = torch.where(difference == 0, 0.0, distance)
    return ShiftEquivariance(
        shifts=torch.tensor(steps),
        distance=distance,
        responses=responses,
        predicted=predicted,
        stride=stride,
        mean=distance.mean().item(),
        largest=distance.max().item(),
    )


_PERIODS = 3  # the one that is compared, one before it and one after


def _stride(layer: Model, x: Tensor) -> int:
    """The stride of the layer, from the growth of its response with the input."""

    def samples(periods: int) -> int:
        return _response(layer, x.repeat(1, 1, periods)).shape[2]

    length, out = x.shape[2], samples(_PERIODS)
    period = samples(_PERIODS + 1) - out
    stride = length // period if period > 0 and length % period == 0 else 0
    # A layer of another stride rounds, and may return as many samples for one period. It cannot for
    # `stride` periods, which must give `length` samples: any other stride up to the length of the
    # signal is off by at least one sample.
    if not stride or samples(_PERIODS + stride) - out != length or out < 2 * period:
        raise ValueError(
            "signal's length must be a multiple of the layer's stride, and three periods must give "
            f"at least two periods of output: a signal of {length} samples gives {out} samples for "
            f"{_PERIODS} periods, {out + period} for {_PERIODS + 1}"
        )
    return stride


def _turn(y: Tensor, shift: float) -> Tensor:
    """Shifts a periodic float64 y [..., M] to the right by any real number of samples."""
    m = y.shape[-1]
    angle = -2 * math.pi * shift / m * torch.arange(m // 2 + 1, dtype=torch.float64)
    turn = torch.polar(torch.ones_like(angle), angle)
    # At Nyquist the samples contain only the cosine, and irfft takes the real part.
    turned: Tensor = torch.fft.irfft(torch.fft.rfft(y) * turn, n=m)
    return turned


def _response(layer: Model, x: Tensor) -> Tensor:
    y = layer(x)
    if not isinstance(y, Tensor) or y.dim() != 3 or len(y) != len(x):
        got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"layer must give [{len(x)}, C, L] for {list(x.shape)}, got {got}")
    return y


def _signals(signal: Tensor) -> Tensor:
    if signal.dim() not in (1, 2, 3) or not signal.numel() or not signal.is_floating_point():
        raise ValueError(
            "signal must be floating point [L], [C, L] or [N, C, L], not empty, "
            f"got {signal.dtype} {list(signal.shape)}"
        )
    return signal.reshape((1,) * (3 - signal.dim()) + tuple(signal.shape))
