"""fuse_ and unfuse_: models keep their numbers and their state dicts, and nothing is guessed."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastblur
from fastblur import FusedBlurPool, FusedMaxBlurPool, fuse_, unfuse_
from fastblur._geometry import Geometry
from fastblur.surgery import BlurredConv2d, FilteredPool, FuseReport
from testing import lookalikes as like
from testing.measure import saved_bytes, storages

from .conftest import needs_extension

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


def test_nothing_to_fuse() -> None:
    report = fuse_(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)))
    assert report.rows == ()
    assert "nothing to fuse" in str(report)


@pytest.mark.parametrize("function", [fuse_, unfuse_])
def test_no_module(function: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got Tensor"):
        function(torch.zeros(1))


def test_nothing_to_unfuse() -> None:
    """As fuse_, it says so; and else what is back."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2, 1), layer())
    report = unfuse_(net)
    assert report.restored == ()
    assert str(report) == "nothing to unfuse: the model has no layer that fuse_ created"
    fuse_(net)
    assert str(unfuse_(net)) == "restored: 2; separate calls again in: the model"


def test_models_that_are_wrapped_already() -> None:
    """Nothing joins in what cannot be traced, so the model is to be changed first."""
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 1), layer())
    before = list(net)
    for wrapped, why in (
        (nn.DataParallel(net), r"pass model\.module"),
        (torch.compile(net), "must not be compiled yet: change it, then torch.compile it"),
        (torch.jit.trace(net, torch.zeros(1, 4, 12, 12)), "must not be scripted"),
    ):
        with pytest.raises(TypeError, match=why):
            fuse_(wrapped)  # type: ignore[arg-type]
        assert list(net) == before
    fuse_(net)
    assert unfuse_(nn.DataParallel(net)).restored == ("module.2",)


def test_reports_share_what_they_tell() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2, 1), layer(), nn.Sequential(layer()))
    net[3][0].register_forward_hook(lambda *_: None)
    report = fuse_(net)
    assert report.changed == report.fused == report.rows[:1]
    assert report.left == report.rows[1:]


def test_twice() -> None:
    net = timm.create_model("resnetblur18")
    fuse_(net)
    modules = list(net.modules())
    assert fuse_(net).rows == ()
    assert list(map(id, net.modules())) == list(map(id, modules))


def test_in_two_steps_and_back() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 1), layer())
    before, x = list(net), torch.randn(1, 4, 12, 12)
    want = net(x)
    assert fuse_(net, relu=False).rows[0].joined == ("2",)
    assert fuse_(net).rows[0].joined == ("1", "2")
    assert fuse_(net, relu=False).rows == ()
    torch.testing.assert_close(net(x), want)
    unfuse_(net)
    assert list(net) == before
    assert type(net) is nn.Sequential


