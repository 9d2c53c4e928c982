"""fastblur.integrations.timm is timm's own layer, in every model that takes an ``aa_layer``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastblur
from fastblur.integrations.timm import BlurPool2d

from . import comparing
from .comparing import SHAPE, same_outcome

WHY = "compares with timm, which is not installed"
timm = pytest.importorskip("timm", reason=WHY)
theirs = pytest.importorskip("timm.layers", reason=WHY)

from timm.models import _efficientnet_builder as builder  # noqa: E402
from timm.models import _manipulate as manipulate  # noqa: E402
from timm.models import densenet, mobilenetv5, resnet, sknet, tresnet  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")

Make = Callable[[Any], nn.Module]

SMALL = [["er_r1_k3_s2_e2_c8"], *[[f"uir_r1_a3_k3_s2_e2_c{c}"] for c in (8, 16, 16)]]


def create(name: str, **arguments: Any) -> Make:
    return lambda aa: timm.create_model(name, aa_layer=aa, **arguments)


def residual(block: Any, **arguments: Any) -> Make:
    return lambda aa: resnet.ResNet(
        block, (1, 1, 1, 1), 3, channels=(8, 8, 8, 8), aa_layer=aa, **arguments
    )


def small_encoder(aa: Any) -> nn.Module:
    return mobilenetv5.MobileNetV5Encoder(
        builder.decode_arch_def(SMALL),
        stem_size=8,
        norm_layer=nn.BatchNorm2d,
        act_layer=nn.ReLU,
        aa_layer=aa,
        msfa_output_resolution=2,
    )


STEM = dict(stem_type="deep", stem_width=4, replace_stem_pool=True, avg_down=True)
# For each file of timm that mentions aa_layer, its models. How many layers each has.
FAMILIES: dict[str, list[tuple[Make, int]]] = {
    "resnet": [
        (residual(resnet.BasicBlock), 4),
        (residual(resnet.Bottleneck, **STEM), 4),
        (create("test_resnet"), 4),
    ],
    "sknet": [
        (residual(sknet.SelectiveKernelBasic, zero_init_last=False), 7),
        (residual(sknet.SelectiveKernelBottleneck, zero_init_last=False), 7),
    ],
    "densenet": [(lambda aa: densenet.DenseNet(4, (1, 1, 1, 1), 3, aa_layer=aa), 1)],
    "cspnet": [
        (create("cspresnet50"), 4),
        (create("cspdarknet53"), 5),
        (create("cs3darknet_s"), 4),
    ],
    "byobnet": [(create("test_byobnet"), 4), (create("resnet32ts"), 6)],
    "efficientnet": [
        (create("test_efficientnet"), 4),
        (create("test_efficientnet", features_only=True), 4),
        (create("efficientnet_b0"), 4),
    ],
    "mobilenetv3": [
        (create("mobilenetv4_conv_small_035"), 4),
        (create("mobilenetv4_conv_small_035", features_only=True), 4),
    ],
    "mobilenetv5": [(create("mobilenetv5_base", channel_multiplier=0.1), 4), (small_encoder, 4)],
}
# They hand aa_layer to the blocks of those above, choose the layer themselves, or refuse one.
WITHOUT = {"_efficientnet_blocks", "_efficientnet_builder", "tresnet", "resnest"}
CASES = [
    pytest.param(make, count, id=f"{family}-{i}")
    for family, models in FAMILIES.items()
    for i, (make, count) in enumerate(models)
]


def test_every_family_is_here() -> None:
    """A file of models that is new in timm and takes an ``aa_layer`` is missing above."""
    folder = Path(timm.__file__).parent / "models"
    found = {path.stem for path in folder.glob("*.py") if "aa_layer" in path.read_text()}
    assert found <= FAMILIES.keys() | WITHOUT


def of_kind(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize(("make", "count"), CASES)
def test_models(make: Make, count: int) -> None:
    mine, other = (make(kind).double().eval() for kind in (BlurPool2d, theirs.BlurPool2d))
    assert of_kind(mine, BlurPool2d) == of_kind(other, theirs.BlurPool2d) == count
    assert of_kind(mine, theirs.BlurPool2d) == 0
    comparing.same_state(mine, other)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    got, want = (comparing.with_gradients(partial(total, model), x) for model in (mine, other))
    torch.testing.assert_close(got, want)


def total(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output, or those of a list, as one row."""
    y = model(x)
    return torch.cat([part.flatten() for part in y]) if isinstance(y, list) else y


def test_a_model_that_fails_with_the_layer_of_timm() -> None:
    """timm's MobileNetV3 gives some layers another number of channels than their inputs have."""
    x = torch.randn(1, 3, 64, 64)
    models = [create("mobilenetv3_small_050")(aa) for aa in (BlurPool2d, theirs.BlurPool2d)]
    assert same_outcome(*models, x) is RuntimeError


