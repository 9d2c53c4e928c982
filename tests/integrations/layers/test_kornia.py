"""fastblur.integrations.kornia is kornia's own layers and functions."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastblur
from fastblur.integrations import kornia as ours

from . import comparing
from .comparing import SHAPE, outcome, same_outcome

WHY = "compares with kornia, which is not installed"
theirs = pytest.importorskip("kornia.filters", reason=WHY)
exceptions = pytest.importorskip("kornia.core.exceptions", reason=WHY)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")

LAYERS = ("BlurPool2D", "MaxBlurPool2D")
FUNCTIONS = ("blur_pool2d", "max_blur_pool2d")
BOTH = (ours, theirs)


def pair(name: str, *args: Any, **kwargs: Any) -> list[Any]:
    return [getattr(package, name)(*args, **kwargs) for package in BOTH]


def functions(name: str, *args: Any, **kwargs: Any) -> list[Callable[..., Any]]:
    both = [getattr(package, name) for package in BOTH]
    return [lambda x, f=f: f(x, *args, **kwargs) for f in both]  # type: ignore[misc]


@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2)], ids=str)
@pytest.mark.parametrize("f", [1, 2, 3, 4, 5, 6, 7, (3, 3), [5, 5]], ids=str)
def test_blur(f: Any, stride: Any) -> None:
    layers = pair("BlurPool2D", f, stride)
    comparing.same_numbers(*layers)
    comparing.same_state(*layers)
    comparing.same_attributes(*layers)
    comparing.same_numbers(*functions("blur_pool2d", f, stride))


@pytest.mark.parametrize("pool", [1, 2, 3, (2, 3)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("f", [2, 3, 4, 5])
def test_max_blur(f: int, stride: int, pool: Any) -> None:
    layers = pair("MaxBlurPool2D", f, stride, pool)
    comparing.same_numbers(*layers)
    comparing.same_state(*layers)
    comparing.same_attributes(*layers)
    comparing.same_numbers(*functions("max_blur_pool2d", f, stride, pool))


@pytest.mark.parametrize("name", LAYERS + FUNCTIONS)
def test_defaults(name: str) -> None:
    """The arguments of both have the same names, order and defaults."""
    mine, other = (inspect.signature(getattr(package, name)).parameters for package in BOTH)
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in other.values()
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_everywhere(name: str) -> None:
    make = partial(getattr(ours, name), 4)
    comparing.works_everywhere(make, getattr(theirs, name)(4), torch.randn(SHAPE))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_everywhere(name: str) -> None:
    mine, other = functions(name, 3)
    x = torch.randn(SHAPE)
    want = other(x)
    torch.testing.assert_close(torch.jit.trace(mine, x)(x), want)
    torch.testing.assert_close(torch.compile(mine, fullgraph=True, backend="aot_eager")(x), want)
    with torch.autocast("cpu", torch.bfloat16):
        assert mine(x).dtype == other(x).dtype == torch.bfloat16


@pytest.mark.parametrize("name", [LAYERS[1], FUNCTIONS[1]])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_ceil_mode_warns(name: str, ceil_mode: bool) -> None:
    for package in BOTH:
        args = (torch.randn(SHAPE),) if name == FUNCTIONS[1] else ()
        with pytest.warns(DeprecationWarning, match="ceil_mode") as seen:
            getattr(package, name)(*args, 3, ceil_mode=ceil_mode)
        assert [w.filename for w in seen] == [__file__]


SIZES = [0, -1, 2.5, "3", None, (3, 5), (3,), (3, 3, 3), (0, 0)]
ARGUMENTS: list[dict[str, Any]] = [
    *[dict(kernel_size=size) for size in SIZES],
    *[dict(kernel_size=3, stride=stride) for stride in (0, -1, 2.0, "2", None, (1, 2, 3))],
]
OF_MAX = [dict(kernel_size=3, max_pool_size=size) for size in (0, -1, 2.5, "2", None, 30)]


def refuses(name: str, arguments: dict[str, Any]) -> None:
    made = [outcome(partial(getattr(package, name), **arguments)) for package in BOTH]
    if isinstance(made[1], type):
        assert made[0] is made[1]
    else:
        assert isinstance(same_outcome(*made, torch.randn(SHAPE)), type)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_arguments_that_the_layers_refuse(name: str, arguments: dict[str, Any]) -> None:
    """With the same kind of error, when the layer is made or when it is called."""
    refuses(name, arguments)


@pytest.mark.parametrize("arguments", OF_MAX, ids=str)
def test_windows_that_the_layer_refuses(arguments: dict[str, Any]) -> None:
    refuses("MaxBlurPool2D", arguments)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_that_the_functions_refuse(name: str, arguments: dict[str, Any]) -> None:
    assert isinstance(same_outcome(*functions(name, **arguments), torch.randn(SHAPE)), type)


@pytest.mark.parametrize("arguments", OF_MAX, ids=str)
def test_windows_that_the_function_refuses(arguments: dict[str, Any]) -> None:
    call = functions("max_blur_pool2d", **arguments)
    assert isinstance(same_outcome(*call, torch.randn(SHAPE)), type)


@pytest.mark.parametrize("what", comparing.inputs())
@pytest.mark.parametrize("name", LAYERS + FUNCTIONS)
def test_inputs_that_kornia_refuses(name: str, what: str) -> None:
    layers = pair(name, 4) if name in LAYERS else functions(name, 4)
    same_outcome(*layers, comparing.inputs()[what])


def test_errors_are_those_of_kornia() -> None:
    """The classes that a program catches, with what they derive from."""
    integers = torch.ones(SHAPE, dtype=torch.int64)
    for layer in (ours.BlurPool2D(3), partial(ours.blur_pool2d, kernel_size=3)):
        with pytest.raises(exceptions.TypeCheckError, match="floating point"):
            layer(integers)
    with pytest.raises(exceptions.ShapeError, match=r"\[N, C, H, W\]"):
        ours.max_blur_pool2d(torch.randn(6, 9, 9), 3)
    with pytest.raises(exceptions.BaseError, match="as high as wide"):
        ours.BlurPool2D((3, 5))(torch.randn(SHAPE))


def test_errors_where_kornia_is_not_imported() -> None:
    code = (
        "import sys, torch\n"
        "from fastblur.integrations.kornia import BlurPool2D, max_blur_pool2d\n"
        "x = torch.ones(1, 2, 9, 9)\n"
        "for call in (\n"
        "    lambda: BlurPool2D(3)(x.int()),\n"
        "    lambda: BlurPool2D((3, 5))(x),\n"
        "    lambda: max_blur_pool2d(x[0], 3),\n"
        "):\n"
        "    try: call()\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "print('kornia' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["TypeError", "ValueError", "ValueError", "False"]


@pytest.mark.parametrize("name", LAYERS)
def test_settings_that_change_later(name: str) -> None:
    layers = pair(name, 3)
    for layer in layers:
        layer.stride = 3
        if name == "MaxBlurPool2D":
            layer.max_pool_size = 4
        layer.kernel = torch.full((5, 5), 1 / 25)
    comparing.same_numbers(*layers)
    for layer in layers:
        layer.kernel = torch.full((3, 5), 1 / 15)
    assert same_outcome(*layers, torch.randn(SHAPE)) is exceptions.BaseError


def test_fuse_knows_the_layers() -> None:
    model = nn.Sequential(nn.ReLU(), ours.BlurPool2D(3), nn.ReLU(), ours.MaxBlurPool2D(3))
    x = torch.randn(SHAPE)
    want = model(x)
    rows = fastblur.fuse_(model).rows
    assert [row.what for row in rows] == [("ReLU", name) for name in LAYERS]
    torch.testing.assert_close(model(x), want)


def test_imports_no_kornia() -> None:
    comparing.imports("fastblur.integrations.kornia", "kornia")
