"""The op in NumPy and float64, index by index: nothing of fastblur, and nothing of torch's layers.

Beside each result stands the sum of the absolute values of its terms, which is what the error of
any order of summation is relative to.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .cases import Case
from .judge import EPS, ROUNDINGS

Array = np.ndarray[Any, np.dtype[Any]]
# Largest relative error of a result rounded once, and largest absolute one below the normal range.
ROUNDING = {
    torch.float64: (0.0, 0.0),
    torch.float32: (0.0, 2.0**-140),
    torch.float16: (2.0**-11, 2.0**-25),
    torch.bfloat16: (2.0**-8, 2.0**-133),
}


class Answer(NamedTuple):
    """Float64 arrays: results, and the sums of their terms' absolute values."""

    y: Array
    dx: Array
    y_size: Array
    dx_size: Array


def answer(x: Tensor, dy: Tensor, case: Case) -> Answer:
    """What y and dx should be, for x [N, C, H, W] and the gradient of y."""
    values, up = (t.detach().double().numpy() for t in (x, dy))
    pooled, row, column = winners(values, case)
    rows = sources(pooled.shape[2], case.blur_pad[:2], case.mode)
    columns = sources(pooled.shape[3], case.blur_pad[2:], case.mode)
    finite = np.where(np.isfinite(pooled), pooled, 0)
    y, y_size, dm, dm_size = (
        np.zeros(shape) for shape in (up.shape, up.shape, pooled.shape, pooled.shape)
    )
    with np.errstate(invalid="ignore"):
        for a, tap_h in enumerate(case.taps_h):
            for b, tap_w in enumerate(case.taps_w):
                i = rows[a : a + case.stride[0] * up.shape[2] : case.stride[0]][: up.shape[2]]
                j = columns[b : b + case.stride[1] * up.shape[3] : case.stride[1]][: up.shape[3]]
                there = np.ix_(range(len(values)), range(values.shape[1]), i, j)
                inside = (i >= 0)[:, None] & (j >= 0)
                tap = tap_h * tap_w
                y += np.where(inside, tap * pooled[there], 0)
                y_size += np.where(inside, abs(tap * finite[there]), 0)
                np.add.at(dm, there, np.where(inside, tap * up, 0))
                np.add.at(dm_size, there, np.where(inside, abs(tap * up), 0))
        dx, dx_size = np.zeros(values.shape), np.zeros(values.shape)
        n, c = np.ix_(range(len(values)), range(values.shape[1]))
        place = (n[..., None, None], c[..., None, None], row, column)
        np.add.at(dx, place, dm)
        np.add.at(dx_size, place, dm_size)
        if case.relu:
            dx[values <= 0] = 0
            dx_size[values <= 0] = 0
    return Answer(y, dx, y_size, dx_size)


def winners(values: Array, case: Case) -> tuple[Array, Array, Array]:
    """The pooled map, and rows and columns of its winners: the first maximum, or the last NaN."""
    if case.relu:
        values = np.where(values <= 0, 0, values)
    (k_h, k_w), (p_h, p_w) = case.pool, case.pad
    height, width = values.shape[2] + 2 * p_h - k_h + 1, values.shape[3] + 2 * p_w - k_w + 1
    shape = (*values.shape[:2], height, width)
    best, row, column = np.full(shape, -np.inf), np.full(shape, -1), np.full(shape, -1)
    for a in range(k_h):
        for b in range(k_w):
            i, j = np.arange(height) - p_h + a, np.arange(width) - p_w + b
            real = ((i >= 0) & (i < values.shape[2]))[:, None] & ((j >= 0) & (j < values.shape[3]))
            i, j = i.clip(0, values.shape[2] - 1), j.clip(0, values.shape[3] - 1)
            value = values[:, :, i][:, :, :, j]
            take = real & ((row < 0) | (value > best) | np.isnan(value))
            best = np.where(take, value, best)
            row, column = np.where(take, i[:, None], row), np.where(take, j, column)
    return best, row, column


def sources(size: int, pad: tuple[int, ...], mode: str) -> Array:
    """For each index of the padded axis, where its value is from; -1 for a zero."""
    q = np.arange(-pad[0], size + pad[1])
    if mode == "zeros":
        return np.where((q >= 0) & (q < size), q, -1)
    if mode == "replicate":
        return q.clip(0, size - 1)
    if mode == "circular":
        return q % size
    return np.where(q < 0, -q, np.where(q >= size, 2 * (size - 1) - q, q))


def check(what: str, ours: Tensor, exact: Array, size: Array, roundings: float = 1.0) -> None:
    """Fails unless `ours` is `exact` but for rounding; NaN and infinities where they should be.

    `roundings` is how often results are rounded to a 16-bit type on their way: once, if fused.
    """
    assert tuple(ours.shape) == exact.shape, f"{what}: shape {tuple(ours.shape)}, {exact.shape}"
    got = ours.detach().double().numpy()
    special = ~np.isfinite(exact)
    np.testing.assert_array_equal(got[special], exact[special], err_msg=f"{what}, not finite")
    relative, absolute = ROUNDING[ours.dtype]
    allowed = ROUNDINGS * EPS.get(ours.dtype, 2.0**-24) * size + absolute * roundings
    with np.errstate(invalid="ignore"):  # of what is special, and compared above
        allowed += relative * (abs(exact) if roundings == 1 else roundings * size)
        error = abs(got - exact)
    wrong = ~special & ~(error <= allowed)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} are wrong, at {at} {got[at]!r} for "
            f"{exact[at]!r}, off by {error[at]:.3g}, allowed {allowed[at]:.3g}"
        )
