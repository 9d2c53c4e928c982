"""Upsampling on every backend against its definition, its derivatives, and its errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from fastblur import FusedBlurPool, FusedBlurUpsample, FusedBlurUpsample1d
from fastblur._geometry import Geometry
from fastblur.functional import blur_pool2d, blur_upsample1d, blur_upsample2d
from testing.cases import (
    UPSAMPLE_MODES,
    UPSAMPLES,
    Target,
    UpsampleCase,
    fill,
    in_format,
    targets,
    upsampling,
)
from testing.judge import upsample, upsampling_answer

from ..conftest import needs_extension

TARGETS = targets()
FUSED = [target for target in TARGETS if target.backend.keeps_codes]
both_layouts = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)
each_mode = pytest.mark.parametrize("mode", UPSAMPLE_MODES)


# ---- values ------------------------------------------------------------------------------------


@both_layouts
@pytest.mark.parametrize("case", UPSAMPLES, ids=str)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_case(target: Target, case: UpsampleCase, channels_last: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        x, dy = fill(case.shape, "normal", dtype), fill(case.output_shape, "normal", dtype, seed=1)
        leaf = in_format(x, channels_last).requires_grad_()
        y = target.upsample(leaf, case.upsampling())
        (dx,) = torch.autograd.grad(y, leaf, in_format(dy, channels_last))
        assert y.dtype == dx.dtype == dtype
        upsampling_answer(x, dy, *case.chain()).check(str(dtype), y, dx)


@both_layouts
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("target", FUSED, ids=str)
def test_sixteen_bits_are_rounded_once(
    target: Target, channels_last: bool, dtype: torch.dtype
) -> None:
    """So no result is further from the exact one than half a unit in the last place."""
    for case in UPSAMPLES:
        x, dy = fill(case.shape, "normal", dtype), fill(case.output_shape, "normal", dtype, seed=1)
        leaf = in_format(x, channels_last).requires_grad_()
        y = target.upsample(leaf, case.upsampling())
        (dx,) = torch.autograd.grad(y, leaf, in_format(dy, channels_last))
        exact = upsampling_answer(x, dy, *case.chain())
        # Repeating the edges is a step of its own, whose gradient is summed in 16 bits.
        repeats = any(case.upsampling().repeated)
        for ours, truth, size in ((y, exact.y, exact.y_size), (dx, exact.dx, exact.dx_size)):
            half = torch.finfo(dtype).eps / 2
            allowed = half * truth.abs() * 1.001 + 1e-6 * size + 1e-7
            if repeats and ours is dx:
                allowed = 4 * half * size + 1e-7
            assert ((ours.double() - truth).abs() <= allowed).all(), str(case)


@both_layouts
@pytest.mark.parametrize("target", FUSED, ids=str)
def test_nan_and_infinity_stay_where_they_reach(target: Target, channels_last: bool) -> None:
    """One tap from a NaN is NaN, two strides from it is not."""
    x = torch.ones(1, 17, 9, 20)
    x[0, :, 4, 10], x[0, :, 0, 0] = torch.nan, torch.inf
    case = upsampling(4, 2)
    y = target.upsample(in_format(x, channels_last), case.upsampling())
    exact = upsample(x.double(), *case.chain())  # type: ignore[arg-type]
    assert torch.equal(y[0, :, 6:, 18:].isnan(), exact[0, :, 6:, 18:].isnan())
    assert y[0, :, 7:11, 19:23].isnan().all()
    assert not y[0, :, :, 24:].isnan().any()


@needs_extension
@each_mode
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("filter_size", [2, 3, 4, 5, 6])
def test_equals_conv_transpose2d(filter_size: int, stride: int, mode: Any) -> None:
    """Cropped to stride times the input, with the gain as a factor."""
    taps = torch.rand(filter_size, dtype=torch.float64)
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    weight = 0.5 * torch.outer(taps, taps).expand(3, 1, -1, -1)
    edge = 0 if mode == "zeros" else 4
    around = F.pad(x, (edge,) * 4, "replicate") if edge else x
    y = F.conv_transpose2d(around, weight, stride=stride, groups=3)
    first = max(0, (filter_size - stride + 1) // 2) + edge * stride
    y = F.pad(y, (0, 3, 0, 3))[..., first : first + 9 * stride, first : first + 7 * stride]
    ours = blur_upsample2d(x, stride=stride, taps=taps, gain=0.5, padding_mode=mode)
    torch.testing.assert_close(ours, y, rtol=1e-14, atol=1e-14)


@needs_extension
def test_replicate_is_bilinear_and_nearest() -> None:
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    for stride in (2, 3, 4, (2, 5)):
        steps = (stride, stride) if isinstance(stride, int) else stride
        flat = [[1.0] * step for step in steps]
        # A triangle of 2 s taps, and of 2 s - 1 for odd s, whose centre is one tap.
        slopes = [[min(a, b) for a, b in zip(r, r[::-1], strict=True)] for r in map(_rising, steps)]
        for taps, mode in ((flat, "nearest"), (slopes, "bilinear")):
            want = F.interpolate(x, scale_factor=steps, mode=mode)
            ours = blur_upsample2d(x, stride=stride, taps=taps, padding_mode="replicate")
            torch.testing.assert_close(ours, want, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(
        blur_upsample2d(x, padding_mode="replicate"),
        F.interpolate(x, scale_factor=2, mode="bilinear"),
    )


def _rising(stride: int) -> list[float]:
    """1, 3, 5, ... for an even stride, 1, 2, 3, ... for an odd one."""
    return (
        [float(2 * i + 1) for i in range(2 * stride)]
        if stride % 2 == 0
        else [float(i + 1) for i in range(2 * stride - 1)]
    )


@needs_extension
@each_mode
@pytest.mark.parametrize("stride", [1, 2, 3, (2, 3)])
@pytest.mark.parametrize("filter_size", [3, 4, 5, 6, 7])
def test_a_constant_stays_constant(filter_size: int, stride: Any, mode: Any) -> None:
    y = blur_upsample2d(torch.full((1, 1, 12, 12), 3.0), filter_size, stride, padding_mode=mode)
    inner = y if mode == "replicate" else y[..., 9:-9, 9:-9]
    torch.testing.assert_close(inner, torch.full_like(inner, 3.0))
    meets_border = filter_size > (stride if isinstance(stride, int) else min(stride))
    assert (y.min() < 2.9) == (mode == "zeros" and meets_border)


@needs_extension
def test_it_is_the_transpose_of_the_blur() -> None:
    """<up(x), z> = <x, blur(z)>: the layer's own definition."""
    x, z = (torch.randn(2, 3, n, 2 * n, dtype=torch.float64) for n in (5, 10))
    for filter_size in (2, 3, 4, 7):
        up = blur_upsample2d(x, filter_size, gain=1)
        down = blur_pool2d(z, filter_size, padding_mode="zeros")
        torch.testing.assert_close((up * z).sum(), (x * down).sum())


