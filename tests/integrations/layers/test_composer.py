"""fastblur.integrations.composer is Composer's own layers and functions."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastblur
from fastblur.integrations import composer as ours

from . import comparing
from .comparing import SHAPE, outcome, same_outcome

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")


def layers_of_composer() -> Any:
    """Composer's module of layers alone: the package imports far more than these need."""
    package = importlib.util.find_spec("composer")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "algorithms" / "blurpool" / "blurpool_layers.py"
        if path.exists():
            spec = importlib.util.spec_from_file_location("blurpool_layers", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    pytest.skip("compares with Composer, which is not installed", allow_module_level=True)


theirs = layers_of_composer()
BOTH = (ours, theirs)
NAMES = ("BlurMaxPool2d", "BlurPool2d", "BlurConv2d", "blur_2d", "blurmax_pool2d")


def pair(name: str, *args: Any, **kwargs: Any) -> list[Any]:
    """A layer of each package, with the same random numbers."""
    made = []
    for package in BOTH:
        torch.manual_seed(0)
        made.append(getattr(package, name)(*args, **kwargs))
    return made


def functions(name: str, **kwargs: Any) -> list[Callable[..., Any]]:
    return [partial(getattr(package, name), **kwargs) for package in BOTH]


def same_layers(layers: list[Any]) -> None:
    for mine, other in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(mine, other)
    comparing.same_state(*layers)
    comparing.same_numbers(*layers)


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name: str) -> None:
    mine, other = (inspect.signature(getattr(package, name)).parameters for package in BOTH)
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in other.values()
    ]


POOLS: list[tuple[Any, ...]] = [(2,), (3, 2, 1), (3, None, 1), ((3, 2), (2, 1), (1, 0)), (2, 1)]


@pytest.mark.parametrize("arguments", POOLS, ids=str)
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max(arguments: tuple[Any, ...], ceil_mode: bool) -> None:
    layers = pair("BlurMaxPool2d", *arguments, ceil_mode=ceil_mode)
    same_layers(layers)
    comparing.same_attributes(*layers)


@pytest.mark.parametrize("channels", [0, -1, SHAPE[1]])
@pytest.mark.parametrize("stride", [1, 2, (2, 3)], ids=str)
def test_blur(stride: Any, channels: int) -> None:
    layers = pair("BlurPool2d", channels, stride, 0)
    same_layers(layers)
    comparing.same_attributes(*layers)


CONVS: list[dict[str, Any]] = [
    dict(kernel_size=3, stride=2, padding=1),
    dict(kernel_size=(3, 1), stride=(2, 1), padding=(1, 0), dilation=(2, 1), groups=2, bias=False),
    dict(kernel_size=3, stride=2, padding=1, blur_first=False),
    dict(kernel_size=2, blur_first=False),
]


@pytest.mark.parametrize("arguments", CONVS, ids=str)
def test_conv(arguments: dict[str, Any]) -> None:
    layers = pair("BlurConv2d", SHAPE[1], 4, **arguments)
    same_layers(layers)
    for name in ("blur_first", "blur_stride", "blur_nchannels"):
        assert getattr(layers[0], name) == getattr(layers[1], name)
    assert layers[0].conv._already_blurpooled


def test_conv_without_a_stride() -> None:
    for package in BOTH:
        with pytest.raises(AssertionError):
            package.BlurConv2d(6, 4, 3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("blur_first", [False, True])
def test_from_a_conv(blur_first: bool, bias: bool) -> None:
    conv = nn.Conv2d(SHAPE[1], 4, 3, 2, 1, bias=bias)
    layers = [package.BlurConv2d.from_conv2d(conv, blur_first=blur_first) for package in BOTH]
    assert torch.equal(layers[0].conv.weight, conv.weight)
    same_layers(layers)


def test_from_a_max_pool() -> None:
    pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
    layers = [package.BlurMaxPool2d.from_maxpool2d(pool, 0) for package in BOTH]
    comparing.same_attributes(*layers)
    comparing.same_numbers(*layers)


FILTER = torch.outer(torch.tensor([1.0, 4.0, 1.0]), torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]))


@pytest.mark.parametrize("channels", [1, SHAPE[1]])
@pytest.mark.parametrize("stride", [1, (2, 3)], ids=str)
def test_filters(stride: Any, channels: int) -> None:
    given: dict[str, Any] = dict(stride=stride, filter=FILTER.repeat(channels, 1, 1, 1) / 54)
    x = torch.randn(SHAPE)
    for name in ("blur_2d", "blurmax_pool2d"):
        got, want = (comparing.with_gradients(f, x) for f in functions(name, **given))
        torch.testing.assert_close(got, want)
    if channels == SHAPE[1]:
        got, want = (f(x, channels) for f in functions("blur_2d", **given))
        torch.testing.assert_close(got, want)


def test_functions() -> None:
    x = torch.randn(SHAPE)
    for arguments in (dict(), dict(kernel_size=3, stride=1, padding=1, ceil_mode=True)):
        calls = functions("blurmax_pool2d", **arguments)
        got, want = (comparing.with_gradients(f, x) for f in calls)
        torch.testing.assert_close(got, want)
    for x in (torch.randn(SHAPE), torch.randn(2, 1, 9, 9)):
        got, want = (comparing.with_gradients(f, x) for f in functions("blur_2d"))
        torch.testing.assert_close(got, want)


