"""fuse_ and unfuse_ on published models, which keep their numbers and their state dicts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastblur import fuse_, unfuse_
from fastblur.surgery import FuseReport
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


def hooked(module: nn.Module, hook: str = "register_forward_hook") -> nn.Module:
    getattr(module, hook)(lambda *_: None)
    return module
