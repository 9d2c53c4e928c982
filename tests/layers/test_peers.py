"""The same numbers as the layers people use now, given the matching arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastblur import FusedBlurPool, FusedBlurPool1d, FusedMaxBlurPool
from testing.cases import fill, in_format
from testing.judge import EPS, ROUNDINGS

WHY = "compares with {}, which is not installed"
antialiased_cnns = pytest.importorskip("antialiased_cnns", reason=WHY.format("antialiased_cnns"))
timm_layers = pytest.importorskip("timm.layers", reason=WHY.format("timm"))
kornia_filters = pytest.importorskip("kornia.filters", reason=WHY.format("kornia"))

SHAPE = (2, 6, 17, 22)


def close(ours: Tensor, theirs: Tensor, eps: float) -> None:
    """Both round; 7 roundings of the largest value are reached."""
    largest = theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDINGS * eps * largest)


def same(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor) -> None:
    for dtype, eps in EPS.items():
        for channels_last in (False, True) if x.dim() == 4 else (False,):
            if isinstance(theirs, nn.Module):
                theirs.to(dtype)
            mine = in_format(x.to(dtype), channels_last).requires_grad_()
            other = x.to(dtype).requires_grad_()
            y, want = ours(mine), theirs(other)
            close(y, want, eps)
            dy = torch.randn_like(want)
            (dx,) = torch.autograd.grad(y, mine, dy)
            (want_dx,) = torch.autograd.grad(want, other, dy)
            close(dx, want_dx, eps)


@pytest.mark.parametrize("pad_off", [0, 1])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pad_type", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("f", range(1, 8))
def test_antialiased_cnns_blur(f: int, pad_type: str, stride: int, pad_off: int) -> None:
    theirs = antialiased_cnns.BlurPool(
        SHAPE[1], pad_type=pad_type, filt_size=f, stride=stride, pad_off=pad_off
    )
    low, high = (f - 1) // 2 + pad_off, f // 2 + pad_off
    if f == 1 and pad_off == 0:  # theirs is then a view, without a buffer to convert
        low = high = 0
    ours = FusedBlurPool(
        f,
        stride,
        blur_padding=(low, high, low, high),
        padding_mode="zeros" if pad_type == "zero" else pad_type,  # type: ignore[arg-type]
    )
    same(ours, theirs, fill(SHAPE, "normal", torch.float64))


@pytest.mark.parametrize("f", range(2, 8))
def test_antialiased_cnns_blur_1d(f: int) -> None:
    from antialiased_cnns.blurpool import BlurPool1D

    same(FusedBlurPool1d(f), BlurPool1D(6, filt_size=f), fill((2, 6, 23), "normal", torch.float64))


@pytest.mark.parametrize(("pool", "pad"), [(2, 0), (3, 0), (3, 1)])
@pytest.mark.parametrize("f", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_antialiased_cnns_max_blur(pool: int, pad: int, f: int, kind: str) -> None:
    blur = antialiased_cnns.BlurPool(SHAPE[1], filt_size=f, stride=2)
    theirs = nn.Sequential(nn.MaxPool2d(pool, 1, pad), blur)
    ours = FusedMaxBlurPool(pool, 2, pad, filter_size=f)
    same(ours, theirs, fill(SHAPE, kind, torch.float64))
    relu_first = nn.Sequential(nn.ReLU(), theirs)
    fused = FusedMaxBlurPool(pool, 2, pad, filter_size=f, relu=True)
    same(fused, relu_first, fill(SHAPE, kind, torch.float64))


@pytest.mark.parametrize("f", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "constant"])
def test_timm_blur(f: int, stride: int, mode: str) -> None:
    theirs = timm_layers.BlurPool2d(SHAPE[1], filt_size=f, stride=stride, pad_mode=mode)
    ours = FusedBlurPool(
        f,
        stride,
        blur_padding=((stride - 1) + (f - 1)) // 2,
        padding_mode="zeros" if mode == "constant" else mode,  # type: ignore[arg-type]
    )
    same(ours, theirs, fill(SHAPE, "normal", torch.float64))


def test_timm_max_blur() -> None:
    theirs = nn.Sequential(nn.MaxPool2d(3, 1, 1), timm_layers.BlurPool2d(SHAPE[1]))
    ours = FusedMaxBlurPool(3, 2, 1, filter_size=3, blur_padding=1)
    same(ours, theirs, fill(SHAPE, "ties", torch.float64))


@pytest.mark.parametrize("f", [2, 3, 4, 5])
@pytest.mark.parametrize("pool", [2, 3])
def test_kornia_max_blur(f: int, pool: int) -> None:
    # kornia pads its blur before and after as Zhang does, but with zeros.
    theirs = kornia_filters.MaxBlurPool2D(f, stride=2, max_pool_size=pool)
    ours = FusedMaxBlurPool(pool, 2, filter_size=f, padding_mode="zeros")
    same(ours, theirs, fill(SHAPE, "ties", torch.float64))


def test_composer_max_blur() -> None:
    """composer's BlurMaxPool2d, from its definition: max, then [1 2 1] / 4 with zeros around."""
    from testing.judge import judge

    taps = [0.25, 0.5, 0.25]
    ours = FusedMaxBlurPool(3, 2, 1, taps=taps, blur_padding=1, padding_mode="zeros")
    same(
        ours,
        lambda x: judge(x, (3, 3), (2, 2), (1, 1), taps, taps, (1, 1, 1, 1), "zeros"),
        fill(SHAPE, "ties", torch.float64),
    )
