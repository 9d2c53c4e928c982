"""fuse_ and unfuse_: models keep their numbers and their state dicts, and nothing is guessed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastblur import FusedBlurPool, FusedMaxBlurPool, fuse_, unfuse_
from fastblur.surgery import FilteredPool, FuseReport
from testing import lookalikes as like
from testing.measure import saved_bytes, storages

from ...conftest import needs_extension

WHY = "fuses layers of {}, which is not installed"
torchvision = pytest.importorskip("torchvision", reason=WHY.format("torchvision"))
aa = pytest.importorskip("antialiased_cnns", reason=WHY.format("antialiased_cnns"))
timm = pytest.importorskip("timm", reason=WHY.format("timm"))
kornia = pytest.importorskip("kornia", reason=WHY.format("kornia")).filters

Make = Callable[[], nn.Module]
BlurPool2d = timm.layers.BlurPool2d


def create(name: str, **arguments: Any) -> Make:
    return lambda: timm.create_model(name, num_classes=10, **arguments)


# (how to make it, size of the image, sites fused, of them with a max, of them with a ReLU)
MODELS: dict[str, tuple[Make, int, int, int, int]] = {
    "antialiased_cnns alexnet": (aa.alexnet, 128, 4, 3, 3),
    "antialiased_cnns vgg11": (aa.vgg11, 64, 5, 5, 5),
    "antialiased_cnns vgg11_bn": (aa.vgg11_bn, 64, 5, 5, 5),
    "antialiased_cnns resnet18": (aa.resnet18, 64, 7, 1, 4),
    "antialiased_cnns resnet18, all": (lambda: aa.resnet18(pool_only=False), 64, 8, 1, 4),
    "antialiased_cnns resnet50": (aa.resnet50, 64, 7, 1, 4),
    "antialiased_cnns resnet18, 1 tap": (lambda: aa.resnet18(filter_size=1), 64, 7, 1, 4),
    "antialiased_cnns densenet121": (aa.densenet121, 64, 4, 1, 1),
    "antialiased_cnns mobilenet_v2": (aa.mobilenet_v2, 64, 4, 0, 0),
    "timm resnetblur18": (create("resnetblur18"), 64, 4, 1, 4),
    "timm resnetblur50": (create("resnetblur50"), 64, 4, 1, 4),
    "timm resnetaa50": (create("resnetaa50"), 64, 4, 0, 4),
    "timm resnet26d": (create("resnet26d", aa_layer=BlurPool2d), 64, 4, 1, 4),
    "timm ecaresnet26t": (create("ecaresnet26t", aa_layer=BlurPool2d), 64, 4, 1, 4),
    "timm densenetblur121d": (create("densenetblur121d"), 64, 1, 1, 1),
    "timm cspresnet50": (create("cspresnet50", aa_layer=BlurPool2d), 64, 4, 1, 0),
    "timm cspdarknet53": (create("cspdarknet53", aa_layer=BlurPool2d), 64, 5, 0, 0),
    "timm mobilenetv4": (create("mobilenetv4_conv_blur_medium"), 64, 4, 0, 1),
    "timm tresnet_m": (create("tresnet_m"), 64, 3, 0, 0),
}


def prepared(model: nn.Module) -> nn.Module:
    """In float64, without a large classifier, with statistics that must not be ignored."""
    if isinstance(getattr(model, "classifier", None), nn.Sequential):
        model.classifier = nn.LazyLinear(10)
        model(torch.randn(1, 3, 128, 128))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return model.double()


def check(model: nn.Module, x: Tensor, relu: bool = True) -> FuseReport:
    """Fuses a copy in eval mode and unfuses it again; all that must hold, holds."""
    model, x = model.double().eval(), x.double()
    fused = copy.deepcopy(model)
    before = (str(model), list(model.state_dict()), [id(p) for p in fused.parameters()])
    random_state = torch.get_rng_state()
    report = fuse_(fused, relu=relu)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [id(p) for p in fused.parameters()] == before[2]

    fused.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(fused.state_dict(), strict=True)
    assert list(fused.state_dict()) == before[1]
    assert all(not m.training for m in fused.modules())
    results = []
    for net in (model, fused):
        leaf = x.clone().requires_grad_()
        y = net(leaf)
        results.append([y.detach(), *torch.autograd.grad(y.square().mean(), leaf)])
    for got, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10 * want.abs().max().item())

    own = ("FilteredPool", "FusedBlurPool", "FusedMaxBlurPool")
    replaced = [row.path for row in report.fused if row.what[-1] not in own]
    assert unfuse_(fused).restored == tuple(replaced)
    assert [type(m) for m in fused.modules()] == [type(m) for m in model.modules()]
    assert (str(fused), list(fused.state_dict())) == before[:2]
    with torch.no_grad():
        assert torch.equal(fused(x), model(x))
    return report


def test_sides_of_a_pad_that_was_exchanged() -> None:
    """torch's order is left, right, top, bottom."""
    blur = aa.BlurPool(4, filt_size=3)
    blur.pad = nn.ReflectionPad2d((2, 0, 1, 3))
    net, x = nn.Sequential(blur), torch.randn(1, 4, 9, 9)
    want = net(x)
    assert fuse_(net).fused
    torch.testing.assert_close(net(x), want)


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    make, size, n_fused, n_max, n_relu = MODELS[name]
    report = check(prepared(make()), torch.randn(2, 3, size, size))
    assert len(report.fused) == n_fused, report
    what = [" ".join(row.what) for row in report.fused]
    assert sum("MaxPool2d" in classes for classes in what) == n_max, report
    assert sum("ReLU" in classes for classes in what) == n_relu, report
    assert not report.left, report


