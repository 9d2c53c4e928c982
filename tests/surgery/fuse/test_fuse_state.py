"""What lasts after fuse_: reports, copies, checkpoints, filters that change, and the way back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastblur
from fastblur import FusedBlurPool, fuse_, unfuse_
from fastblur._geometry import Geometry
from fastblur.surgery import BlurredConv2d, FilteredPool
from testing import lookalikes as like

from ...conftest import needs_extension
from .test_fuse import aa, filtered, hooked, layer, timm


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