@needs_extension
def test_one_dimension() -> None:
    x = torch.randn(2, 3, 9)
    for mode in UPSAMPLE_MODES:
        for f, s in ((4, 2), (3, 2), (5, 3)):
            y = blur_upsample1d(x, f, s, padding_mode=mode)
            assert torch.equal(y, FusedBlurUpsample1d(f, s, padding_mode=mode)(x))
            taps = ((1.0,), FusedBlurUpsample1d(f, s, padding_mode=mode).taps[1])
            case = UpsampleCase((1, s), *taps, mode=mode)
            want = upsample(x.double().unsqueeze(2), *case.chain()).squeeze(2)  # type: ignore[arg-type]
            torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-6)
    assert torch.equal(blur_upsample1d(x[0]), blur_upsample1d(x)[0])


@needs_extension
@both_layouts
@each_mode
def test_shapes_layouts_and_what_is_kept(mode: Any, channels_last: bool) -> None:
    layer = FusedBlurUpsample(3, (2, 1), padding_mode=mode)
    x = in_format(torch.randn(2, 5, 6, 7), channels_last).requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.numel()), t)[1], lambda t: t
    ):
        y = layer(x)
    assert y.shape == (2, 5, 12, 7)
    assert y.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    assert sum(kept) == 0
    column = torch.randn(1, 33, 17, 1).permute(0, 2, 3, 1)  # [1, 17, 1, 33], channels_last
    assert layer(column).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(x[0].contiguous()), layer(x.contiguous())[0])
    assert torch.equal(layer(x[:0]), y[:0])


# ---- derivatives -------------------------------------------------------------------------------

SMALL = dict(filter_size=3, padding_mode="replicate")


def small(x: Tensor) -> Tensor:
    return blur_upsample2d(x, **SMALL)  # type: ignore[arg-type]


def plain(x: Tensor) -> Tensor:
    return blur_upsample2d(x, **SMALL, backend="reference")  # type: ignore[arg-type]


