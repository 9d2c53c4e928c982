"""Values that other libraries got wrong: NaN, infinities, zeros, the ends of a range."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from testing.cases import Case, fill, upsampling, zhang
from testing.judge import answer, judge, upsample

from ..kernels.test_values import gradient_for
from .runners import INTERPRETED, each_dtype, each_format, each_geometry, each_target, run, same


def near(case: Case, x: torch.Tensor) -> torch.Tensor:
    """The places of y that read x where it is NaN."""
    return judge(x.double(), *case.chain()).isnan()


@each_format
@each_dtype
@each_geometry
@each_target
def test_a_nan_leaves_its_neighbours(
    target: Any, case: Case, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """A NaN appears where a window holds it, and no bit changes elsewhere.

    Found in: https://github.com/uxlfoundation/oneDNN/issues/5717 (NaN in other rows of bfloat16),
    https://github.com/pytorch/pytorch/issues/157237 (beside the window, by the batch size),
    https://github.com/tensorflow/tensorflow/issues/125965 (equal channels differ).
    """
    columns = 5 if INTERPRETED else 21
    clean = fill((columns, 18, 4, columns), "normal", dtype).to(memory_format=memory_format)
    each = torch.arange(columns)
    x = clean.clone()
    x[each, each % 18, each % 4, each] = torch.nan  # image i has it in column i
    case = Case(*case.chain()[:8], shape=tuple(x.shape))  # type: ignore[arg-type]
    dy = gradient_for(case, dtype)
    y, dx = run(target, case.geometry(), x, dy)
    want, clean_dx = run(target, case.geometry(), clean, dy)
    there = near(case, x)
    assert there.any()
    assert torch.equal(y.isnan(), there)
    same(y[~there], want[~there], "y")
    assert not dx.isnan().any()  # the winner is another, the gradient no less finite
    apart = torch.ones_like(x, dtype=torch.bool)
    for i in range(columns):  # what no window shares with the NaN
        apart[i, i % 18, :, max(0, i - 8) : i + 9] = False
    same(dx[apart], clean_dx[apart], "dx")


@each_format
@each_dtype
@each_geometry
@each_target
def test_a_nan_gradient_leaves_its_neighbours(
    target: Any, case: Case, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """The same of backward: dx is NaN where an output with a NaN gradient reads, and only there.

    Found in: https://github.com/uxlfoundation/oneDNN/issues/5717,
    https://github.com/pytorch/pytorch/issues/157237.
    """
    x = fill((9, 18, 4, 17), "normal", dtype).to(memory_format=memory_format)
    case = Case(*case.chain()[:8], shape=tuple(x.shape))  # type: ignore[arg-type]
    clean = gradient_for(case, dtype)
    dy = clean.clone()
    for i in range(len(dy)):
        dy[i, 2 * i, i % dy.shape[2], i % dy.shape[3]] = torch.nan
    _, dx = run(target, case.geometry(), x, dy)
    _, want = run(target, case.geometry(), x, clean)
    there = answer(x, dy, *case.chain()).dx.isnan()
    assert there.any()
    assert torch.equal(dx.isnan(), there)
    same(dx[~there], want[~there], "dx")


@each_format
@each_dtype
@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan], ids=str)
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize(("pool", "pad"), [(2, 1), (3, 1), (3, 0), (5, 2)])
@each_target
def test_windows_of_one_value(
    target: Any,
    pool: int,
    pad: int,
    relu: bool,
    value: float,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> None:
    """Windows of -inf or NaN alone have a winner inside x, though the padding is -inf too.

    Found in: https://github.com/pytorch/pytorch/pull/1466 (a winner of -1, and a write before dx),
    https://github.com/pytorch/pytorch/issues/7645 (-FLT_MAX for a window of NaN),
    https://github.com/pytorch/pytorch/issues/39044.
    """
    x = torch.full((1, 3, 7, 9), value, dtype=dtype).to(memory_format=memory_format)
    case = zhang(pool, 1, pad=(pad, pad), stride=(1, 1), relu=relu, shape=tuple(x.shape))
    dy = torch.ones_like(judge(x.double(), *case.chain())).to(dtype)
    y, dx = run(target, case.geometry(), x, dy)
    want = answer(x, dy, *case.chain())
    same(y.double(), want.y)
    same(dx.double(), want.dx)


@each_format
@each_dtype
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize(("pool", "pad"), [(2, 0), (3, 1), (3, 0), (4, 2)])
@each_target
def test_zeros_of_both_signs_tie(
    target: Any,
    pool: int,
    pad: int,
    relu: bool,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> None:
    """-0 equals +0, so the first of them wins; some instructions for maxima take +0 for larger.

    Found in: https://github.com/tile-ai/TileOPs/issues/2082.
    """
    shape = (2, 18, 9, 19)
    x = torch.where(fill(shape, "normal", dtype) > 0, 0.0, -0.0).to(dtype)
    x = x.to(memory_format=memory_format)
    assert x.signbit().any()
    case = zhang(pool, 2, pad=(pad, pad), relu=relu, shape=shape)
    dy = gradient_for(case, dtype).mul(8).round()
    _, dx = run(target, case.geometry(), x, dy)
    same(dx.double(), answer(x, dy, *case.chain()).dx)


@each_format
@pytest.mark.parametrize(
    "case", [zhang(1, 3), zhang(2, 3), zhang(3, 5, pad=(1, 1))], ids=["blur", "max 2", "max 3"]
)
@each_target
def test_finite_results_beyond_the_range_of_half(
    target: Any, case: Case, memory_format: torch.memory_format
) -> None:
    """A sum on the way may be larger than 65504, the result not: nothing is rounded in between.

    Found in: https://github.com/Tencent/ncnn/pull/2698 (inf), https://github.com/ROCm/MIOpen/issues/2109
    and https://github.com/huggingface/candle/pull/3719 (sums that stop to grow).
    """
    # Taps that sum to 4 along one axis and to 1/4 along the other: after the first it is too large.
    four = tuple(4 * tap for tap in case.taps_h)
    quarter = tuple(tap / 4 for tap in case.taps_h)
    for taps in ((four, quarter), (quarter, four)):
        case = Case(*case.chain()[:3], *taps, case.blur_pad, shape=(1, 17, 12, 18))  # type: ignore[arg-type]
        x = torch.full(case.shape, 60_000.0).half().to(memory_format=memory_format)
        dy = torch.full_like(gradient_for(case, torch.float16), 60_000.0)
        y, dx = run(target, case.geometry(), x, dy)
        want = answer(x, dy, *case.chain())
        same(y, want.y.half(), "y")
        same(dx, want.dx.half(), "dx")
        assert y.isfinite().all()
        assert (want.dx.abs() > 10_000).any()


@each_format
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@each_target
def test_sums_of_many_terms_keep_growing(
    target: Any, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """961 ones under taps of one sum to 961, rounded once; a 16-bit sum stops far below.

    Found in: https://github.com/huggingface/candle/pull/3719, https://github.com/tracel-ai/cubek/pull/639.
    """
    ones = (1.0,) * 31
    case = Case((1, 1), (1, 1), (0, 0), ones, ones, (0, 0, 0, 0), shape=(1, 3, 33, 35))
    x = torch.ones(case.shape, dtype=dtype).to(memory_format=memory_format)
    dy = torch.ones_like(gradient_for(case, dtype))
    y, dx = run(target, case.geometry(), x, dy)
    want = answer(x, dy, *case.chain())
    assert (y == want.y.to(dtype)).all()
    assert (dx == want.dx.to(dtype)).all()


@each_format
@each_dtype
@each_geometry
@each_target
def test_denormals(
    target: Any, case: Case, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """Denormals count, also as the larger of two, and no call changes how the process treats them.

    Found in: https://github.com/pytorch/pytorch/issues/135758 (flushed after a compiled call).
    """
    tiny = torch.finfo(dtype).smallest_normal
    x = (fill((2, 18, 8, 19), "normal", torch.float64).clamp(-3, 3).mul(64).round() / 512) * tiny
    x = x.to(dtype).to(memory_format=memory_format)
    assert (x != 0).any()
    case = Case(
        *case.chain()[:3],  # type: ignore[arg-type]
        (1.0, 1.0), (2.0, 1.0), (0, 1, 0, 1), case.mode, case.relu, tuple(x.shape),  # type: ignore[arg-type]
    )  # fmt: skip
    dy = torch.ones_like(gradient_for(case, dtype))
    y, dx = run(target, case.geometry(), x, dy * tiny / 8)
    want = answer(x, dy.double() * tiny / 8, *case.chain())
    same(y, want.y.to(dtype), "y")
    same(dx, want.dx.to(dtype), "dx")
    assert torch.tensor(1e-40).mul(1.0) != 0


@each_format
@each_target
def test_a_nan_in_an_upsampling(target: Any, memory_format: torch.memory_format) -> None:
    """As `test_a_nan_leaves_its_neighbours`, of the transposed blur in bfloat16.

    Found in: https://github.com/uxlfoundation/oneDNN/issues/5717.
    """
    case = upsampling(4, 2)
    clean = fill((1, 18, 6, 20), "normal", torch.bfloat16).to(memory_format=memory_format)
    x = clean.clone()
    x[0, ::3, 2, 11] = torch.nan
    y, want = (target.upsample(t, case.upsampling()) for t in (x, clean))
    there = upsample(x.double(), *case.chain()).isnan()  # type: ignore[arg-type]
    assert torch.equal(y.isnan(), there)
    same(y[~there], want[~there])
