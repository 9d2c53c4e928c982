"""The layers that fuse_ takes, one by one, and those that it leaves, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastblur import FusedBlurPool, FusedMaxBlurPool, fuse_, unfuse_
from fastblur.surgery import FilteredPool
from testing import lookalikes as like

from .test_fuse import BlurPool2d, Make, aa, check, filtered, hooked, kornia, layer


def test_sides_of_a_pad_that_was_exchanged() -> None:
    """torch's order is left, right, top, bottom."""
    blur = aa.BlurPool(4, filt_size=3)
    blur.pad = nn.ReflectionPad2d((2, 0, 1, 3))
    net, x = nn.Sequential(blur), torch.randn(1, 4, 9, 9)
    want = net(x)
    assert fuse_(net).fused
    torch.testing.assert_close(net(x), want)


PARTS: dict[str, tuple[Make, str]] = {
    "kornia max": (lambda: kornia.MaxBlurPool2D(3, 2, 2), "max 2, blur 3x3 zeros, stride 2"),
    "kornia": (lambda: kornia.BlurPool2D(4), "blur 4x4 zeros, stride 2"),
    "timm, any channels": (lambda: BlurPool2d(None, 5, 3), "blur 5x5 reflect, stride 3"),
    "composer max": (lambda: like.BlurMaxPool2d(3, 2, 1), "max 3 padding 1, blur 3x3 zeros"),
    "composer": (lambda: like.BlurPool2d(6), "blur 3x3 zeros, stride 2"),
    "composer, any channels": (like.BlurPool2d, "blur 3x3 zeros, stride 2"),
    "composer conv": (lambda: like.BlurConv2d(6, 4), "blur 3x3 zeros, stride 1"),
    "composer conv, blur last": (
        lambda: like.BlurConv2d(6, 4, blur_first=False),
        "blur 3x3 zeros, stride 2",
    ),
    "ffcv conv": (
        lambda: like.BlurPoolConv2d(nn.Conv2d(6, 4, 3, 2, 1)),
        "blur 3x3 zeros, stride 1",
    ),
    "tresnet": (lambda: like.AntiAliasDownsampleLayer(6), "blur 3x3 reflect, stride 2"),
    "pad_off": (lambda: aa.BlurPool(6, "zero", 5, 2, 1), "blur 5x5 zeros, stride 2"),
    "replicate": (lambda: aa.BlurPool(6, "replicate", 3, 1), "blur 3x3 replicate, stride 1"),
}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_layer(name: str, relu: bool) -> None:
    make, text = PARTS[name]
    net = nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), make())
    (row,) = check(net, torch.randn(2, 6, 21, 24), relu=relu).fused
    # A ReLU cannot pass a convolution, and a class between the two may read its result.
    joins = relu and name not in ("composer conv, blur last", "tresnet")
    assert row.fused is not None
    assert row.fused.startswith("relu, " * joins + text)
    assert row.what[0].startswith("ReLU") == joins


@pytest.mark.parametrize("f", range(1, 8))
def test_one_dimension(f: int) -> None:
    from antialiased_cnns.blurpool import BlurPool1D

    net = nn.Sequential(nn.MaxPool1d(2, stride=1), BlurPool1D(6, filt_size=f))
    (row,) = check(net, torch.randn(2, 6, 25)).fused
    assert row.what == ("MaxPool1d", "BlurPool1D")


def test_siblings_in_a_longer_sequential() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.MaxPool2d((3, 2), 1, (1, 0)),
        aa.BlurPool(6, filt_size=3),
        nn.ReLU(),
        nn.Identity(),
        nn.MaxPool2d(2, (1, 1), ceil_mode=True),
        nn.Identity(),
        BlurPool2d(6),
        nn.Conv2d(6, 3, 1),
    )
    assert [row.path for row in check(net, torch.randn(2, 3, 33, 30)).fused] == ["2", "7"]
    report = fuse_(net)
    assert [row.what for row in report.fused] == [
        ("MaxPool2d", "BlurPool"),
        ("ReLU", "MaxPool2d", "BlurPool2d"),
    ]
    assert [row.fused for row in report.fused] == [
        "max 3x2 padding 1x0, blur 3x3 reflect, stride 2",
        "relu, max 2, blur 3x3 reflect, stride 2",
    ]
    kinds = [nn.MaxPool2d, FilteredPool, nn.ReLU, nn.MaxPool2d, FilteredPool]
    assert [type(net[i]) for i in (1, 2, 3, 5, 7)] == kinds


def test_own_layers_take_in_what_is_in_front() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 1), FusedBlurPool(3)),
        *(nn.ReLU(), FusedMaxBlurPool(2, filter_size=3, backend="reference")),
        *(nn.MaxPool2d(2, 1), FilteredPool.zhang(4, 3)),
        *(FusedBlurPool(3), FusedMaxBlurPool(2)),  # nothing in front of these joins
    )
    report = check(net, torch.randn(1, 3, 90, 90))
    assert [row.path for row in report.rows] == ["3", "5", "7"]
    layers = list(net)
    fuse_(net)
    assert list(net) == layers


def holding(extra: Any) -> nn.Module:
    blur = layer()
    if isinstance(extra, (nn.Module, nn.Parameter)):
        blur.extra = extra
    else:
        blur.register_buffer("extra", extra)
    return blur


def state_hooked(module: nn.Module) -> nn.Module:
    module.register_state_dict_post_hook(lambda *_: None)
    return module


