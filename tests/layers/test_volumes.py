"""The 3-D operation: values and gradients of every backend, and the layers as people use them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, fx, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap
from torch.nn import functional as F

from fastblur import FusedBlurPool3d, FusedMaxBlurPool3d, antialias_
from fastblur import functional as fb
from fastblur._geometry.volume import Volume
from testing.cases import Target, fill, targets
from testing.measure import saved_bytes
from testing.volumes import (
    CASES_3D,
    Case3d,
    answer3d,
    gradient_for,
    in_format_3d,
    judge3d,
    run3d,
    zhang3d,
)

from ..conftest import needs_extension

layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "last"])


@layouts
@pytest.mark.parametrize("case", CASES_3D, ids=str)
@pytest.mark.parametrize("target", targets(), ids=str)
def test_case(target: Target, case: Case3d, channels_last: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        dy = gradient_for(case, dtype)
        for kind in ("normal", "ties", "nan", "inf"):
            x = in_format_3d(fill(case.shape, kind, dtype), channels_last)
            y, dx = run3d(target, case, x, dy)
            assert y.dtype == dx.dtype == dtype
            answer3d(x, dy, case).check(f"{kind}, {dtype}", y, dx)
            layout = torch.channels_last_3d if channels_last else torch.contiguous_format
            assert y.is_contiguous(memory_format=layout) or y.numel() == 0


@pytest.mark.parametrize("case", CASES_3D, ids=str)
def test_the_reference(case: Case3d) -> None:
    x, v = fill(case.shape, "ties", torch.float64).requires_grad_(), case.volume()
    y = fb.max_blur_pool3d(
        x, v.kernel_size, v.stride, v.padding, taps=v.taps, blur_padding=v.blur_padding,
        padding_mode=v.padding_mode, relu=v.relu, backend="reference",
    )  # fmt: skip
    dy = gradient_for(case, torch.float64)
    (dx,) = torch.autograd.grad(y, x, dy)
    answer3d(x, dy, case).check("reference", y, dx)
    assert y.shape[2:] == v.output_size(*case.shape[2:])


@layouts
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_sixteen_bits_route_like_max_pool3d(dtype: torch.dtype, channels_last: bool) -> None:
    """Small integers with NaN and inf and taps that are exact: equal, not close."""
    for pool, pad in (((2, 3, 2), (1, 1, 0)), ((1, 3, 3), (0, 1, 1)), ((3, 1, 2), (1, 0, 1))):
        taps = ((1.0,), (0.5, 0.5), (1.0, 1.0))
        case = Case3d(pool, pad=pad, taps=taps, blur_pad=(0, 0, 0, 1, 0, 1))
        for kind in ("ties", "nan", "inf"):
            x, dy = fill(case.shape, kind, dtype), gradient_for(case, dtype).round()
            leaf = x.double().requires_grad_()
            want = judge3d(leaf, case)
            (want_dx,) = torch.autograd.grad(want, leaf, dy.double())
            layer = FusedMaxBlurPool3d(pool, 2, pad, taps=taps, blur_padding=case.blur_pad)
            ours = in_format_3d(x, channels_last).requires_grad_()
            y = layer(ours)
            (dx,) = torch.autograd.grad(y, ours, dy)
            assert y.dtype == dx.dtype == dtype
            for got, exact in ((y, want), (dx, want_dx)):
                torch.testing.assert_close(got.double(), exact, rtol=0, atol=0, equal_nan=True)


def test_depth_goes_last() -> None:
    """Of equal values the first in the order depth, height, width wins, as in max_pool3d."""
    x = torch.zeros(1, 1, 2, 2, 2, requires_grad=True)
    with torch.no_grad():
        x[0, 0, 0, 1, 1] = x[0, 0, 1, 0, 0] = 1
    layer = FusedMaxBlurPool3d(filter_size=1)
    (ours,) = torch.autograd.grad(layer(x).sum(), x)
    (theirs,) = torch.autograd.grad(F.max_pool3d(x, 2).sum(), x)
    assert torch.equal(ours, theirs)
    assert ours[0, 0, 0, 1, 1] == 1


# ---- the layers --------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "FusedMaxBlurPool3d(kernel_size=3, stride=2, padding=1, filter_size=4)": lambda: (
        FusedMaxBlurPool3d(3, 2, 1)
    ),
    "FusedMaxBlurPool3d(kernel_size=(1, 2, 3), stride=(1, 2, 2), padding=(0, 1, 1), "
    "taps=('haar', (1, 2), 'db2'), blur_padding=(1, 0, 1), padding_mode='zeros', relu=True, "
    "backend='reference')": lambda: FusedMaxBlurPool3d(
        (1, 2, 3), (1, 2, 2), (0, 1, 1), taps=["haar", [1, 2], "db2"], blur_padding=(1, 0, 1),
        padding_mode="zeros", relu=True, backend="reference",
    ),
    "FusedBlurPool3d(filter_size=(1, 3, 3), stride=2)": lambda: FusedBlurPool3d((1, 3, 3)),
    "FusedBlurPool3d(taps='kaiser6', stride=2)": lambda: FusedBlurPool3d(taps="kaiser6"),
}  # fmt: skip


@pytest.mark.parametrize("text", LAYERS)
def test_repr_copy_and_pickle(text: str) -> None:
    layer = LAYERS[text]()
    assert repr(layer) == text
    again = eval(text)
    assert again.volume == layer.volume
    x = torch.randn(2, 3, 9, 10, 11)
    for other in (again, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(other) == text
        assert torch.equal(other(x), layer(x))
    assert layer.state_dict() == {}


def test_tells_what_it_does() -> None:
    layer = FusedMaxBlurPool3d(3, (1, 2, 2), 1, filter_size=(1, 3, 4), relu=True)
    told = dict(
        kernel_size=(3, 3, 3),
        stride=(1, 2, 2),
        padding=(1, 1, 1),
        taps=((1.0,), (0.25, 0.5, 0.25), (0.125, 0.375, 0.375, 0.125)),
        blur_padding=(0, 0, 1, 1, 1, 2),
        padding_mode="reflect",
        relu=True,
    )
    for name, value in told.items():
        assert getattr(layer, name) == value
        with pytest.raises(AttributeError, match=name):
            setattr(layer, name, value)


def test_a_model_with_one_is_anti_aliased_already() -> None:
    net = nn.Sequential(FusedMaxBlurPool3d(), nn.Conv3d(3, 3, 3, 2))
    (row,) = antialias_(net).rows
    assert row.reason == "the model is anti-aliased already: 0"


def test_stands_where_max_pool_stood() -> None:
    x = torch.randn(1, 4, 16, 32, 32)
    for k, s, p in ((3, 2, 1), (2, 2, 0), ((1, 3, 3), (1, 2, 2), (0, 1, 1))):
        assert FusedMaxBlurPool3d(k, s, p)(x).shape == nn.MaxPool3d(k, s, p)(x).shape


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_unbatched_and_empty(backend: str) -> None:
    layer = FusedMaxBlurPool3d(3, 2, 1, backend=backend)  # type: ignore[arg-type]
    x = torch.randn(4, 7, 9, 11)
    assert torch.equal(layer(x), layer(x.unsqueeze(0)).squeeze(0))
    empty = torch.randn(0, 4, 7, 9, 11, requires_grad=True)
    layer(empty).sum().backward()
    assert empty.grad is not None
    assert empty.grad.shape == empty.shape


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "turned": lambda x: x.transpose(2, 4),
    "every other slice": lambda x: x[:, :, ::2],
    "offset": lambda x: x[1:, 1:, 1:, 1:, 1:],
    "channels_last window": lambda x: x.to(memory_format=torch.channels_last_3d)[..., 1:, 1:-1, 1:],
    "expanded": lambda x: x[:1, :1].expand(3, 4, -1, -1, -1),
    "flipped": lambda x: x.flip(-1).transpose(0, 1),
    "channels_last, turned": lambda x: x.to(memory_format=torch.channels_last_3d).transpose(2, 3),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views(view: str) -> None:
    case = zhang3d(3, 3, pad=(1, 1, 1))
    x = VIEWS[view](torch.randn(4, 6, 9, 11, 12, requires_grad=True))
    y = fb.max_blur_pool3d(x, 3, 2, 1, filter_size=3)
    dy = torch.randn(y.shape).transpose(2, 3).contiguous().transpose(2, 3)
    (dx,) = torch.autograd.grad(y, x, dy)
    answer3d(x, dy, case).check(view, y, dx)
    last = view == "channels_last window"
    assert y.is_contiguous(memory_format=torch.channels_last_3d) == last


@needs_extension
def test_keeps_codes_alone() -> None:
    """2 and 4 bits for each element of a 3x3x3 max: 3/16 of x, but for the ends of rows."""
    x = torch.randn(2, 8, 16, 32, 32, requires_grad=True)
    kept = saved_bytes(lambda: FusedMaxBlurPool3d(3, 2, 1, filter_size=3)(x))
    assert kept == x.nbytes * 3 // 16
    unfused = saved_bytes(lambda: judge3d(x, zhang3d(3, 3, pad=(1, 1, 1))))
    assert unfused > 4 * x.nbytes


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autocast(backend: str) -> None:
    layer = FusedMaxBlurPool3d(backend=backend)  # type: ignore[arg-type]
    x = torch.randn(1, 3, 6, 9, 9, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert y.dtype == torch.bfloat16
        assert layer(x.double()).dtype == torch.float64
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


# ---- transforms --------------------------------------------------------------------------------

GEOMETRIES: dict[str, dict[str, object]] = {
    "max": dict(kernel_size=2, filter_size=2, relu=True),
    "frames": dict(kernel_size=(1, 2, 3), filter_size=2, padding_mode="zeros"),
    "blur": dict(kernel_size=1, filter_size=3, padding_mode="circular", stride=(1, 2, 1)),
}


def distinct(*lead: int) -> Tensor:
    shape = (*lead, 2, 3, 4, 5)
    n = torch.Size(shape).numel()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return ((order - n // 2).double() + 0.5).view(shape) / 16


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_derivatives(geometry: str) -> None:
    def f(x: Tensor) -> Tensor:
        return fb.max_blur_pool3d(x, **GEOMETRIES[geometry])  # type: ignore[arg-type]

    leaf = distinct(1).requires_grad_()
    assert gradcheck(f, leaf, check_forward_ad=True)
    assert gradgradcheck(f, leaf)
    torch.testing.assert_close(vmap(f)(distinct(3, 1)), torch.stack([*map(f, distinct(3, 1))]))
    x = distinct(3, 2)
    torch.testing.assert_close(vmap(f, 1, 1)(x), torch.stack([f(x[:, i]) for i in range(2)], 1))


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class ByFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return fb.max_blur_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1), taps="haar")


@needs_extension
@layouts
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile(dynamic: bool, channels_last: bool) -> None:
    layers = nn.Sequential(FusedMaxBlurPool3d(3, 2, 1, filter_size=3), ByFunction())
    compiled = torch.compile(layers, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (12, 15, 17):
        x = in_format_3d(torch.randn(2, 3, 8, size, size), channels_last).requires_grad_()
        results = []
        for run in (compiled, layers):
            y = run(x)
            results.append((y.detach(), *torch.autograd.grad(y.square().sum(), x)))
            layout = torch.channels_last_3d if channels_last else torch.contiguous_format
            assert y.is_contiguous(memory_format=layout)
        torch.testing.assert_close(*results)


@needs_extension
@pytest.mark.usefixtures("_fresh_compiler")
def test_export() -> None:
    x = torch.randn(2, 3, 8, 12, 14)
    for layer in (FusedMaxBlurPool3d(3, 2, 1), ByFunction()):
        sizes = {0: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        program = torch.export.export(layer, (x,), dynamic_shapes=(sizes,))
        other = torch.randn(4, 3, 8, 20, 14)
        torch.testing.assert_close(program.module()(other), layer(other))
        called = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
        assert any("fastblur.max_blur_pool_forward" in name for name in called)
        assert not any(word in name for name in called for word in ("pool3d", "conv", "pad"))


def test_symbolic_trace_holds_one_call() -> None:
    x = torch.randn(2, 3, 8, 12, 14)
    for layer in (FusedMaxBlurPool3d(3, 2, 1, relu=True), ByFunction()):
        traced = fx.symbolic_trace(layer)
        (call,) = [node for node in traced.graph.nodes if node.op == "call_function"]
        assert call.target is fb.max_blur_pool3d
        assert torch.equal(traced(x), layer(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_jit() -> None:
    layer = FusedMaxBlurPool3d(3, 2, 1)
    trace = torch.jit.trace(layer, (torch.randn(2, 3, 8, 12, 14),))
    for shape in ((2, 3, 8, 12, 14), (1, 3, 9, 20, 13)):
        x = torch.randn(shape)
        torch.testing.assert_close(trace(x), layer(x))
    with pytest.raises(NotImplementedError, match="cannot compile FusedMaxBlurPool3d"):
        torch.jit.script(layer)


# ---- errors ------------------------------------------------------------------------------------

X = torch.zeros(1, 2, 6, 9, 9)
BAD: list[tuple[dict[str, object], type[Exception], str]] = [
    (dict(kernel_size=0), ValueError, "kernel_size must be 1 to 15, got 0"),
    (dict(kernel_size=(2, 2)), ValueError, r"int or a \(depth, height, width\) triple, got \(2, 2"),
    (dict(kernel_size=2.0), TypeError, "kernel_size must be an int or a triple of ints, got 2.0"),
    (dict(padding=2), ValueError, "padding must be at most half of kernel_size, got padding=2"),
    (dict(stride=None), TypeError, "got None; the default is 2, not kernel_size as in .*MaxPool3d"),
    (dict(stride=(2, 2, 0)), ValueError, r"stride must be 1 or more, got \(2, 2, 0\)"),
    (dict(filter_size=32), ValueError, "filter_size must be 1 to 31, got 32"),
    (dict(filter_size=4, taps="haar"), ValueError, r"filter_size=4 for \(2, 2, 2\) taps"),
    (dict(taps=3), TypeError, "taps must be a .*, or a triple of these, got 3"),
    (dict(taps="harr"), ValueError, "^taps must be numbers or one of 'haar', .*, got 'harr'"),
    (dict(taps=("haar", "haar", "x")), ValueError, r"^taps\[2\] must be numbers or one of"),
    (dict(taps=([1.0], [1.0])), ValueError, "a triple of rows"),
    (dict(blur_padding="valid"), ValueError, "blur_padding must be 'same', an int, .depth, height"),
    (dict(blur_padding=(1, 1)), ValueError, r"front, back, top, bottom, left, right\), got \(1, 1"),
    (dict(blur_padding=(1, 1.5, 1)), TypeError, r"blur_padding must be .*, got \(1, 1\.5, 1\)"),
    (dict(blur_padding=-1), ValueError, "blur_padding must be 0 or more"),
    (dict(padding_mode="constant"), ValueError, "padding_mode must be one of 'reflect'"),
    (dict(relu=1), TypeError, "relu must be True or False, got 1"),
    (dict(backend="gpu"), ValueError, "backend must be one of 'auto', .* got 'gpu'"),
    (dict(ceil_mode=True), TypeError, "has no argument 'ceil_mode'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=lambda v: str(v)[:50])
def test_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: FusedMaxBlurPool3d(**arguments),  # type: ignore[arg-type]
        lambda: fb.max_blur_pool3d(X, **arguments),  # type: ignore[arg-type]
    ]
    if not {"kernel_size", "padding"} & arguments.keys():
        calls += [
            lambda: FusedBlurPool3d(**arguments),  # type: ignore[arg-type]
            lambda: fb.blur_pool3d(X, **arguments),  # type: ignore[arg-type]
        ]
    for call in calls:
        with pytest.raises(error, match=message):
            call()


INPUTS: list[tuple[object, type[Exception], str]] = [
    (X[0, 0], ValueError, r"\[N, C, D, H, W\] or \[C, D, H, W\], got shape \(6, 9, 9\)"),
    (X.int(), TypeError, "input must be float32, .* got torch.int32"),
    (X.to_sparse(), TypeError, "input must be a dense tensor, got layout torch.sparse_coo"),
    ([1.0], TypeError, r"input must be a torch\.Tensor, got list"),
    (X[:, :, :0], ValueError, "may be empty only along the batch"),
    (X[:, :0], ValueError, "may be empty only along the batch"),
    (
        X[:, :, :1],
        ValueError,
        r"kernel_size \(2, 2, 2\) .* larger than the input, whose depth is 1",
    ),
    (X[:, :, :3], ValueError, r"smaller than the pooled map: got 2 for a depth of 2 \(input 3\)"),
    (X[..., :3], ValueError, r"smaller than the pooled map: got 2 for a width of 2 \(input 3\)"),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("x", "error", "message"), INPUTS, ids=lambda v: str(v)[:40])
def test_inputs(x: Tensor, error: type[Exception], message: str, backend: str) -> None:
    layer = FusedMaxBlurPool3d(backend=backend)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        layer(x)


def test_calls_of_a_geometry() -> None:
    """What each geometry is made of, in order; nothing that would change nothing."""
    three = ["width", "depth, height", "width"]
    for arguments, axes in (
        (dict(kernel_size=3, padding=1), three),
        (dict(kernel_size=3, filter_size=(3, 3, 1), stride=(2, 2, 1)), three[:2]),
        (dict(kernel_size=(3, 3, 1)), three[1:]),
        (dict(kernel_size=(1, 3, 3)), ["height, width", "depth"]),
        (dict(kernel_size=(1, 3, 3), filter_size=(1, 3, 3), stride=(1, 2, 2)), ["height, width"]),
        (dict(kernel_size=1), ["height, width", "depth"]),
        (dict(kernel_size=1, filter_size=1, stride=1), ["height, width"]),
    ):
        for relu in (False, True):
            passes = Volume.resolve(**arguments, relu=relu).passes  # type: ignore[arg-type]
            assert [call.axes for call in passes] == axes
            assert [call.geometry.relu for call in passes] == [relu, *[False] * (len(axes) - 1)]
