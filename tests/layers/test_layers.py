"""The layers as people use them: shapes, formats, printing, saving, autocast, checkpointing."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fastblur import FusedBlurPool, FusedBlurPool1d, FusedMaxBlurPool, FusedMaxBlurPool1d
from fastblur import functional as fb
from testing.judge import answer, binomial, judge

from ..conftest import needs_extension

LAYERS = {
    "FusedMaxBlurPool(kernel_size=3, stride=2, padding=1, filter_size=4)": FusedMaxBlurPool(
        3, 2, 1
    ),
    "FusedMaxBlurPool(kernel_size=(2, 3), stride=(1, 2), padding=(0, 1), filter_size=(3, 5), "
    "blur_padding=(1, 2), padding_mode='zeros', relu=True, backend='reference')": FusedMaxBlurPool(
        (2, 3),
        (1, 2),
        (0, 1),
        filter_size=(3, 5),
        blur_padding=(1, 2),
        padding_mode="zeros",
        relu=True,
        backend="reference",
    ),
    "FusedBlurPool(taps=(1, 2), stride=2)": FusedBlurPool(taps=[1, 2]),
    "FusedBlurPool(taps=((1,), (1.0, 2.0)), stride=3, relu=True)": FusedBlurPool(
        taps=([1], torch.tensor([1.0, 2.0])), stride=3, relu=True
    ),
    "FusedBlurPool(taps='haar', stride=2)": FusedBlurPool(taps="haar"),
    "FusedBlurPool(taps=('haar', (1, 2)), stride=2)": FusedBlurPool(taps=["haar", [1, 2]]),
    "FusedBlurPool1d(taps='db2', stride=2)": FusedBlurPool1d(taps="db2"),
    "FusedMaxBlurPool1d(kernel_size=3, stride=2, padding=1, filter_size=4)": FusedMaxBlurPool1d(
        3, 2, 1
    ),
    "FusedBlurPool1d(filter_size=5, stride=2)": FusedBlurPool1d(5),
    "FusedBlurPool1d(taps=(1, 2), stride=2)": FusedBlurPool1d(taps=[1, 2]),
    "FusedBlurPool(filter_size=3, stride=(1, 2), blur_padding=(1, 1))": FusedBlurPool(
        np.int64(3),  # type: ignore[arg-type]
        torch.tensor([1, 2]),  # type: ignore[arg-type]
        blur_padding=np.array([1, 1]),  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("text", LAYERS)
def test_repr_can_be_read_back(text: str) -> None:
    layer = LAYERS[text]
    assert repr(layer) == text
    again = eval(text)
    assert again.geometry == layer.geometry
    assert again.backend == layer.backend


@pytest.mark.parametrize("text", LAYERS)
def test_copy_pickle_and_save(text: str) -> None:
    layer = LAYERS[text]
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    x = torch.randn((2, 3, 15) if "1d" in text else (2, 3, 15, 15))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), saved):
        assert repr(other) == text
        assert torch.equal(other(x), layer(x))
    assert layer.state_dict() == {}
    assert list(layer.parameters()) == []
    layer.load_state_dict({}, strict=True)


def test_tells_what_it_does() -> None:
    """What was given, in full, and not to be changed: a layer is checked when it is made."""
    layer = FusedMaxBlurPool(3, 2, 1, filter_size=3, padding_mode="zeros", relu=True)
    told = dict(
        kernel_size=(3, 3),
        stride=(2, 2),
        padding=(1, 1),
        taps=((0.25, 0.5, 0.25), (0.25, 0.5, 0.25)),
        blur_padding=(1, 1, 1, 1),
        padding_mode="zeros",
        relu=True,
        one_dimensional=False,
    )
    for name, value in told.items():
        assert getattr(layer, name) == value
        with pytest.raises(AttributeError, match=name):
            setattr(layer, name, value)
    assert FusedBlurPool1d().one_dimensional


def test_stands_where_max_pool_stood() -> None:
    x = torch.randn(2, 8, 112, 112)
    for k, s, p in ((3, 2, 1), (2, 2, 0)):
        # torch floors and "same" ceils: equal on the even sizes that networks have.
        assert FusedMaxBlurPool(k, s, p)(x).shape == nn.MaxPool2d(k, s, p)(x).shape


def test_attributes_of_max_pool() -> None:
    layer = FusedMaxBlurPool(3, (1, 2), 1)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 2), (1, 1))


def test_arguments_are_read_at_each_call() -> None:
    """A tensor that changes between calls is not taken for its old self."""
    x = torch.ones(1, 1, 6, 6)
    taps = torch.tensor([0.5, 0.5])
    assert fb.blur_pool2d(x, taps=taps).max() == 1
    taps.mul_(2)
    assert fb.blur_pool2d(x, taps=taps).max() == 4


def test_one_tap_is_max_pool_with_a_stride() -> None:
    x = torch.randn(2, 3, 14, 15)
    want = nn.functional.max_pool2d(x, 3, 2, 1)
    torch.testing.assert_close(fb.max_blur_pool2d(x, 3, 2, 1, filter_size=1), want, rtol=0, atol=0)


def test_relu_inside_equals_relu_before() -> None:
    x = torch.randn(2, 3, 9, 10)
    for inside, outside in (
        (FusedMaxBlurPool(relu=True), FusedMaxBlurPool()),
        (FusedBlurPool(relu=True), FusedBlurPool()),
    ):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = inside(a), outside(b.relu())
        torch.testing.assert_close(y, z)
        y.square().sum().backward()
        z.square().sum().backward()
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_unbatched_and_empty(backend: str) -> None:
    layer = FusedMaxBlurPool(3, 2, 1, backend=backend)  # type: ignore[arg-type]
    x = torch.randn(4, 9, 11)
    assert torch.equal(layer(x), layer(x.unsqueeze(0)).squeeze(0))
    empty = torch.randn(0, 4, 9, 11, requires_grad=True)
    y = layer(empty)
    assert y.shape == (0, 4, 5, 6)
    y.sum().backward()
    assert empty.grad is not None
    assert empty.grad.shape == empty.shape


def test_one_dimension() -> None:
    x = torch.randn(2, 3, 21)
    taps = binomial(3)
    want = judge(
        x.unsqueeze(2), (1, 3), (1, 2), (0, 1), [1.0], taps, (0, 0, 1, 1), "reflect", True
    ).squeeze(2)
    ours = FusedMaxBlurPool1d(3, 2, 1, filter_size=3, relu=True)
    torch.testing.assert_close(ours(x), want)
    torch.testing.assert_close(ours(x[0]), want[0])
    torch.testing.assert_close(
        fb.max_blur_pool1d(x, 3, 2, 1, taps=taps, blur_padding=(1, 1), relu=True), want
    )
    torch.testing.assert_close(
        fb.blur_pool1d(x, 3, blur_padding=1), FusedBlurPool1d(3, taps=taps)(x)
    )


VIEWS = {
    "transposed": lambda x: x.transpose(2, 3),
    "every other column": lambda x: x[..., ::2],
    "every other row and channel": lambda x: x[:, ::2, ::2],
    "offset": lambda x: x[1:, 1:, 1:, 1:],
    "channels_last window": lambda x: x.to(memory_format=torch.channels_last)[:, :, 2:-1, 1:-2],
    "channels_last, half the channels": lambda x: x.to(memory_format=torch.channels_last)[:, ::2],
    "expanded": lambda x: x[:1, :1].expand(3, 4, -1, -1),
    "flipped": lambda x: x.flip(-1).transpose(0, 1),
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views(view: str) -> None:
    leaf = torch.randn(4, 6, 13, 14, requires_grad=True)
    x = VIEWS[view](leaf)
    y = fb.max_blur_pool2d(x, 3, 2, 1, filter_size=3)
    dy = torch.randn(y.shape).transpose(2, 3).contiguous().transpose(2, 3)  # not dense either
    dx, base_dx = torch.autograd.grad(y, (x, leaf), dy)
    taps = binomial(3)
    want = answer(x, dy, (3, 3), (2, 2), (1, 1), taps, taps, (1, 1, 1, 1), "reflect")
    want.check(view, y, dx)
    through_the_view = torch.autograd.grad(x, leaf, want.dx.float())
    torch.testing.assert_close((base_dx,), through_the_view)


CROPS = {
    "one image": lambda x: x[:1, :, 2:-2, 2:-2],
    "one image, half the channels": lambda x: x[:1, ::2],
    "one image, half the rows": lambda x: x[:1, :, ::2],
    "unbatched": lambda x: x[0, :, 2:-2, 2:-2],
    "two images": lambda x: x[:, :, 2:-2, 2:-2],
    "one channel": lambda x: x[:, :1, 2:-2],
    "one channel, repeated": lambda x: x[:, :1].expand(-1, 6, -1, -1),
    "one pixel": lambda x: x[:, :, :1, :1],
}


@needs_extension
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_crops_have_the_format_that_torch_gives(crop: str, channels_last: bool) -> None:
    x = torch.randn(2, 6, 14, 14)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    x = CROPS[crop](x)
    y = fb.max_blur_pool2d(x, 1, 1, filter_size=1)
    if x.dim() == 4:
        assert y.stride() == nn.MaxPool2d(1)(x).stride()
    if not channels_last:
        assert y.is_contiguous()


def test_memory_format_is_kept() -> None:
    x = torch.randn(2, 5, 12, 12)
    last = x.to(memory_format=torch.channels_last)
    assert FusedMaxBlurPool()(x).is_contiguous()
    y = FusedMaxBlurPool()(last.requires_grad_())
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    assert last.grad is not None
    assert last.grad.is_contiguous(memory_format=torch.channels_last)
    window = last.detach()[:, :, 1:, 1:]
    assert FusedMaxBlurPool()(window).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autocast(backend: str) -> None:
    """As conv2d: float32 and 16-bit inputs are cast, float64 is not."""
    layer = FusedMaxBlurPool(backend=backend)  # type: ignore[arg-type]
    x = torch.randn(1, 3, 9, 9, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert y.dtype == torch.bfloat16
        assert layer(x.half()).dtype == torch.bfloat16
        assert layer(x.double()).dtype == torch.float64
    assert layer(x).dtype == torch.float32
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_inference_mode() -> None:
    layer = FusedMaxBlurPool()
    with torch.inference_mode():
        y = layer(torch.randn(1, 3, 9, 9))
    assert y.is_inference()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant: bool) -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), FusedMaxBlurPool(relu=True))
    x = torch.randn(2, 3, 12, 12, requires_grad=True)
    (want,) = torch.autograd.grad(body(x).square().sum(), x)
    y = checkpoint(body, x, use_reentrant=use_reentrant)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, want)


def test_saved_tensors_may_be_offloaded() -> None:
    x = torch.randn(2, 3, 12, 12, requires_grad=True)
    (want,) = torch.autograd.grad(FusedMaxBlurPool()(x).square().sum(), x)
    with torch.autograd.graph.save_on_cpu():
        y = FusedMaxBlurPool()(x)
    (got,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.equal(got, want)


def test_rows_of_x_much_longer_than_those_of_the_maxima() -> None:
    # 2 columns of 300 channels more, and no padding whose room they could take.
    x = torch.randn(2, 300, 9, 8).to(memory_format=torch.channels_last)
    layer = FusedMaxBlurPool(3, 2, 0, filter_size=3, blur_padding=0)
    want = F.conv2d(
        F.max_pool2d(x, 3, 1),
        torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).div(16).expand(300, 1, 3, 3),
        stride=2,
        groups=300,
    )
    for _ in range(20):
        torch.testing.assert_close(layer(x), want)


def test_circular_rows_come_from_both_ends_of_a_tall_map() -> None:
    x = torch.randn(2, 3, 400, 40)
    layer = FusedMaxBlurPool(2, 2, 0, filter_size=4, padding_mode="circular")
    taps = torch.tensor([1.0, 3, 3, 1]) / 8
    padded = F.pad(F.max_pool2d(x, 2, 1), (1, 2, 1, 2), mode="circular")
    want = F.conv2d(padded, torch.outer(taps, taps).expand(3, 1, 4, 4), stride=2, groups=3)
    for _ in range(20):
        torch.testing.assert_close(layer(x), want)


def test_the_longest_filter() -> None:
    assert [len(taps) for taps in FusedMaxBlurPool(filter_size=31).taps] == [31, 31]
