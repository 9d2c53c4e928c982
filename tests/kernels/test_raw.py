"""The compiled operators called by hand, and fastblur._C: what they return, what they refuse."""

from __future__ import annotations

import pytest
import torch

from fastblur._backends import compiled
from fastblur._geometry import Geometry

from ..conftest import needs_extension

pytestmark = needs_extension
C = compiled.C

GEOMETRY = dict(
    kernel_size=[2, 2],
    stride=[2, 2],
    padding=[0, 0],
    taps_h=[0.5, 0.5],
    taps_w=[0.5, 0.5],
    blur_padding=[0, 1, 0, 1],
    padding_mode="reflect",
    relu=False,
)
X = torch.arange(2 * 3 * 6 * 7, dtype=torch.float32).view(2, 3, 6, 7)


def forward(x: torch.Tensor = X, **changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    """y and codes."""
    return call("forward", x=x, **changes)  # type: ignore[return-value]


def call(name: str, **changes: object) -> object:
    """A valid call of each entry point, with changes."""
    arguments = GEOMETRY | dict(channels_last=False) | changes
    if name == "sizes":  # what a call of _C itself can ask
        plan = C.Plan(*(arguments[key] for key in GEOMETRY))
        return C.cpu.Call(plan, 0, arguments["channels_last"], *X.shape).sizes
    if name == "forward":
        arguments = dict(x=X, need_codes=True) | arguments
    else:
        _, codes = forward()
        beside = dict(grad_output=torch.ones(2, 3, 3, 3), codes=codes, input_size=[2, 3, 6, 7])
        arguments = (beside if name == "backward" else dict(x=X, codes=codes)) | arguments
    return getattr(torch.ops.fastblur, f"max_blur_pool_{name}")(**arguments)


def test_valid_calls() -> None:
    y, codes = forward()
    assert y.shape == (2, 3, 3, 3)
    assert codes.dtype == torch.uint8
    assert call("sizes") == (*y.shape[2:], codes.shape[1])
    assert torch.equal(call("apply"), y)  # type: ignore[arg-type]
    assert call("backward").shape == X.shape  # type: ignore[attr-defined]
    assert forward(need_codes=False)[1].shape == (2, 0)


def test_kernels_build_no_graph() -> None:
    arguments = Geometry.resolve().arguments()
    x = X.clone().requires_grad_()
    assert not compiled.CPU.call(arguments, x.shape, False, x).forward(x, True)[0].requires_grad


BAD_GEOMETRY = [
    (dict(kernel_size=[0, 2]), "kernel_size must be 1 to 15, got 0"),
    (dict(kernel_size=[2, 16]), "kernel_size must be 1 to 15, got 16"),
    (dict(kernel_size=[2]), "kernel_size must have 2 entries"),
    (dict(kernel_size=[7, 2]), "larger than the padded input, 6"),
    (dict(stride=[0, 2]), "stride must be 1 to 2147483647, got 0"),
    (dict(stride=[2, -1]), "stride must be 1 to 2147483647, got -1"),
    (dict(stride=[2, 2**40]), "stride must be 1 to 2147483647, got 1099511627776 along the width"),
    (dict(padding=[2, 0]), "padding must be 0 to half of kernel_size 2, got 2"),
    (dict(padding=[0, -1]), "padding must be 0 to half"),
    (dict(taps_h=[]), "taps_h must have 1 to 31 entries, got 0"),
    (dict(taps_w=[0.1] * 32), "taps_w must have 1 to 31 entries, got 32"),
    (dict(taps_w=[0.5, float("nan")]), "taps_w must be finite, got nan at index 1"),
    (dict(taps_h=[float("inf")]), "taps_h must be finite, got inf"),
    (dict(blur_padding=[0, 1]), "blur_padding must have 4 entries"),
    (dict(blur_padding=[0, -1, 0, 0]), "blur_padding must be 0 to 2147483647, got"),
    (dict(blur_padding=[5, 0, 0, 0]), "'reflect' needs blur_padding smaller"),
    (dict(blur_padding=[0, 0, 0, 7], padding_mode="circular"), "'circular' needs blur_padding no"),
    (dict(blur_padding=[0, 0, 0, 2**62], padding_mode="zeros"), "blur_padding"),
    (
        dict(blur_padding=[0, 2**31 - 1, 0, 2**31 - 1], padding_mode="zeros"),
        r"input is too large: \[2, 3, 6, 7\], padded to maps of \d+ x \d+",
    ),
    (dict(padding_mode="constant"), "padding_mode must be 'reflect'"),
    (dict(taps_h=[0.1] * 9), "longer than the padded pooled map"),
]


@pytest.mark.parametrize("name", ["forward", "backward", "apply", "sizes"])
@pytest.mark.parametrize(("change", "message"), BAD_GEOMETRY, ids=lambda v: str(v)[:40])
def test_bad_geometry(name: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(name, **change)


BAD_TENSORS = [
    ("forward", dict(x=X.int()), TypeError, "input must be float32"),
    ("forward", dict(x=X[0]), ValueError, "4 dimensions"),
    (
        "forward",
        dict(x=X.to_sparse()),
        (TypeError, NotImplementedError, RuntimeError),
        "parse|layout",
    ),
    ("forward", dict(x=X[:, :0]), ValueError, "1 channel or more"),
    ("forward", dict(x=X[:, :, :0]), ValueError, "height of 1 or more"),
    ("backward", dict(grad_output=torch.ones(2, 3, 3, 4)), ValueError, "shape \\[2, 3, 3, 3\\]"),
    ("backward", dict(grad_output=torch.ones(2, 3, 3, 3).int()), TypeError, "grad_output"),
    ("backward", dict(input_size=[2, 3, 6]), ValueError, "input_size must have 4 entries"),
    ("backward", dict(input_size=[2, 3, 6, 2**62]), ValueError, "too large"),
    ("backward", dict(input_size=[-1, 3, 6, 7]), ValueError, "batch of 0 or more"),
]


@pytest.mark.parametrize(("name", "change", "error", "message"), BAD_TENSORS)
def test_bad_tensors(
    name: str, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(name, **change)


def other_codes() -> dict[str, torch.Tensor]:
    _, codes = forward()
    _, of_three = forward(kernel_size=[3, 3], padding=[1, 1])
    _, of_relu = forward(relu=True)
    return {
        "of another pool": of_three,
        "of relu": of_relu,
        "of one image": codes[:1],
        "too short": codes[:, :-1].contiguous(),
        "too long": torch.cat([codes, codes], 1),
        "flat": codes.flatten(),
        "none": torch.empty(0, dtype=torch.uint8),
    }


@pytest.mark.parametrize("name", ["backward", "apply"])
@pytest.mark.parametrize("codes", list(other_codes()) if C is not None else [])
def test_codes_of_another_geometry(name: str, codes: str) -> None:
    with pytest.raises(ValueError, match="codes must belong to this geometry"):
        call(name, codes=other_codes()[codes])


@pytest.mark.parametrize("name", ["backward", "apply"])
def test_codes_of_another_backend(name: str) -> None:
    with pytest.raises(TypeError, match="codes must be the uint8 tensor"):
        call(name, codes=torch.zeros(2, 30, dtype=torch.int32))


@pytest.mark.parametrize("channels_last", [False, True])
def test_codes_and_gradients_in_any_layout(channels_last: bool) -> None:
    """Only their shapes count: strides, negated views and expanded gradients are read right."""
    arguments = (*Geometry.resolve(3, 2, 1).arguments(), channels_last)
    ops = compiled.OPERATORS
    x = torch.randn(2, 5, 9, 11)
    y, codes = ops.forward(x, arguments, True)
    want = ops.backward(y, codes, x.shape, arguments)
    apart = torch.stack([codes, codes], -1)[..., 0]
    last = y.to(memory_format=torch.channels_last)
    for dy in (y, last, torch._neg_view(-y), y.expand(1, *y.shape)[0]):
        for c in (codes, apart, codes.t().contiguous().t()):
            assert torch.equal(ops.backward(dy, c, x.shape, arguments), want)
    assert torch.equal(ops.forward(torch._neg_view(-x), arguments, True)[0], y)
    one = torch.ones(()).expand(y.shape)
    assert torch.equal(
        ops.backward(one, codes, x.shape, arguments),
        ops.backward(one.contiguous(), codes, x.shape, arguments),
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_arbitrary_codes_of_the_right_shape_are_harmless(channels_last: bool) -> None:
    """Whatever they name, the two maps stay each other's transposes."""
    ops = compiled.OPERATORS
    g = (*Geometry.resolve(3, 2, 1, relu=True).arguments(), channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 19, 9, 11, dtype=torch.float64).to(memory_format=memory_format)
    y, codes = ops.forward(x, g, True)
    for _ in range(20):
        noise = torch.randint(0, 256, codes.shape, dtype=torch.uint8)
        # Bits that name no candidate at all, column 3 of three, do what they do, but nothing else.
        assert ops.apply(x, noise, g).isfinite().all()
        assert ops.backward(y, noise, x.shape, g).isfinite().all()
        planes = noise.view(2, 1 if channels_last else 19, 4, -1)
        planes[:, :, 1] &= ~planes[:, :, 0]
        again, back = ops.apply(x, noise, g), ops.backward(y, noise, x.shape, g)
        inner = [(again * y).sum(), (x * back).sum()]
        # A code may name a candidate outside the map: apply reads 0 there, backward drops it.
        torch.testing.assert_close(*inner, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [5, 15, 45, 70])  # rows in part of a word, in all of it, in two
def test_bits_behind_a_row_of_codes_are_zero(width: int) -> None:
    """As csrc/cpu/codes/layout.h says, though there ReLU would hold everything back."""
    x = torch.randn(2, 3, 12, width)
    arguments = (*Geometry.resolve(2, relu=True).arguments(), False)
    for level in compiled.C.cpu.targets():
        compiled.C.cpu.set_target(level)
        _, codes = compiled.OPERATORS.forward(x, arguments, True)
        rows = codes.view(2 * 3 * 3 * 11, (width + 7) // 8)
        assert not (rows[:, -1] >> width % 8).any(), level


def test_cpu_levels() -> None:
    usable = compiled.C.cpu.targets()
    assert "generic" in usable
    for level in usable:
        compiled.C.cpu.set_target(level)
        assert compiled.C.cpu.target() == level
    with pytest.raises(ValueError, match=r"must be one of '(avx|generic)"):
        compiled.C.cpu.set_target("mmx")
