"""fastblur.integrations.antialiased_cnns is antialiased_cnns' own layers."""

from __future__ import annotations

import inspect
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastblur
from fastblur.integrations import antialiased_cnns as ours

from . import comparing
from .comparing import SHAPE, outcome, same_outcome

WHY = "compares with antialiased_cnns, which is not installed"
package = pytest.importorskip("antialiased_cnns", reason=WHY)
theirs = pytest.importorskip("antialiased_cnns.blurpool", reason=WHY)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")

SHAPES = {"BlurPool": SHAPE, "BlurPool1D": (2, 6, 23)}
KINDS = pytest.mark.parametrize("name", SHAPES)


def pair(name: str, *args: Any, **kwargs: Any) -> list[Any]:
    return [getattr(module, name)(*args, **kwargs) for module in (ours, theirs)]


# With fewer taps a negative pad_off crops the input, which only one tap allows.
SIZES = [(f, off) for f in range(1, 8) for off in (0, 1, -1) if (f, off) != (2, -1)]


@KINDS
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pad_type", ["refl", "reflect", "repl", "replicate", "zero"])
@pytest.mark.parametrize(("f", "pad_off"), SIZES)
def test_layer(f: int, pad_off: int, pad_type: str, stride: int, name: str) -> None:
    layers = pair(name, 6, pad_type, f, stride, pad_off)
    comparing.same_state(*layers)
    comparing.same_attributes(*layers)
    comparing.same_numbers(*layers, shape=SHAPES[name])


@KINDS
def test_a_padding_that_crops_is_refused(name: str) -> None:
    """No geometry of the kernels is that."""
    mine, _ = pair(name, 6, filt_size=3, pad_off=-2)
    with pytest.raises(RuntimeError, match="blur_padding"):
        mine(torch.randn(SHAPES[name]))


@KINDS
def test_defaults(name: str) -> None:
    mine, other = (inspect.signature(getattr(m, name)).parameters for m in (ours, theirs))
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in other.values()
    ]


@KINDS
@pytest.mark.parametrize("f", [1, 4])
def test_layers_everywhere(name: str, f: int) -> None:
    x = torch.randn(SHAPES[name])
    make = partial(getattr(ours, name), 6, filt_size=f)
    other = getattr(theirs, name)(6, filt_size=f)
    if f > 1:
        comparing.works_everywhere(make, other, x)
    else:  # which only subsamples: nothing is cast, and integers pass
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(make()(x), other(x))
        for y in (x, x.to(torch.int64), x.to(torch.complex64)):
            assert torch.equal(make()(y), other(y))
        assert torch.equal(pickle.loads(pickle.dumps(make()))(x), other(x))
        assert torch.equal(torch.compile(make(), fullgraph=True, backend="aot_eager")(x), other(x))


def test_a_network_with_the_import_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zhang's own ResNet, with the checkpoints of both."""
    from antialiased_cnns import resnet

    other = resnet.resnet18(filter_size=4).double().eval()
    monkeypatch.setattr(resnet, "BlurPool", ours.BlurPool)
    mine = resnet.resnet18(filter_size=4).double().eval()
    assert sum(isinstance(m, ours.BlurPool) for m in mine.modules()) == 7
    comparing.same_state(mine, other)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    got, want = (comparing.with_gradients(model, x) for model in (mine, other))
    torch.testing.assert_close(got, want)


ARGUMENTS: list[dict[str, Any]] = [
    *[dict(stride=stride) for stride in (0, (2, 1), 2.0, "2", None)],
    dict(pad_off=0.5),
    dict(channels="6"),
    dict(channels=6.0),
    dict(channels=-1),
]


@KINDS
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_arguments_that_are_refused(name: str, arguments: dict[str, Any]) -> None:
    made = [
        outcome(lambda m=m: getattr(m, name)(**(dict(channels=6) | arguments)))  # type: ignore[misc]
        for m in (ours, theirs)
    ]
    if isinstance(made[1], type):
        assert made[0] is made[1]
    else:
        assert isinstance(same_outcome(*made, torch.randn(SHAPES[name])), type)


@KINDS
@pytest.mark.parametrize("arguments", [dict(filt_size=f) for f in (0, 8)] + [dict(pad_type="no")])
def test_arguments_that_leave_the_original_without_a_filter(
    name: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(UnboundLocalError):
        getattr(theirs, name)(6, **arguments)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        getattr(ours, name)(6, **arguments)


@KINDS
@pytest.mark.parametrize("what", comparing.inputs())
@pytest.mark.parametrize("channels", [1, 6])
def test_inputs_that_are_refused(name: str, what: str, channels: int) -> None:
    same_outcome(*pair(name, channels), comparing.inputs(SHAPES[name])[what])


def test_settings_that_change_later() -> None:
    layers = pair("BlurPool", 6)
    for layer in layers:
        layer.stride, layer.pad = 3, nn.ReplicationPad2d((2, 1, 0, 3))
        layer.filt = torch.full((6, 1, 4, 4), 1 / 16)
    comparing.same_numbers(*layers)


def test_a_filter_that_is_not_separable() -> None:
    mine, other = pair("BlurPool", 6, filt_size=3)
    other.filt.copy_(torch.eye(3))
    with pytest.raises(RuntimeError, match=r"not separable.*Use antialiased_cnns.BlurPool instead"):
        mine.load_state_dict(other.state_dict())


@KINDS
def test_fuse_knows_the_layers(name: str) -> None:
    pool = nn.MaxPool2d(2, 1) if name == "BlurPool" else nn.MaxPool1d(2, 1)
    model = nn.Sequential(nn.ReLU(), pool, getattr(ours, name)(6))
    x = torch.randn(SHAPES[name])
    want = model(x)
    (row,) = fastblur.fuse_(model).rows
    assert row.what == ("ReLU", type(pool).__name__, name)
    torch.testing.assert_close(model(x), want)


def test_imports_no_antialiased_cnns() -> None:
    comparing.imports("fastblur.integrations.antialiased_cnns", "antialiased_cnns")
