"""antialias_ on the published models' architectures, and on others of torchvision and timm."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastblur import antialias_
from fastblur.surgery import FilteredPool
from testing.judge import binomial, judge

from .test_antialias import reasons

WHY = "needs {}, which is not installed"


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights as made; norms with statistics and scales of their own, so that eval mode tells."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


# -- the published models ---------------------------------------------------------------------

PUBLISHED = [
    "alexnet",
    *(f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn")),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    "mobilenet_v2",
]


def published(name: str, **arguments: Any) -> nn.Module:
    package = pytest.importorskip("antialiased_cnns", reason=WHY.format("antialiased_cnns"))
    model: nn.Module = getattr(package, name)(**arguments)
    return model


def ordinary(name: str, **arguments: Any) -> nn.Module:
    models = pytest.importorskip("torchvision.models", reason=WHY.format("torchvision"))
    model: nn.Module = models.get_model(name, weights=None, **arguments)
    return model


def published_keys(model: nn.Module) -> dict[str, tuple[int, ...]]:
    # torchvision's MobileNetV2 has a dropout in front of its last layer, which then is number 1.
    drops = isinstance(getattr(model, "classifier", None), nn.Sequential)
    drops = drops and [type(layer) for layer in model.classifier] == [nn.Dropout, nn.Linear]
    renamed = {
        "classifier.1.weight": "classifier.0.weight",
        "classifier.1.bias": "classifier.0.bias",
    }
    return {renamed.get(k, k) if drops else k: v for k, v in shapes(model).items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_state_dict_fits(name: str) -> None:
    """Every key and shape, without any data."""
    with torch.device("meta"):
        theirs, ours = published(name, filter_size=5), ordinary(name)
    report = antialias_(ours, 5)
    assert report.changed
    assert published_keys(ours) == shapes(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_published_stem(name: str) -> None:
    """Their pool_only=False."""
    with torch.device("meta"):
        theirs, ours = published(name, filter_size=3, pool_only=False), ordinary(name)
    antialias_(ours, 3, stem=True)
    assert shapes(ours) == shapes(theirs)


def pair_of(name: str, f: int, **theirs_only: Any) -> tuple[nn.Module, nn.Module]:
    theirs = published(name, filter_size=f, **theirs_only)
    randomise(theirs)
    ours = ordinary(name)
    antialias_(ours, f, stem=True if theirs_only else None)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


@pytest.mark.parametrize(
    ("name", "f", "size"),
    [
        *(("resnet18", f, 96) for f in (2, 3, 4, 5)),
        *((name, f, 96) for name in ("resnet50", "mobilenet_v2") for f in (3, 4)),
        *(("densenet121", f, 64) for f in (3, 4)),
        *(("alexnet", f, 127) for f in (3, 4)),
        ("vgg11_bn", 3, 64),
        ("vgg11", 4, 96),
        ("resnext50_32x4d", 3, 65),
    ],
)
@torch.no_grad()
def test_published_outputs(name: str, f: int, size: int) -> None:
    theirs, ours = pair_of(name, f)
    x = torch.randn(1, 3, size, size)
    want = theirs.eval()(x)
    assert want.std() > 1e-4
    tolerance = 1e-5 * max(1.0, want.abs().max().item())
    torch.testing.assert_close(ours.eval()(x), want, rtol=0, atol=tolerance)


@torch.no_grad()
def test_published_stem_outputs() -> None:
    theirs, ours = pair_of("resnet18", 4, pool_only=False)
    x = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_published_training_step(name: str) -> None:
    # In float64, as batch statistics of few pixels make float32 gradients noisy.
    theirs, ours = (model.double().train() for model in pair_of(name, 3))
    for module in ours.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    want, got = theirs(x), ours(x)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    dy = torch.randn_like(want)
    want.backward(dy)
    got.backward(dy)
    # In front of a batch norm a bias has no gradient but rounding, so errors are of the whole.
    pairs = list(zip(theirs.named_parameters(), ours.parameters(), strict=True))
    largest = max(their.grad.abs().max().item() for (_, their), _ in pairs)
    for (key, their), our in pairs:
        torch.testing.assert_close(our.grad, their.grad, rtol=1e-6, atol=1e-11 * largest, msg=key)


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn", "resnet18", "densenet121", "mobilenet_v2"])
def test_weights_survive(name: str) -> None:
    model = ordinary(name)
    randomise(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    before = dict(model.named_parameters())
    values = {key: value.clone() for key, value in model.state_dict().items()}
    report = antialias_(model)
    after = dict(model.named_parameters())
    for key, parameter in before.items():
        assert after[report.renamed.get(key, key)] is parameter
    state = model.state_dict()
    for key, value in values.items():
        assert torch.equal(state[report.renamed.get(key, key)], value), key
    added = state.keys() - {report.renamed.get(key, key) for key in values}
    assert added == {f"{row.blur}.filt" for row in report.changed}
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_second_call_changes_nothing() -> None:
    model = ordinary("resnet18")
    assert antialias_(model).changed
    before = repr(model)
    again = antialias_(model, stem=True)
    assert not again.changed
    assert not again.renamed
    assert repr(model) == before
    assert "nothing changed" in str(again)
    assert "anti-aliased already: maxpool.1" in str(again)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18", "densenet121", "mobilenet_v2"])
def test_others_anti_aliased_models_are_left(name: str) -> None:
    with torch.device("meta"):
        model = published(name)
    before = repr(model)
    assert not antialias_(model, stem=True).changed
    assert repr(model) == before


@pytest.mark.parametrize(
    ("arguments", "want"), [(None, 4.09), ({}, 5.13), ({"blur_first": True}, 4.09)]
)
def test_cost_of_the_convolutions(arguments: dict[str, Any] | None, want: float) -> None:
    """The figures of docs/antialias.md."""
    with torch.device("meta"):
        model, x = ordinary("resnet50").eval(), torch.zeros(1, 3, 224, 224)
    if arguments is not None:
        antialias_(model, **arguments)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    flops = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert round(flops / 2e9, 2) == want


def test_keep_pool() -> None:
    model = ordinary("resnet18")
    antialias_(model, keep_pool=True)
    pool = model.maxpool[0]
    assert (pool.kernel_size, pool.stride, pool.padding) == (3, 1, 1)


def test_published_blur_first() -> None:
    """Composer's order: the sizes stay, the convolutions keep their strides."""
    model = ordinary("resnet18")
    report = antialias_(model, 3, blur_first=True, padding_mode="zeros", sites={"conv"})
    first = model.layer2[0].conv1
    assert isinstance(first, nn.Sequential)
    blur, conv = first
    assert (blur.stride, blur.channels, conv.stride) == ((1, 1), 64, (2, 2))
    x = torch.randn(1, 64, 9, 9)
    taps = binomial(3)
    want = conv(judge(x, (1, 1), (1, 1), (0, 0), taps, taps, (1, 1, 1, 1), "zeros"))
    torch.testing.assert_close(first(x), want, rtol=1e-5, atol=1e-5)
    # Of a single pixel's convolution the blur may subsample itself.
    blur, conv, _ = model.layer2[0].downsample
    assert (blur.stride, conv.stride) == ((2, 2), (1, 1))
    assert "'max' is not among the sites" in reasons(report)["maxpool"]