@pytest.mark.parametrize("name", ["antialiased_cnns vgg11_bn", "timm resnetblur18"])
def test_training_step(name: str) -> None:
    """Batch normalisation by the batch, all gradients, and the statistics that it leaves."""
    plain = prepared(MODELS[name][0]()).train()
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fused = copy.deepcopy(plain)
    fuse_(fused)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for net in (plain, fused):
        net(x).square().mean().backward()
    for mine, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(fused.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_vgg_in_channels_last() -> None:
    """A fused model runs where the unfused one may not: its flatten is no view in this format."""
    model = aa.vgg11_bn().eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = model(x)
    fuse_(model)
    model.to(memory_format=torch.channels_last)
    pooled = model.features(x.to(memory_format=torch.channels_last))
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        got = model.classifier(model.avgpool(pooled).flatten(1))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * want.abs().max().item())


@needs_extension
@pytest.mark.parametrize(
    ("plain", "anti_aliased", "limit"),
    [
        (torchvision.models.resnet18, create("resnetblur18"), 1.10),
        (torchvision.models.vgg11_bn, aa.vgg11_bn, 1.00),
    ],
    ids=["resnet18", "vgg11_bn"],
)
def test_bytes_kept_for_backward(plain: Make, anti_aliased: Make, limit: float) -> None:
    """Fused, the anti-aliased network keeps no more than the plain one, or hardly more."""
    x = torch.randn(2, 3, 96, 96)

    def kept(net: nn.Module) -> int:
        net.train()
        return saved_bytes(lambda: net(x), without=storages(net))

    net = anti_aliased()
    unfused = kept(net)
    fuse_(net)
    assert kept(net) <= limit * kept(plain()) < unfused


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


def layer(**attributes: Any) -> nn.Module:
    """A layer that would be recognised, but for these."""
    blur = aa.BlurPool(4, filt_size=3)
    for name, value in attributes.items():
        setattr(blur, name, value)
    return blur


def filtered(change: Callable[[Tensor], object]) -> nn.Module:
    blur = layer()
    change(blur.filt)
    return blur


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


def hooked(module: nn.Module, hook: str = "register_forward_hook") -> nn.Module:
    getattr(module, hook)(lambda *_: None)
    return module


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
