"""Functions and layers ask ``__torch_function__``: of torch.fx's proxies, subclasses and modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from fastblur import (
    FusedBlurPool1d,
    FusedMaxBlurPool,
    FusedMaxBlurPool1d,
    antialias_,
    functional,
    fuse_,
)
from fastblur.surgery import FilteredPool


class ByFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.max_blur_pool2d(x, 3, 2, 1, filter_size=5, relu=True)


LAYERS: list[Callable[[], nn.Module]] = [
    lambda: FusedMaxBlurPool(3, 2, 1, padding_mode="zeros", backend="reference"),
    lambda: FilteredPool.zhang(6, 3),
    ByFunction,
]


def net(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), layer).eval()


def calls_of(graph: fx.Graph) -> list[Any]:
    return [node for node in graph.nodes if node.target is functional.max_blur_pool2d]


@pytest.mark.parametrize("make", LAYERS)
def test_symbolic_trace_holds_one_call(make: Callable[[], nn.Module]) -> None:
    model, x = net(make()), torch.randn(2, 3, 16, 16)
    traced = fx.symbolic_trace(model)
    (call,) = calls_of(traced.graph)
    assert all(isinstance(v, (int, bool, str, tuple)) for v in call.kwargs.values())
    others = [node.op for node in traced.graph.nodes if node is not call]
    assert others == ["placeholder", "call_module", "call_module", "call_module", "output"]
    assert torch.equal(traced(x), model(x))
    assert "max_blur_pool2d" in traced.code


@pytest.mark.parametrize("make", [FusedMaxBlurPool1d, FusedBlurPool1d])
def test_symbolic_trace_of_one_dimension(make: Callable[[], nn.Module]) -> None:
    layer, x = make(), torch.randn(2, 3, 16)
    assert torch.equal(fx.symbolic_trace(layer)(x), layer(x))


@pytest.mark.parametrize("make", LAYERS)
def test_tools_of_fx(make: Callable[[], nn.Module]) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_fx
    from torch.fx.experimental.optimization import fuse

    model, x = net(make()), torch.randn(2, 3, 16, 16)
    want = model(x)
    torch.testing.assert_close(fuse(model)(x), want)
    prepared = prepare_fx(model, get_default_qconfig_mapping(), (x,))
    assert len(calls_of(prepared.graph)) == 1
    torch.testing.assert_close(prepared(x), want)


def test_feature_extractor() -> None:
    extraction = pytest.importorskip(
        "torchvision.models.feature_extraction", reason="needs torchvision, which is not installed"
    )
    from torchvision.models import resnet18

    model, x = resnet18().eval(), torch.randn(1, 3, 64, 64)
    antialias_(model, 3)
    fuse_(model)
    want = model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x)))))
    features = extraction.create_feature_extractor(model, ["layer1", "layer2.0"])
    torch.testing.assert_close(features(x)["layer1"], want)


class Sub(Tensor):
    """A subclass that keeps itself, as most do."""


class Seen(Tensor):
    """Notes what it is asked."""

    asked: ClassVar[list[Any]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.asked.append((func, kwargs))
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("make", LAYERS)
def test_subclasses(make: Callable[[], nn.Module]) -> None:
    layer, x = make(), torch.randn(2, 6, 16, 16)
    want = layer(x)
    result = layer(x.as_subclass(Sub))
    assert type(result) is Sub
    assert torch.equal(result.as_subclass(Tensor), want)
    Seen.asked.clear()
    assert torch.equal(layer(x.as_subclass(Seen)).as_subclass(Tensor), want)
    asked = [kwargs for func, kwargs in Seen.asked if func is functional.max_blur_pool2d]
    assert len(asked) == 1
    assert asked[0]["stride"] == (2, 2)


@pytest.mark.parametrize("make", LAYERS)
def test_images_of_torchvision(make: Callable[[], nn.Module]) -> None:
    tv = pytest.importorskip("torchvision.tv_tensors", reason="needs torchvision")
    layer, x = make(), torch.randn(2, 6, 16, 16)
    image = tv.Image(x)
    assert type(layer(image)) is type(torch.nn.functional.max_pool2d(image, 2)) is Tensor
    assert torch.equal(layer(image), layer(x))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_masked_tensors_answer_for_themselves() -> None:
    from torch.masked import masked_tensor

    x = torch.randn(1, 6, 16, 16)
    with pytest.raises(TypeError, match="MaskedTensor"):
        FusedMaxBlurPool()(masked_tensor(x, x > 0))


def test_modes() -> None:
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    layer, x = FusedMaxBlurPool(), torch.randn(1, 6, 16, 16)
    want = layer(x)
    with Mode():
        assert torch.equal(layer(x), want)
    assert functional.max_blur_pool2d in seen
    with torch.device("cpu"):
        assert torch.equal(layer(x), want)


def test_what_is_no_tensor_is_still_refused() -> None:
    for call in (FusedMaxBlurPool(), FusedMaxBlurPool1d(), FilteredPool.zhang(6), ByFunction()):
        with pytest.raises(TypeError, match=r"input must be a torch\.Tensor, got list"):
            call([[1.0]])