def test_tresnet_chooses_its_own_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the import is changed, it is ours."""
    arguments = ([1, 1, 1, 1], 3, 3)
    other = tresnet.TResNet(*arguments, width_factor=0.25).double().eval()
    monkeypatch.setattr(tresnet, "BlurPool2d", BlurPool2d)
    mine = tresnet.TResNet(*arguments, width_factor=0.25).double().eval()
    assert of_kind(mine, BlurPool2d) == of_kind(other, theirs.BlurPool2d) == 3
    comparing.same_state(mine, other)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    got, want = (comparing.with_gradients(partial(total, model), x) for model in (mine, other))
    torch.testing.assert_close(got, want)


def test_a_partial_and_what_timm_makes_of_it() -> None:
    """timm takes a partial in place of a class, and hands device and dtype to layers directly."""
    layer = theirs.create_aa(partial(BlurPool2d, filt_size=5), channels=6, stride=2)
    assert (type(layer), layer.filt_size, layer.channels) == (BlurPool2d, 5, 6)
    model = timm.create_model("test_resnet", aa_layer=BlurPool2d, dtype=torch.bfloat16)
    assert model(torch.randn(1, 3, 64, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_model_made_on_the_meta_device() -> None:
    """timm fills the buffers that no checkpoint has after the model got memory."""
    other = timm.create_model("test_resnet", aa_layer=theirs.BlurPool2d).eval()
    with torch.device("meta"):
        mine = timm.create_model("test_resnet", aa_layer=BlurPool2d).eval()
    x = torch.randn(2, 3, 64, 64)
    assert mine(x.to("meta")).shape == (2, 1000)
    mine.to_empty(device="cpu")
    for module in mine.modules():
        if isinstance(module, BlurPool2d):
            module.filt.fill_(float("nan"))  # what memory may hold
    manipulate.reinit_non_persistent_buffers(mine)
    mine.load_state_dict(other.state_dict(), strict=True)
    torch.testing.assert_close(mine(x), other(x))


@pytest.mark.parametrize("channels", [None, SHAPE[1]])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "constant", "circular"])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("f", [2, 3, 4, 5, 7])
def test_layer(f: int, stride: int, mode: str, channels: int | None) -> None:
    layers = [kind(channels, f, stride, mode) for kind in (BlurPool2d, theirs.BlurPool2d)]
    comparing.same_numbers(*layers)
    comparing.same_state(*layers)
    comparing.same_attributes(*layers)


def test_layer_everywhere() -> None:
    x = torch.randn(SHAPE)
    for channels in (None, SHAPE[1]):
        make = partial(BlurPool2d, channels, filt_size=4)
        comparing.works_everywhere(make, theirs.BlurPool2d(channels, filt_size=4), x)


ARGUMENTS: list[dict[str, Any]] = [
    *[dict(filt_size=f) for f in (1, 0, -1, 2.5, "3", (3, 3), None, True)],
    *[dict(channels=c) for c in (0, -1, "6", 6.0, True)],
    *[dict(stride=s) for s in (0, -1, "2", (2, 1), 2.0, None, True)],
    *[dict(pad_mode=mode) for mode in ("zeros", "bogus", None, 3)],
    dict(filter_size=3),
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_arguments_that_timm_refuses(arguments: dict[str, Any]) -> None:
    """With the same kind of error, when the layer is made or when it is called."""
    made = [
        comparing.outcome(partial(kind, **arguments)) for kind in (BlurPool2d, theirs.BlurPool2d)
    ]
    if isinstance(made[1], type):
        assert made[0] is made[1]
    else:
        assert isinstance(same_outcome(*made, torch.randn(SHAPE)), type)


@pytest.mark.parametrize("channels", [None, 1, SHAPE[1]])
@pytest.mark.parametrize("what", comparing.inputs())
def test_inputs_that_timm_refuses(what: str, channels: int | None) -> None:
    x = comparing.inputs()[what]
    same_outcome(BlurPool2d(channels), theirs.BlurPool2d(channels), x)


@pytest.mark.parametrize("x", [None, [1.0], 3], ids=str)
def test_no_tensor(x: Any) -> None:
    assert same_outcome(BlurPool2d(), theirs.BlurPool2d(), x) is TypeError


def test_a_setting_that_changes_later() -> None:
    layers = [kind(channels=SHAPE[1]) for kind in (BlurPool2d, theirs.BlurPool2d)]
    for layer in layers:
        layer.stride, layer.padding, layer.pad_mode = 3, [2, 1, 0, 1], "constant"
    comparing.same_numbers(*layers)
    for layer in layers:
        layer.filt = torch.full((SHAPE[1], 1, 3, 3), 1 / 9)
    comparing.same_numbers(*layers)
    for layer in layers:
        layer.stride = 0
    assert same_outcome(*layers, torch.randn(SHAPE)) is RuntimeError


def test_fuse_knows_the_layers() -> None:
    """They are fused already; a max in front of them still joins, as with any fused layer."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), BlurPool2d(8), BlurPool2d(8))
    want = model(torch.ones(1, 3, 32, 32))
    report = fastblur.fuse_(model)
    assert [row.what for row in report.rows] == [("ReLU", "BlurPool2d")]
    assert report.already == 1
    assert type(model[2]) is BlurPool2d
    torch.testing.assert_close(model(torch.ones(1, 3, 32, 32)), want)


def test_fuse_leaves_a_class_of_ones_own() -> None:
    class Own(BlurPool2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    (row,) = fastblur.fuse_(nn.Sequential(nn.ReLU(), Own(8))).rows
    assert row.fused is None
    assert "subclass" in row.note


LAYERS = [
    fastblur.FusedBlurPool,
    fastblur.FusedMaxBlurPool,
    fastblur.FusedBlurPool1d,
    fastblur.FusedMaxBlurPool1d,
]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet18", "densenet121", "test_byobnet"])
def test_a_layer_that_is_no_aa_layer(name: str, kind: Any) -> None:
    """timm would take it for a layer whose one argument is a stride, and make another network."""
    with pytest.raises((ValueError, TypeError), match=re.escape("no argument")) as caught:
        timm.create_model(name, aa_layer=kind)
    if name != "densenet121":  # which passes channels by position, and the device by name
        assert caught.type is ValueError
        assert "fastblur.integrations.timm.BlurPool2d" in str(caught.value)


def test_imports_no_timm() -> None:
    comparing.imports("fastblur.integrations.timm", "timm")
    comparing.imports("fastblur", "fastblur.integrations")