def test_errors_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in the middle, the model is as it was."""
    net = nn.Sequential(layer(), layer())
    before = list(net)
    calls = iter([None, RuntimeError("on purpose")])

    def fails(*_: object) -> None:
        if (error := next(calls)) is not None:
            raise error

    monkeypatch.setattr("fastblur.surgery.fuse.check_numbers", fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        fuse_(net)
    assert list(net) == before


def test_checkpoint_with_other_taps() -> None:
    """A checkpoint whose filter is another one is computed with that one."""
    other = nn.Sequential(nn.MaxPool2d(2, 1), layer())
    other[1].filt.copy_(torch.outer(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.2, 0.6, 0.2])))
    net = nn.Sequential(nn.MaxPool2d(2, 1), layer())
    fuse_(net)
    net.load_state_dict(other.state_dict())
    x = torch.randn(2, 4, 13, 14)
    torch.testing.assert_close(net(x), other(x))
    unfuse_(net)
    assert torch.equal(net(x), other(x))


def test_checkpoint_that_cannot_be_fused() -> None:
    net = nn.Sequential(layer())
    fuse_(net)
    state = {"0.filt": torch.randn(4, 1, 3, 3)}
    with pytest.raises(RuntimeError, match=r"0\.filt.*differs between channels.*unfuse_"):
        net.load_state_dict(state)
    assert torch.equal(net[0].filt, layer().filt)


def test_other_channels() -> None:
    """antialiased_cnns would silently return the wrong number of channels."""
    net = nn.Sequential(layer())
    fuse_(net)
    with pytest.raises(
        ValueError, match=r"input must have 4 channels, .* got shape \(1, 2, 8, 8\)"
    ):
        net(torch.randn(1, 2, 8, 8))
    with pytest.raises(TypeError, match=r"input must be a torch\.Tensor, got NoneType"):
        net(None)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda g: FilteredPool(g, None), TypeError, "filter must be a floating .* got NoneType"),
        (lambda g: FilteredPool(g, torch.ones(4, 4).int()), TypeError, "filter .* torch.int32"),
        (lambda g: FilteredPool(g, torch.ones(4)), ValueError, r"filter must be .* got shape \(4,"),
        (lambda g: FilteredPool(g, torch.ones(2, 32)), ValueError, r"1 to 31 taps .* \(2, 32\)"),
        (lambda g: FilteredPool.zhang("8"), TypeError, "channels must be an int, got '8'"),
        (lambda g: FilteredPool.zhang(0), ValueError, "channels must be 1 or more, got 0"),
    ],
)
def test_filtered_pool_refuses(
    make: Callable[[Geometry], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(Geometry.resolve())


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies(way: str, tmp_path: Any) -> None:
    net = timm.create_model("resnetblur18", num_classes=3).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = net(x)
    before = str(net)
    fuse_(net)
    if way == "torch.save":
        torch.save(net, tmp_path / "net.pt")
        again = torch.load(tmp_path / "net.pt", weights_only=False)
    else:
        again = copy.deepcopy(net) if way == "deepcopy" else pickle.loads(pickle.dumps(net))
    with torch.no_grad():
        torch.testing.assert_close(again(x), want)
        unfuse_(again)
        assert str(again) == before
        assert torch.equal(again(x), want)
    assert "FilteredPool" in str(net)


def test_conversion_after_fusing() -> None:
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 1), layer())
    fuse_(net)
    net.double()
    assert net[2].filt.dtype == torch.float64
    y = net(torch.randn(1, 4, 9, 9, dtype=torch.float64))
    unfuse_(net)
    assert net[2].filt.dtype == y.dtype == torch.float64
    assert type(net[2]) is aa.BlurPool
    y = net(torch.randn(1, 4, 9, 9, dtype=torch.float64))


def test_unfuse_keeps_training_of_the_convolution() -> None:
    net = nn.Sequential(like.BlurConv2d(4, 4))
    fuse_(net)
    assert isinstance(net[0], BlurredConv2d)
    net[0].conv = nn.Conv2d(4, 4, 3, 2, 1)  # even another one
    x = torch.randn(1, 4, 12, 12)
    y = net.eval()(x)
    unfuse_(net)
    assert isinstance(net[0], like.BlurConv2d)
    assert not net[0].training
    torch.testing.assert_close(net(x), y)


@needs_extension
def test_compiled() -> None:
    net = timm.create_model("resnetblur18", num_classes=3).eval()
    fuse_(net)
    x = torch.randn(1, 3, 64, 64)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x))
    torch._dynamo.reset()


def test_explain_takes_a_fused_layer() -> None:
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 1), layer())
    fuse_(net, backend="reference")
    assert fastblur.explain(torch.zeros(1, 4, 9, 9), net[2]).backend == "reference"


def test_needs_no_peer() -> None:
    """Recognising layers imports none of the packages that they are from."""
    import subprocess
    import sys

    code = (
        "import sys, torch, fastblur; fastblur.fuse_(torch.nn.Sequential(torch.nn.ReLU()));"
        "peers = {'antialiased_cnns', 'timm', 'kornia', 'torchvision', 'composer'};"
        "found = peers & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("argument", ["relu", "backend"])
def test_bad_arguments(argument: str) -> None:
    net = nn.Sequential(nn.ReLU(), layer())
    before = list(net)
    with pytest.raises((TypeError, ValueError), match=f"{argument} must be .* got 'no'"):
        fuse_(net, **{argument: "no"})  # type: ignore[arg-type]
    assert list(net) == before


def fused_net() -> nn.Sequential:
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 1)), nn.Sequential(layer())
    )
    assert fuse_(net).rows[0].joined == ("0.1", "0.2")
    return net


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (lambda net: net[1][0], "got a fused layer"),
        (lambda net: hooked(net[1][0]) and net, "hooks, which would be lost"),
        (
            lambda net: hooked(net[1][0], "register_full_backward_pre_hook") and net,
            "hooks, which would be lost",
        ),
    ],
    ids=["layer", "hooked since", "backward hook since"],
)
def test_parts_are_not_unfused(part: Callable[[Any], Any], why: str) -> None:
    net = fused_net()
    before = [id(module) for module in net.modules()]
    with pytest.raises(ValueError, match=why):
        unfuse_(part(net))
    assert [id(module) for module in net.modules()] == before


def test_own_attributes_named_like_ours() -> None:
    net = fused_net()
    net._replaced = None
    net[0]._together = 3
    assert unfuse_(net).restored == ("1.0",)


def test_a_part_is_unfused() -> None:
    net = fused_net()
    x = torch.randn(1, 4, 12, 12)
    want = net(x)
    assert unfuse_(net[1]).restored == ("0",)
    torch.testing.assert_close(net(x), want)


ODD_TAPS = torch.tensor([0.3, 0.45, 0.25])  # not exact in any type


def with_odd_taps() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 4, 1), filtered(lambda f: f.copy_(torch.outer(ODD_TAPS, ODD_TAPS)))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_taps_that_no_type_holds(dtype: torch.dtype) -> None:
    net = with_odd_taps().to(dtype)
    assert fuse_(net).fused
    net = with_odd_taps()
    fuse_(net)
    net.to(dtype).float()
    net.load_state_dict(net.state_dict())
    net.load_state_dict(with_odd_taps().to(dtype).state_dict())
    plain = copy.deepcopy(net)
    unfuse_(plain)
    x = torch.randn(1, 4, 11, 11)
    torch.testing.assert_close(
        net(x), plain(x), rtol=0, atol=1e-2 if dtype != torch.float64 else 1e-5
    )


CHANGES: dict[str, Callable[[Any, Tensor], object]] = {
    "copy_": lambda blur, new: blur.filt.copy_(new),
    "attribute": lambda blur, new: setattr(blur, "filt", new),
    "data": lambda blur, new: setattr(blur.filt, "data", new),
    "state dict": lambda blur, new: blur.state_dict()["filt"].copy_(new),
    "assign": lambda blur, new: blur.load_state_dict({"filt": new}, assign=True),
}


@pytest.mark.parametrize("way", CHANGES)
def test_filter_changed_afterwards(way: str) -> None:
    """By an average of weights, for example."""
    x, new = torch.randn(1, 4, 11, 11), torch.outer(ODD_TAPS, ODD_TAPS).repeat(4, 1, 1, 1)
    net, plain = nn.Sequential(layer()), nn.Sequential(layer())
    fuse_(net)
    net(x)
    for one in (net, plain):
        CHANGES[way](one[0], new.clone())
    torch.testing.assert_close(net(x), plain(x))


def test_functional_call_with_another_filter() -> None:
    net, plain = nn.Sequential(layer()), nn.Sequential(layer())
    fuse_(net)
    x, new = torch.randn(1, 4, 11, 11), torch.outer(ODD_TAPS, ODD_TAPS).repeat(4, 1, 1, 1)
    got, want = (torch.func.functional_call(n, {"0.filt": new}, (x,)) for n in (net, plain))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(net(x), plain(x))


def test_made_empty_and_loaded() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), layer())
    state = {key: value.clone() for key, value in net.state_dict().items()}
    x = torch.randn(1, 4, 11, 11)
    want = net(x)
    fuse_(net)
    net.to("meta").to_empty(device="cpu")
    net[1].filt.normal_()
    net.load_state_dict(state)
    torch.testing.assert_close(net(x), want)
    net[1].filt.normal_()
    with pytest.raises(ValueError, match="buffer 'filt' cannot be fused"):
        net(x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Callable[[], Any]) -> None:
    with mode():
        net = nn.Sequential(nn.ReLU(), layer())
        x = torch.randn(1, 4, 11, 11)
        want = net(x)
        assert fuse_(net).rows[0].joined == ("0",)
        torch.testing.assert_close(net(x), want)


def test_one_tap_of_adobes_serves_any_channels() -> None:
    net = nn.Sequential(aa.BlurPool(4, filt_size=1))
    fuse_(net)
    x = torch.randn(1, 8, 9, 9)
    assert torch.equal(net(x), x[..., ::2, ::2])


def test_mode_of_a_convolution_survives() -> None:
    net = nn.Sequential(like.BlurConv2d(4, 4)).train()
    fuse_(net)
    net[0].conv.eval()
    unfuse_(net)
    assert net[0].training
    assert not net[0].conv.training


def test_a_subclass_of_a_fused_layer_stays_with_a_reason() -> None:
    class Mine(FusedBlurPool):
        pass

    report = fuse_(nn.Sequential(nn.ReLU(), Mine(3)))
    assert not report.fused
    assert report.left[0].note == "it is a subclass, of FusedBlurPool; it is fused already"


def test_twice_says_so() -> None:
    net = fused_net()
    assert str(fuse_(net)) == "nothing to fuse; layers already fused: 1"
