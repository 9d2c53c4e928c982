"""Values and gradients of every backend, on the whole case list, against the unfused chain."""

from __future__ import annotations

import pytest
import torch

from testing.cases import CASES, UNSUPPORTED, Case, Target, fill, in_format, targets, zhang
from testing.judge import answer, judge_with_gradient

TARGETS = targets()
FUSED = [target for target in TARGETS if target.backend.keeps_codes]


def run(target: Target, case: Case, x: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    if case in UNSUPPORTED.get(target.backend.name, {}):
        pytest.skip(UNSUPPORTED[target.backend.name][case])
    leaf = x.clone().requires_grad_()
    y = target(leaf, case.geometry())
    (dx,) = torch.autograd.grad(y, leaf, dy)
    return [y.detach(), dx]


def gradient_for(case: Case, dtype: torch.dtype) -> torch.Tensor:
    n, c, h, w = case.shape
    return fill((n, c, *case.geometry().output_size(h, w)), "normal", dtype, seed=1)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_case(target: Target, case: Case, channels_last: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        dy = gradient_for(case, dtype)
        for kind in ("normal", "ties", "nan", "inf"):
            x = fill(case.shape, kind, dtype)
            y, dx = run(target, case, in_format(x, channels_last), dy)
            assert y.dtype == dx.dtype == dtype
            answer(x, dy, *case.chain()).check(f"{kind}, {dtype}", y, dx)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("target", FUSED, ids=str)
def test_sixteen_bits_are_no_worse_than_the_unfused_chain(
    target: Target, channels_last: bool, dtype: torch.dtype
) -> None:
    """Error against a float64 oracle, at most that of plain PyTorch in the same dtype."""
    for case in CASES:
        if 0 in case.shape:
            continue
        x, dy = fill(case.shape, "normal", dtype), gradient_for(case, dtype)
        exact = judge_with_gradient(x.double(), dy.double(), *case.chain())
        plain = judge_with_gradient(x, dy, *case.chain())
        ours = run(target, case, in_format(x, channels_last), dy)
        for name, truth, theirs, mine in zip(("y", "dx"), exact, plain, ours, strict=True):
            their_error = (theirs.double() - truth).abs().max().item()
            my_error = (mine.double() - truth).abs().max().item()
            # Both round to 16 bits; one rounding can still fall the other way at a near-tie.
            assert my_error <= their_error * 1.001 + 1e-6, f"{case}: {name}"


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_sixteen_bits_route_like_max_pool2d(
    target: Target, dtype: torch.dtype, channels_last: bool
) -> None:
    """Small integers with NaN and inf: what is exact must be equal, not close."""
    for case in CASES:
        taps = {1, 2}
        if len(case.taps_h) not in taps or len(case.taps_w) not in taps or 0 in case.shape:
            continue
        for kind in ("ties", "nan", "inf"):
            x = fill(case.shape, kind, dtype)
            dy = gradient_for(case, dtype).round()
            want = judge_with_gradient(x.double(), dy.double(), *case.chain())
            got = run(target, case, in_format(x, channels_last), dy)
            for ours, theirs in zip(got, want, strict=True):
                torch.testing.assert_close(
                    ours.double(), theirs, rtol=0, atol=0, equal_nan=True, msg=f"{case} {kind}"
                )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("target", FUSED, ids=str)
def test_sixteen_bits_round_to_nearest_even(
    target: Target, channels_last: bool, dtype: torch.dtype
) -> None:
    """Means of neighbours, half of which lie midway between two 16-bit numbers; all magnitudes."""
    magnitude = torch.logspace(-8, 4, 64).view(1, -1, 1, 1)
    x = (fill((2, 64, 6, 40), "normal", torch.float32) * magnitude).to(dtype)
    case = Case((1, 1), (1, 1), taps_h=(1.0,), taps_w=(0.5, 0.5), blur_pad=(0, 0, 0, 0))
    y = target(in_format(x, channels_last), case.geometry())
    wide = x.float()
    mean = 0.5 * wide[..., :-1] + 0.5 * wide[..., 1:]
    assert torch.equal(y, mean.to(dtype))
    assert (mean != mean.to(dtype)).any()


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("target", FUSED, ids=str)
def test_largest_stride(target: Target, channels_last: bool) -> None:
    """Any stride beyond the map is as good as another; conv2d itself overflows at this one."""
    shape = (2, 3, 9, 11)
    x, dy = fill(shape, "normal", torch.float32), torch.randn(2, 3, 1, 1)
    want = answer(x, dy, *Case(stride=(100, 100), shape=shape).chain())
    for stride in (2**31 - 1, 100):
        case = Case(stride=(stride, stride), shape=shape)
        want.check(f"stride {stride}", *run(target, case, in_format(x, channels_last), dy))


@pytest.mark.parametrize("odd", [float("nan"), float("inf")], ids=["nan", "inf"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [3, 32], ids=lambda n: f"{n} channels")
@pytest.mark.parametrize("pool", [2, 3])
@pytest.mark.parametrize("target", FUSED, ids=str)
def test_one_odd_value_anywhere(
    target: Target, pool: int, channels: int, channels_last: bool, odd: float
) -> None:
    """Kernels that are faster where all is finite notice what is not, wherever they cut a row.

    Image i has it in column i of one row. Rows are longer than the CPU's tiles in channels_last.
    """
    columns = 45
    case = zhang(pool, 4, pad=(pool // 3,) * 2, shape=(columns, channels, 5, columns))
    x = fill(case.shape, "normal", torch.float32)
    each = torch.arange(columns)
    x[each, each % channels, each % 5, each] = odd
    dy = gradient_for(case, torch.float32)
    got = run(target, case, in_format(x, channels_last), dy)
    answer(x, dy, *case.chain()).check(str(odd), *got)