def test_mobilenet_copies_keep_taking_published_keys() -> None:
    with torch.device("meta"):
        theirs, ours = published("mobilenet_v2"), ordinary("mobilenet_v2")
    antialias_(ours)
    for model in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        model.load_state_dict(ours.state_dict(), strict=True)
        model.load_state_dict(theirs.state_dict(), strict=True, assign=True)


# -- the rest of torchvision, and timm --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changed", "rows"),
    [
        ("regnet_y_400mf", 8, 9),
        ("efficientnet_b0", 4, 5),
        ("mobilenet_v3_small", 4, 5),
        ("shufflenet_v2_x1_0", 1, 8),
        ("squeezenet1_0", 3, 4),
        ("convnext_tiny", 0, 4),
    ],
)
@torch.no_grad()
def test_other_torchvision_models(name: str, changed: int, rows: int) -> None:
    model = ordinary(name).eval()
    x = torch.randn(1, 3, 64, 64)
    shape = model(x).shape
    report = antialias_(model, 3)
    assert (len(report.changed), len(report.rows)) == (changed, rows)
    result = model(x)
    assert result.shape == shape
    assert torch.isfinite(result).all()


def test_detection_model_is_found_in_parts() -> None:
    """Its own forward cannot be traced, its backbone can."""
    detection = pytest.importorskip(
        "torchvision.models.detection", reason=WHY.format("torchvision")
    )
    model = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    report = antialias_(model)
    assert report.recipe == "resnet"
    changed = {row.site for row in report.changed}
    assert {"backbone.body.maxpool", "backbone.body.layer4.0.conv2"} <= changed
    assert reasons(report)["backbone.body.conv1"].startswith("the first convolution")