def parametrized() -> nn.Module:
    blur = like.BlurConv2d(4, 4)
    blur.register_parameter("scale", nn.Parameter(torch.ones(1)))
    nn.utils.parametrize.register_parametrization(blur, "scale", nn.Identity())
    return blur


def pad_of_one_number() -> nn.Module:
    blur = layer()
    blur.pad.padding = 1
    return blur


class Blurrier(aa.BlurPool):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class BlurPool(nn.Module):
    """It looks like adobe's, and does something with the result."""

    def __init__(self, then: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.__dict__.update({k: v for k, v in vars(layer()).items() if not k.startswith("__")})
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        y = torch.nn.functional.conv2d(self.pad(x), self.filt, stride=2, groups=4)
        return self.then(self, x, y)


def shared() -> nn.Module:
    blur = layer()
    return nn.Sequential(blur, nn.Conv2d(4, 4, 3), blur)


def patched() -> nn.Module:
    blur = layer()
    blur.forward = lambda x: x  # type: ignore[method-assign]
    return blur


SOMETHING_ELSE = "computes something else"
LEFT: dict[str, tuple[Make, str]] = {
    "forward hook": (lambda: hooked(layer()), "hooks"),
    "forward pre-hook": (lambda: hooked(layer(), "register_forward_pre_hook"), "hooks"),
    "backward hook": (lambda: hooked(layer(), "register_full_backward_hook"), "hooks"),
    "shared": (shared, "shared"),
    "not separable": (lambda: filtered(lambda f: f[:, :, 0, 0].zero_()), "not separable"),
    "channels differ": (lambda: filtered(lambda f: f[1].mul_(2)), "differs between channels"),
    "not finite": (lambda: filtered(lambda f: f.fill_(torch.inf)), "not finite"),
    "NaN": (lambda: filtered(lambda f: f.fill_(torch.nan)), "not finite"),
    "trained filter": (lambda: filtered(lambda f: f.requires_grad_()), "being trained"),
    "one more buffer": (lambda: holding(torch.zeros(1)), "more than its filter: extra"),
    "a parameter": (lambda: holding(nn.Parameter(torch.zeros(1))), "more than its filter: extra"),
    "a child": (lambda: holding(nn.Conv2d(1, 1, 1)), "more than its filter: extra"),
    "child hooked": (lambda: layer(pad=hooked(nn.ReflectionPad2d(1))), "hooks"),
    "state dict hook": (lambda: state_hooked(layer()), "hooks of its state dict"),
    "parametrized": (lambda: parametrized(), "subclass|parametrized"),
    "same name": (
        lambda: type("BlurPool", (aa.BlurPool,), {"more": 1})(4, filt_size=3),
        "subclass",
    ),
    "gradient cut": (
        lambda: BlurPool(lambda m, x, y: y.detach() + 0 * y),
        "computes something else",
    ),
    "other in train mode": (
        lambda: BlurPool(lambda m, x, y: y * 2 if m.training else y),
        "computes something else",
    ),
    "odd sizes only": (
        lambda: BlurPool(lambda m, x, y: y * (1 + x.shape[-1] % 2)),
        "computes something else",
    ),
    "padding as one number": (
        lambda: pad_of_one_number(),
        "attributes are not those of a BlurPool",
    ),
    "subclass": (lambda: Blurrier(4, filt_size=3), "subclass, of BlurPool"),
    "lookalike": (lambda: BlurPool(lambda m, x, y: y + 1e-3), SOMETHING_ELSE),
    "forward replaced": (patched, "forward has been replaced"),
    "other padding": (lambda: layer(pad=nn.ConstantPad2d(1, 2.0)), "padding is a ConstantPad2d"),
    "other size": (lambda: layer(filt_size=5), "3x3, its attributes say otherwise"),
    "channel count": (lambda: layer(channels=8), "4 channels and it is for 8"),
    "fewer channels come": (
        lambda: nn.Sequential(nn.Conv2d(4, 2, 1), layer()),
        "filter has 4 channels, its input 2",
    ),
    "dilation": (lambda: like.BlurMaxPool2d(3, 2, 1, 2), "dilation 2"),
    "meta": (lambda: layer().to("meta"), "meta device"),
    "scripted": (lambda: like.AntiAliasDownsampleLayer(4, scripted=True), "scripted"),
    "odd mode": (lambda: BlurPool2d(4, pad_mode="constant_"), "got 'constant_'"),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    make, why = LEFT[name]
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), make())
    before = list(net.named_modules(remove_duplicate=False))
    report = fuse_(net)
    assert report.rows
    assert not report.fused
    assert all(re.search(why, row.note) for row in report.left), report
    assert list(net.named_modules(remove_duplicate=False)) == before
    assert unfuse_(net).restored == ()


def test_average_pools() -> None:
    """Fused where that saves a ReLU's result, and not mentioned elsewhere."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.AvgPool2d(2)),
        *(nn.ReLU(), nn.AvgPool2d(3, 2, 1)),
        *(nn.ReLU(), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        *(nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True)),
    )
    report = check(net, torch.randn(1, 3, 80, 83))
    assert [row.path for row in report.rows] == ["2", "5"]


def test_the_model_itself() -> None:
    report = fuse_(layer())
    assert not report.fused
    assert "the model itself" in report.left[0].note
    assert "(the model)" in str(report)