@needs_extension
@each_mode
def test_gradcheck(mode: Any) -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    for f in (3, 4):
        layer = FusedBlurUpsample(f, padding_mode=mode)
        assert gradcheck(layer, x, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(lambda x, layer=layer: layer(x).square(), x)


@needs_extension
def test_transforms() -> None:
    x, t = (torch.randn(3, 1, 2, 3, 4, dtype=torch.float64) for _ in range(2))

    def loss(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: f(x).pow(3).sum()

    uses: dict[str, Callable[[Any], Tensor]] = {
        "vmap": lambda f: vmap(f)(x),
        "vmap, last axis": lambda f: vmap(f, in_dims=-1)(x.movedim(0, -1)),
        "jvp": lambda f: jvp(f, (x[0],), (t[0],))[1],
        "vmap grad": lambda f: vmap(grad(loss(f)))(x),
        "jacrev": lambda f: jacrev(f)(x[0]),
        "jacfwd": lambda f: jacfwd(f)(x[0]),
        "hessian": lambda f: hessian(loss(f))(x[0]),
    }
    for name, use in uses.items():
        torch.testing.assert_close(use(small), use(plain), msg=name, rtol=1e-9, atol=1e-9)


@needs_extension
def test_forward_mode() -> None:
    x, t = (torch.randn(1, 2, 3, 4) for _ in range(2))
    with forward_ad.dual_level():
        dual = small(forward_ad.make_dual(x, t))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, small(t))


# ---- wrong arguments ----------------------------------------------------------------------------

X = torch.zeros(1, 2, 5, 5)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    (dict(filter_size=0), ValueError, "filter_size must be 1 to 31, got 0"),
    (dict(stride=0), ValueError, "stride must be 1 or more, got 0"),
    (dict(stride=None), TypeError, "stride must be an int or a pair of ints, got None"),
    (dict(taps="x"), (TypeError, ValueError), "taps must be"),  # type: ignore[list-item]
    (dict(gain="sum"), TypeError, "gain must be 'auto' or a number, got 'sum'"),
    (dict(gain=None), TypeError, "gain must be 'auto' or a number, got None"),
    (dict(gain=True), TypeError, "gain must be 'auto' or a number, got True"),
    (dict(gain=float("inf")), ValueError, "gain must be finite, .* got inf"),
    (dict(stride=5), ValueError, "gain must be a number if the stride .* got 'auto' for 4 taps"),
    (dict(taps=[1, 1, -1]), ValueError, "gain must be a number if taps that meet .* sum to 0"),
    (dict(gain=10**400), ValueError, "gain must be finite"),
    (dict(taps=[1e308] * 2, gain=10), ValueError, "gain must be finite"),
    (dict(taps=[1e308] * 4), ValueError, "gain must be a number if .* or to infinity"),
    (dict(gain=np.array([1.0, 2.0])), TypeError, "gain must be 'auto' or a number, got array"),
    (dict(padding_mode="reflect"), ValueError, "padding_mode must be one of 'zeros', 'replicate'"),
    (dict(backend="gpu"), ValueError, "backend must be one of 'auto', .* got 'gpu'"),
    (dict(scale_factor=2), TypeError, "has no argument 'scale_factor'"),
    (dict(blur_padding=1), TypeError, "has no argument 'blur_padding'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda v: str(v)[:40])
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    for call in (
        lambda: FusedBlurUpsample(**arguments),
        lambda: blur_upsample2d(X, **arguments),
    ):
        with pytest.raises(error, match=message):
            call()


@needs_extension
def test_the_operator_itself_refuses() -> None:
    """It has no codes, so it can be of no geometry that has winners."""
    upsample = torch.ops.fastblur.blur_upsample
    for arguments in (dict(kernel_size=3), dict(kernel_size=1, relu=True)):
        geometry = Geometry.resolve(**arguments).arguments()  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"kernel_size must be \[1, 1\] and relu False"):
            upsample(X, *geometry, False)
    blur = Geometry.resolve(1).arguments()
    with pytest.raises(ValueError, match="input must have 4 dimensions"):
        upsample(X[0], *blur, False)
    with pytest.raises(TypeError, match="input must be float32"):
        upsample(X.int(), *blur, False)


def test_wrong_arguments_in_one_dimension() -> None:
    for arguments in (dict(stride=(1, 2)), dict(filter_size=(1, 3)), dict(taps=([1], [1, 1]))):
        with pytest.raises((TypeError, ValueError), match=f"^{next(iter(arguments))} must"):
            FusedBlurUpsample1d(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (None, TypeError, "input must be a torch.Tensor, got NoneType"),
        (X.int(), TypeError, r"input must be float32, .* got torch\.int32"),
        (X[0, 0], ValueError, r"input must be \[N, C, H, W\] or \[C, H, W\]"),
        (X[:, :0], ValueError, "input may be empty only along the batch"),
        (X.to_sparse(), TypeError, "input must be a dense tensor"),
    ],
    ids=str,
)
def test_wrong_inputs(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FusedBlurUpsample()(x)


def test_a_named_backend_that_cannot_run() -> None:
    with pytest.raises(RuntimeError, match="backend 'cuda' cannot run: "):
        blur_upsample2d(X, backend="cuda")


@needs_extension
def test_a_pool_and_its_upsampling_in_a_new_process() -> None:
    """Nothing else need have been called before."""
    code = "import torch, fastblur as f; print(f.FusedBlurUpsample()(torch.ones(1,1,4,4)).sum())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "tensor(" in done.stdout, done.stderr
    assert FusedBlurPool()(FusedBlurUpsample()(X)).shape == X.shape