MAKES: dict[str, Callable[[Any], nn.Module]] = {
    "max": lambda package: package.BlurMaxPool2d(3, 2, 1),
    "blur": lambda package: package.BlurPool2d(),
    "blur of channels": lambda package: package.BlurPool2d(SHAPE[1]),
    "conv": lambda package: package.BlurConv2d(SHAPE[1], 4, 3, 2, 1),
    "conv first": lambda package: package.BlurConv2d(SHAPE[1], 4, 3, 2, 1, blur_first=False),
}


@pytest.mark.parametrize("make", MAKES)
def test_layers_everywhere(make: str) -> None:
    other = MAKES[make](theirs)

    def with_weights() -> nn.Module:
        mine = MAKES[make](ours)
        mine.load_state_dict(other.state_dict())
        return mine

    comparing.works_everywhere(with_weights, other, torch.randn(SHAPE))


@pytest.mark.parametrize("name", ["blur_2d", "blurmax_pool2d"])
def test_functions_everywhere(name: str) -> None:
    mine, other = (getattr(package, name) for package in BOTH)
    x = torch.randn(SHAPE)
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), other(x))
    torch.testing.assert_close(torch.jit.trace(mine, x)(x), other(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert mine(x).dtype == other(x).dtype == torch.bfloat16


# Composer's blur returns a map without rows as it is; here it is refused, as by the max.
INPUTS = [what for what in comparing.inputs() if what != "no rows"]


def test_a_map_without_rows() -> None:
    for layer in (ours.BlurMaxPool2d(2), ours.BlurPool2d(), ours.blur_2d):
        with pytest.raises(RuntimeError, match="empty only along the batch"):
            layer(torch.ones(2, 6, 0, 9))


@pytest.mark.parametrize("what", INPUTS)
@pytest.mark.parametrize("make", MAKES)
def test_inputs_that_are_refused(make: str, what: str) -> None:
    same_outcome(*(MAKES[make](package) for package in BOTH), comparing.inputs()[what])


@pytest.mark.parametrize("what", INPUTS)
@pytest.mark.parametrize("channels", [-1, SHAPE[1]])
def test_inputs_that_the_function_refuses(what: str, channels: int) -> None:
    filter = torch.ones(SHAPE[1], 1, 3, 3) / 9
    calls = functions("blur_2d", channels=channels, filter=filter)
    same_outcome(*calls, comparing.inputs()[what])


FILTERS = {
    "another number of channels": torch.ones(SHAPE[1] + 1, 1, 3, 3),
    "even": torch.ones(1, 1, 4, 4),
    "a plane": torch.ones(3, 3),
    "one channel, for six": torch.ones(1, 1, 3, 3),
}


@pytest.mark.parametrize("filter", FILTERS)
def test_filters_that_the_function_refuses(filter: str) -> None:
    channels = SHAPE[1] if "for six" in filter else -1
    calls = functions("blur_2d", filter=FILTERS[filter], channels=channels)
    assert isinstance(same_outcome(*calls, torch.randn(SHAPE)), type)


def test_what_only_composer_computes() -> None:
    """It is refused with the name of what computes it."""
    for make in (ours.BlurMaxPool2d, partial(ours.blurmax_pool2d, torch.randn(SHAPE))):
        with pytest.raises(ValueError, match=r"dilation must be 1, got 2; composer\.algorithms"):
            make(kernel_size=2, dilation=2)
    with pytest.raises(ValueError, match="not separable"):
        ours.blur_2d(torch.randn(SHAPE), filter=torch.eye(3)[None, None])
    with pytest.raises(ValueError, match="requires grad"):
        ours.blur_2d(torch.randn(SHAPE), filter=torch.ones(1, 1, 3, 3, requires_grad=True))


@pytest.mark.parametrize("stride", [0, 2.0, "2"])
def test_strides_that_are_refused(stride: Any) -> None:
    for name, size in (("BlurMaxPool2d", (2,)), ("BlurPool2d", (0,))):
        made = [outcome(partial(getattr(p, name), *size, stride)) for p in BOTH]
        assert isinstance(same_outcome(*made, torch.randn(SHAPE)), type)
    for name in ("blur_2d", "blurmax_pool2d"):
        calls = functions(name, stride=stride)
        assert isinstance(same_outcome(*calls, torch.randn(SHAPE)), type)


def test_fuse_knows_the_layers() -> None:
    model = nn.Sequential(*(layer for make in MAKES.values() for layer in (nn.ReLU(), make(ours))))
    model = model[:8]  # the last would get another number of channels
    x = torch.randn(SHAPE)
    want = model(x)
    report = fastblur.fuse_(model)
    assert [row.what for row in report.rows] == [
        ("ReLU", name) for name in ("BlurMaxPool2d", "BlurPool2d", "BlurPool2d", "BlurConv2d")
    ]
    torch.testing.assert_close(model(x), want)


def test_fuse_knows_a_blur_behind_its_convolution() -> None:
    """Nothing can join it, and its filter is for the channels that come out."""
    blurred = ours.BlurConv2d(SHAPE[1], 4, 3, 2, 1, blur_first=False)
    report = fastblur.fuse_(nn.Sequential(nn.Conv2d(SHAPE[1], SHAPE[1], 1), nn.ReLU(), blurred))
    assert (report.rows, report.already) == ((), 1)


def test_imports_no_composer() -> None:
    comparing.imports("fastblur.integrations.composer", "composer")
