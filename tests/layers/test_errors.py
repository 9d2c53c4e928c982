"""Wrong arguments and inputs: the error, and that it names argument, value and rule."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastblur import FusedBlurPool1d, FusedMaxBlurPool, FusedMaxBlurPool1d, _backends, explain
from fastblur import functional as fb
from fastblur._backends import compiled
from fastblur._geometry import Geometry
from fastblur.modules import FusedBlurPool

from ..conftest import needs_extension

X = torch.zeros(1, 2, 9, 9)
# What "auto" takes on a GPU that no compiled kernel is for.
NEXT = "triton" if importlib.util.find_spec("triton") else "reference"

BAD_ARGUMENTS: list[tuple[dict[str, object], type[Exception], str]] = [
    (dict(kernel_size=0), ValueError, "kernel_size must be 1 to 15, got 0"),
    (dict(kernel_size=-2), ValueError, "kernel_size must be 1 to 15, got -2"),
    (dict(kernel_size=16), ValueError, "kernel_size must be 1 to 15, got 16"),
    (dict(kernel_size=2.0), TypeError, "kernel_size must be an int or a pair of ints, got 2.0"),
    (dict(kernel_size=True), TypeError, "kernel_size must be an int .* got True"),
    (dict(kernel_size="3"), TypeError, "kernel_size must be an int .* got '3'"),
    (dict(kernel_size=(3, 3, 3)), ValueError, r"\(height, width\) pair, got \(3, 3, 3\)"),
    (dict(kernel_size=None), TypeError, "kernel_size must be an int .* got None"),
    (dict(stride=0), ValueError, "stride must be 1 or more, got 0"),
    (dict(stride=(2, -1)), ValueError, r"stride must be 1 or more, got \(2, -1\)"),
    (dict(stride=2**31), ValueError, "stride must be 1 to 2147483647, got 2147483648"),
    (dict(stride=None), TypeError, "an int or a pair of ints, got None; the default is 2, not"),
    (dict(padding=-1), ValueError, "padding must be 0 or more, got -1"),
    (dict(padding=2), ValueError, "padding must be at most half of kernel_size, got padding=2"),
    (dict(kernel_size=3, padding=(1, 2)), ValueError, r"got padding=\(1, 2\) for kernel_size=3"),
    (dict(filter_size=0), ValueError, "filter_size must be 1 to 31, got 0"),
    (dict(filter_size=32), ValueError, "filter_size must be 1 to 31, got 32"),
    (dict(filter_size=(3, 1.5)), TypeError, "filter_size must be an int"),
    (dict(taps=()), ValueError, "taps must have 1 to 31 entries, got 0"),
    (dict(taps=[0.1] * 32), ValueError, "taps must have 1 to 31 entries, got 32"),
    (dict(taps=[1.0, float("nan")]), ValueError, "taps must be finite"),
    (dict(taps=([1.0], [float("inf")])), ValueError, r"taps\[1\] must be finite"),
    (dict(taps=3), TypeError, "taps must be a sequence of numbers"),
    (dict(taps=("haar", "db2", "db3")), ValueError, "a pair of rows .height, width., got .'haar'"),
    (dict(taps=([1], [1, 1], [1])), ValueError, "one row for all axes or a pair of rows"),
    (dict(taps=["a"]), TypeError, "taps must be a sequence of numbers"),
    (dict(taps=["1", "2", "1"]), TypeError, "taps must be a sequence of numbers"),
    (dict(taps="harr"), ValueError, "^taps must be numbers or one of 'haar', .*, got 'harr'"),
    (dict(taps=["haar", "2"]), ValueError, r"^taps\[1\] must be numbers or one of .*, got '2'"),
    (dict(taps="haar", filter_size=4), ValueError, r"got filter_size=4 for \(2, 2\) taps"),
    (dict(taps=[10**400]), ValueError, "taps must be finite"),
    (dict(taps=torch.ones(2, 2)), TypeError, "taps must be one row of numbers"),
    (dict(taps=torch.ones(2, requires_grad=True)), ValueError, "taps must be constant"),
    (dict(taps=torch.ones(3, 3)), TypeError, "taps must be one row of numbers"),
    (dict(taps=[1.0, torch.ones((), requires_grad=True)]), ValueError, "taps must be constant"),
    (dict(taps=torch.ones(3).to_sparse()), TypeError, "taps must be a sequence of numbers, got"),
    (dict(taps=torch.ones(3, device="meta")), TypeError, "taps must be a sequence of .*meta"),
    (dict(taps=[1, 2, 1], filter_size=4), ValueError, r"got filter_size=4 for \(3, 3\) taps"),
    (dict(taps=[1, 2, 1], filter_size="3"), TypeError, "filter_size must be an int .* got '3'"),
    (dict(blur_padding="valid"), ValueError, "blur_padding must be 'same', an int"),
    (dict(blur_padding=-1), ValueError, "blur_padding must be 0 or more, got -1"),
    (dict(blur_padding=(1, 1, 1)), ValueError, "blur_padding must be 'same', an int"),
    (dict(blur_padding=(1, 1, -1, 1)), ValueError, "blur_padding must be 0 or more"),
    (dict(blur_padding=1.5), TypeError, r"blur_padding must be 'same', .* right\), got 1\.5"),
    (dict(blur_padding=((1, 2), (1, 2))), TypeError, r"'same', .* got \(\(1, 2\), \(1, 2\)\)"),
    (dict(blur_padding=2**70), ValueError, "blur_padding must be 0 to 2147483647, got"),
    (dict(padding_mode="constant"), ValueError, "padding_mode must be one of 'reflect'"),
    (dict(padding_mode=None), ValueError, "padding_mode must be one of .* got None"),
    (dict(relu=1), TypeError, "relu must be True or False, got 1"),
    (dict(backend="gpu"), ValueError, "backend must be one of 'auto', .* got 'gpu'"),
    (dict(backend=None), ValueError, "backend must be one of .* got None"),
    (
        dict(kernal_size=3),
        TypeError,
        "has no argument 'kernal_size'; valid arguments: .*stride, .*taps, ",
    ),
    (
        dict(ceil_mode=True),
        TypeError,
        r"no argument 'ceil_mode' \(blur_padding sets the output size",
    ),
    (dict(dilation=1), TypeError, r"'dilation' \(dilated windows are not supported\); valid"),
]
ONLY_MAX = {"kernel_size", "padding"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"), BAD_ARGUMENTS, ids=lambda v: str(v)[:50]
)
def test_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    """Every way in refuses alike; layers do it when they are made."""
    calls: list[Callable[[], object]] = [
        lambda: FusedMaxBlurPool(**arguments),  # type: ignore[arg-type]
        lambda: fb.max_blur_pool2d(X, **arguments),  # type: ignore[arg-type]
        lambda: explain(X, **arguments),
    ]
    if not ONLY_MAX & arguments.keys():
        calls += [
            lambda: FusedBlurPool(**arguments),  # type: ignore[arg-type]
            lambda: fb.blur_pool2d(X, **arguments),  # type: ignore[arg-type]
        ]
    for call in calls:
        with pytest.raises(error, match=message):
            call()


def test_too_many_by_position() -> None:
    with pytest.raises(
        TypeError, match="FusedMaxBlurPool takes only kernel_size, stride, padding as"
    ):
        FusedMaxBlurPool(3, 2, 1, 1, False)  # type: ignore[misc]
    with pytest.raises(
        TypeError, match=r"blur_pool2d takes only input, filter_size, stride as .* got 4"
    ):
        fb.blur_pool2d(X, 4, 2, "reflect")  # type: ignore[misc]


def test_taps_and_their_number() -> None:
    """Both may be given if they agree; with neither there are four taps."""
    both = FusedMaxBlurPool(filter_size=(3, 2), taps=([1, 2, 1], [1, 1]))
    assert both.geometry == FusedMaxBlurPool(taps=([1, 2, 1], [1, 1])).geometry
    assert fb.blur_pool1d(X[0], 3, taps=[1, 2, 1]).shape == (2, 9, 5)
    assert FusedMaxBlurPool().geometry == FusedMaxBlurPool(filter_size=4).geometry
    assert FusedBlurPool1d().geometry == FusedBlurPool1d(4).geometry


def test_a_good_call_does_not_let_a_bad_one_pass() -> None:
    """Equal is not the same: (True, True) == (1, 1) == (1.0, 1.0)."""
    for good, bad in (((2, 2), (2.0, 2.0)), ((1, 1), (True, True)), (1, True), (2, 2.0)):
        fb.max_blur_pool2d(X, good)
        with pytest.raises(TypeError, match="kernel_size must be an int"):
            fb.max_blur_pool2d(X, bad)  # type: ignore[arg-type]


BAD_1D: list[tuple[dict[str, object], type[Exception], str]] = [
    (dict(stride=(1, 2)), TypeError, r"stride must be an int, got \(1, 2\)"),
    (dict(filter_size=True), TypeError, "filter_size must be an int, got True"),
    (dict(stride=0), ValueError, "stride must be 1 or more"),
    (dict(blur_padding=(1, 1, 1, 1)), ValueError, r"'same', an int or \(left, right\)"),
    (dict(blur_padding=-1), ValueError, "blur_padding must be 0 or more"),
    (dict(taps=[[1.0], [1.0]]), TypeError, "one row of numbers"),
    (dict(taps="Haar"), ValueError, "must be numbers or one of 'haar', .*, got 'Haar'"),
    (dict(padding_mode="same"), ValueError, "padding_mode"),
    (dict(filter_size=40), ValueError, "filter_size must be 1 to 31, got 40$"),
    (dict(blur_padding="valid"), ValueError, "blur_padding must be 'same'"),
    (dict(blur_padding=1.5), TypeError, r"'same', an int or \(left, right\), got 1\.5"),
    (dict(blur_padding=(1, None)), TypeError, r"int or \(left, right\), got \(1, None\)"),
    (dict(stride=None), TypeError, "got None; the default is 2"),
    (dict(taps=[1, 2, 1], filter_size=4), ValueError, "filter_size must be omitted or equal"),
    (dict(return_indices=True), TypeError, "has no argument 'return_indices'"),
    (dict(blur_padding=np.array([1, 1, 1])), ValueError, r"'same', an int or \(left, right\)"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_1D)
def test_arguments_1d(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    for call in (
        lambda: FusedMaxBlurPool1d(**arguments),  # type: ignore[arg-type]
        lambda: FusedBlurPool1d(**arguments),  # type: ignore[arg-type]
        lambda: fb.max_blur_pool1d(X[0], **arguments),  # type: ignore[arg-type]
        lambda: fb.blur_pool1d(X[0], **arguments),  # type: ignore[arg-type]
    ):
        with pytest.raises(error, match=message):
            call()


NESTED = torch.nested.nested_tensor([X[0], X[0]])
QUANTISED = torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)
BAD_INPUTS: list[tuple[object, type[Exception], str]] = [
    (
        torch.zeros(9, 9),
        ValueError,
        r"input must be \[N, C, H, W\] or \[C, H, W\], got shape \(9, 9\)",
    ),
    (torch.zeros(1, 2, 9, 9, 9), ValueError, "input must be"),
    (
        torch.zeros(1, 2, 9, 9, 9).to(memory_format=torch.channels_last_3d),
        ValueError,
        r"got shape \(1, 2, 9, 9, 9\)",
    ),
    (torch.zeros(()), ValueError, "input must be"),
    (X.int(), TypeError, "input must be float32, .* got torch.int32"),
    (X.bool(), TypeError, "got torch.bool"),
    (X.to(torch.complex64), TypeError, "got torch.complex64"),
    (X.to(torch.float8_e4m3fn), TypeError, "got torch.float8_e4m3fn"),
    (X.to_sparse(), TypeError, "input must be a dense tensor, got layout torch.sparse_coo"),
    (NESTED, TypeError, "input must be a dense tensor, got a nested tensor"),
    (QUANTISED, TypeError, "input must be a dense tensor, got a quantised tensor"),
    (torch.zeros(1, 0, 9, 9), ValueError, r"empty only along the batch, got shape \(1, 0, 9, 9\)"),
    (torch.zeros(1, 2, 0, 9), ValueError, "empty only along the batch"),
    (torch.zeros(2, 0, 9), ValueError, "empty only along the batch"),
    (X.numpy(), TypeError, "input must be a torch.Tensor, got ndarray"),
    (None, TypeError, "input must be a torch.Tensor, got NoneType"),
    (
        torch.zeros(1, 2, 1, 9),
        ValueError,
        r"kernel_size \(2, 2\) .* larger than the input, whose height is 1",
    ),
    (
        torch.zeros(1, 2, 9, 3),
        ValueError,
        r"'reflect' needs a blur_padding smaller .*: got 2 for a width of 2 \(input 3\)",
    ),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("x", "error", "message"), BAD_INPUTS, ids=lambda v: str(v)[:40])
def test_inputs(x: torch.Tensor, error: type[Exception], message: str, backend: str) -> None:
    layer = FusedMaxBlurPool(backend=backend)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        layer(x)


def test_other_padding_modes_and_small_maps() -> None:
    x = torch.zeros(1, 2, 9, 4)
    wide = dict(filter_size=4, blur_padding=(1, 2, 1, 4))
    with pytest.raises(
        ValueError, match=r"'circular' needs a blur_padding no larger than .* got 4"
    ):
        fb.max_blur_pool2d(x, padding_mode="circular", **wide)  # type: ignore[arg-type]
    fb.max_blur_pool2d(x, padding_mode="replicate", **wide)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="9 taps are longer than the padded pooled map, 8"):
        fb.max_blur_pool2d(x, filter_size=9, blur_padding=0)


def test_inputs_1d() -> None:
    with pytest.raises(ValueError, match=r"input must be \[N, C, L\] or \[C, L\], got shape"):
        FusedMaxBlurPool1d()(X)
    with pytest.raises(TypeError, match=r"input must be a torch\.Tensor, got list"):
        FusedBlurPool1d()([1.0])  # type: ignore[arg-type]


@needs_extension
def test_named_backend_that_cannot_run() -> None:
    cpu, cuda, other = map(torch.device, ("cpu", "cuda", "mps"))
    with pytest.raises(RuntimeError, match=r"backend 'cpu' cannot run: .* on 'cuda'"):
        _backends.choose("cpu", cuda)
    why = "CUDA devices only, and the input is on 'cpu'" if compiled.CUDA_ARCHS else "without CUDA"
    with pytest.raises(RuntimeError, match=f"backend 'cuda' cannot run: .*{why}"):
        fb.blur_pool2d(X, backend="cuda")
    assert _backends.choose("auto", cpu).name == "cpu"
    assert _backends.choose("auto", cuda).name == ("cuda" if compiled.CUDA_ARCHS else NEXT)
    assert _backends.choose("auto", other).name == "reference"


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (("sm_80", "sm_90"), (8, 6), True),
        (("sm_80", "sm_90"), (7, 5), False),
        (("sm_80", "sm_90"), (10, 0), False),
        (("sm_86",), (8, 0), False),
        (("sm_80", "compute_90"), (12, 0), True),
        (("sm_90a",), (9, 0), True),
        (("sm_100a",), (10, 3), False),
        (("sm_100f",), (10, 3), True),
    ],
)
def test_a_gpu_that_the_build_is_not_for(
    archs: tuple[str, ...],
    capability: tuple[int, int],
    runs: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setattr(compiled, "CUDA_ARCHS", archs)
    monkeypatch.setattr(compiled, "_why_not_known_gpu", compiled.why_not_gpu)
    works = SimpleNamespace(cuda=SimpleNamespace(problem=lambda: None))
    monkeypatch.setattr(compiled, "C", works)
    device = torch.device("cuda", 0)
    assert _backends.choose("auto", device).name == ("cuda" if runs else NEXT)
    if not runs:
        major, minor = capability
        with pytest.raises(
            RuntimeError, match=rf"has compute capability {major}\.{minor} \(rebuild"
        ):
            _backends.choose("cuda", device)


@needs_extension
def test_mixed_devices() -> None:
    arguments = (*Geometry.resolve().arguments(), False)
    y, codes = compiled.OPERATORS.forward(X, arguments, True)
    with pytest.raises(RuntimeError, match="codes must be on the input's device cpu, got meta"):
        compiled.OPERATORS.backward(y, codes.to("meta"), tuple(X.shape), arguments)
    with pytest.raises(RuntimeError, match="codes must be on the input's device cpu, got meta"):
        compiled.OPERATORS.apply(X, codes.to("meta"), arguments)


def test_a_failed_call_leaves_everything_usable() -> None:
    layer = FusedMaxBlurPool()
    with pytest.raises(ValueError, match="reflect"):
        layer(torch.zeros(1, 2, 3, 3))
    assert layer(X).shape == (1, 2, 4, 4)