def timm_model(name: str) -> nn.Module:
    timm = pytest.importorskip("timm", reason=WHY.format("timm"))
    model: nn.Module = timm.create_model(name, num_classes=10)
    return model


@pytest.mark.parametrize(
    ("name", "blurs"),
    [
        ("resnet18", {"maxpool.1", "layer2.0.aa", "layer2.0.downsample.0.0"}),
        ("resnet26d", {"maxpool.1", "layer2.0.aa", "layer2.0.downsample.0"}),
        ("densenet121", {"features.pool0.1", "features.transition1.pool"}),
        ("mobilenetv2_100", {"blocks.1.0.aa"}),
    ],
)
def test_timm_models(name: str, blurs: set[str]) -> None:
    model = timm_model(name)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        shape = model.eval()(x).shape
    before = set(model.state_dict())
    report = antialias_(model, 3)
    assert blurs <= {row.blur for row in report.changed}
    for row in report.changed:
        assert isinstance(model.get_submodule(row.blur), FilteredPool)
    assert before - set(report.renamed) | set(report.renamed.values()) < set(model.state_dict())
    assert model.eval()(x).shape == shape
    result = model.train()(x)
    assert result.shape == shape
    result.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_timm_model_with_a_part_that_cannot_be_traced() -> None:
    with torch.device("meta"):
        model = timm_model("vgg11")
    report = antialias_(model)
    assert [row.blur for row in report.changed] == [f"features.{i}.1" for i in (2, 5, 10, 15, 20)]
    assert {model.get_submodule(str(row.blur)).channels for row in report.changed} == {
        64,
        128,
        256,
        512,
    }


@torch.no_grad()
def test_timm_resnet_keeps_its_keys() -> None:
    """Where timm has a place for the blur, only shortcuts get other keys."""
    model = timm_model("resnet18")
    report = antialias_(model)
    assert {key.split(".")[2] for key in report.renamed} == {"downsample"}


@torch.no_grad()
def test_timm_resnet_shifts_better() -> None:
    """What the method is for: features change less when the image moves by a pixel."""

    def change(model: nn.Module) -> float:
        features = [model.eval().forward_features(x[..., i : i + 96, i : i + 96]) for i in (0, 1)]
        # Of maps as large as the input's shift is small, the mean is what a classifier sees.
        here, there = (map_.mean((2, 3)) for map_ in features)
        return ((here - there).norm() / here.norm()).item()

    x = torch.randn(4, 3, 97, 97)
    model = timm_model("resnet18")
    plain = change(model)
    antialias_(model, 5)
    assert change(model) < 0.9 * plain


def test_anti_aliased_timm_model_is_left() -> None:
    model = timm_model("resnetblur18")
    before = repr(model)
    report = antialias_(model)
    assert not report.changed
    assert repr(model) == before
