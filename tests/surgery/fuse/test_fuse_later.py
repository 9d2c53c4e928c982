"""What joined is decided anew at each call: changes, copies, compilers and others that look on."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import FusedMaxBlurPool, fuse_, unfuse_
from fastblur.surgery import FilteredPool
from fastblur.surgery.joins.call_sites import fused_class
from fastblur.surgery.joins.rewriting import Method
from fastblur.surgery.joins.source import NoProof

from .test_fuse import hooked, layer
from .test_fuse_joins import Net
from .test_fuse_proofs import SEEN, Forward, assert_same, normed


def fused_pair() -> tuple[Any, Any, Tensor]:
    torch.manual_seed(0)
    net = Net(normed, relu=nn.ReLU(inplace=True)).double()
    fused = copy.deepcopy(net)
    assert fuse_(fused).rows[0].joined
    return fused, net, torch.randn(2, 4, 20, 20, dtype=torch.float64)


LATER: dict[str, Callable[[Any], object]] = {
    "hook on the relu": lambda n: hooked(n.relu),
    "pre-hook on the blur": lambda n: hooked(n.blur, "register_forward_pre_hook"),
    "hook on the norm": lambda n: n.norm.register_forward_hook(lambda m, i, o: SEEN.update(o=o)),
    "another activation": lambda n: setattr(n, "relu", nn.GELU()),
    "a max of stride 2": lambda n: setattr(n, "max", nn.MaxPool2d(2)),
    "no max": lambda n: setattr(n, "max", nn.Identity()),
    "another blur": lambda n: setattr(n, "blur", nn.AvgPool2d(2)),
    "a norm that keeps": lambda n: setattr(n, "norm", nn.Identity()),
    "forward of the relu": lambda n: setattr(n.relu, "forward", lambda x: x * 2),
    "in place of nothing": lambda n: setattr(n.relu, "inplace", False),
    "hook on all": lambda n: None,
}


@pytest.mark.parametrize("change", LATER)
def test_changes_afterwards_count(change: str) -> None:
    """What one call may do is decided at the call."""
    fused, net, x = fused_pair()
    for one in (fused, net):
        LATER[change](one)
    handle = None
    if change == "hook on all":
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert_same(fused, net, x)
    finally:
        if handle is not None:
            handle.remove()


def test_others_call_the_relu_themselves() -> None:
    """A feature extractor, or another method of the model."""
    fused, net, x = fused_pair()
    for one in (fused, net):
        one.features = lambda x, one=one: one.relu(one.norm(one.conv(x)))
    assert torch.equal(fused.features(x), net.features(x))
    assert torch.equal(fused.max(x), net.max(x))
    torch.testing.assert_close(fused.blur(x), net.blur(x))


def test_sequentials_that_are_taken_apart() -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 1), layer())

    fused, plain, x = net(), net(), torch.randn(1, 3, 16, 16)
    assert fuse_(fused).rows[0].joined == ("1", "2")
    torch.testing.assert_close(fused(x), plain(x))
    for end in range(1, 5):
        torch.testing.assert_close(fused[:end](x), plain[:end](x))
    for i in (1, 2, 3):
        maps = torch.randn(1, 4, 9, 9)
        torch.testing.assert_close(fused[i](maps), plain[i](maps))


@pytest.mark.parametrize("way", ["deepcopy", "copy", "pickle", "torch.save", "replica"])
def test_copies_call_their_own_modules(way: str) -> None:
    fused, net, x = fused_pair()
    if way in ("pickle", "torch.save"):
        again = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 1), layer()).double()
        fuse_(again)
        file = io.BytesIO()
        pickle.dump(again, file) if way == "pickle" else torch.save(again, file)
        file.seek(0)
        loaded = pickle.load(file) if way == "pickle" else torch.load(file, weights_only=False)
        assert type(loaded) is type(again) is not nn.Sequential
        assert torch.equal(loaded(x), again(x))
        return
    makers: dict[str, Callable[[Any], Any]] = {
        "deepcopy": copy.deepcopy,
        "copy": copy.copy,
        "replica": lambda module: module._replicate_for_data_parallel(),
    }
    again = makers[way](fused)
    assert type(again) is type(fused)
    again._modules = dict(again._modules)
    again._modules["relu"] = nn.Identity()
    net.relu = nn.Identity()
    assert_same(again, net, x)
    assert type(fused.relu) is nn.ReLU


def test_class_stays_what_it_was_to_others() -> None:
    fused, net, _ = fused_pair()
    assert isinstance(fused, type(net))
    assert type(fused).__name__ == type(net).__name__
    assert str(fused.relu) in str(fused)
    unfuse_(fused)
    assert type(fused) is type(net)
    assert fused_class(type(net), (), True) is fused_class(type(net), (), True)


def decorated(function: Forward) -> Forward:
    def changed(s: Any, x: Tensor) -> Any:
        SEEN["input"] = s.relu(s.conv(x))
        return function(s, x)

    return changed


@decorated
def behind_a_decorator(s: Any, x: Tensor) -> Any:
    return s.blur(s.relu(s.conv(x)))


def generator(s: Any, x: Tensor) -> Any:
    yield s.blur(s.relu(s.conv(x)))


def test_source_that_is_not_what_runs() -> None:
    def pretending(s: Any, x: Tensor) -> Any:
        return s.blur(s.relu(s.conv(x)))

    assert len(Method(pretending).chains) == 1
    pretending.__code__ = pretending.__code__.replace(co_consts=(1, 2))
    namespace: dict[str, Any] = {}
    exec("def made(s, x):\n    return s.blur(s.relu(x))", namespace)
    for function in (pretending, namespace["made"], generator, behind_a_decorator, len):
        try:
            chains = Method(function).chains
        except NoProof:
            continue
        assert function is behind_a_decorator
        assert [chain.names for chain in chains] == [("conv", "relu")]


class Registered(nn.Module):
    kinds: list[type] = []  # noqa: RUF012

    def __init_subclass__(cls) -> None:
        cls.kinds.append(cls)


class Base(Registered):
    def __init__(self) -> None:
        super().__init__()
        self.relu, self.blur = nn.ReLU(), layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.blur(self.relu(x))


def test_no_subclass_where_those_are_registered() -> None:
    net = Base()
    fuse_(net)
    assert Registered.kinds == [Base]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend: str) -> None:
    fused, _, x = fused_pair()
    chain = nn.Sequential(fused, nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, 1)), layer().double())
    plain = copy.deepcopy(chain)
    fuse_(chain)
    torch._dynamo.reset()
    assert_same(torch.compile(chain, fullgraph=True, backend=backend), plain, x)
    torch._dynamo.reset()


def test_exported() -> None:
    fused, net, x = fused_pair()
    program = torch.export.export(fused.eval(), (x,))
    torch.testing.assert_close(program.module()(x), net.eval()(x))


def test_own_layers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), FusedMaxBlurPool(2))
    x = torch.randn(1, 3, 15, 15)
    want = net(x)
    assert fuse_(net).rows[0].joined == ("1",)
    torch.testing.assert_close(net(x), want)
    assert str(fuse_(net)) == "nothing to fuse; layers already fused: 1"
    assert unfuse_(net).apart == ("",)
    assert type(net) is nn.Sequential


def test_flexible_decoder_of_the_report() -> None:
    """An encoder's feature is used by a decoder that asks whether it is a tensor."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
            self.pool = nn.Sequential(nn.MaxPool2d(2, 1), FilteredPool.zhang(8))

        def forward(self, x: Tensor) -> list[Tensor]:
            x = self.relu(self.conv(x))
            features = [x]
            x = self.pool(x)
            return [*features, x]

    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Encoder()

        def forward(self, x: Tensor) -> Tensor:
            skip, y = self.encoder(x)
            return y + F.avg_pool2d(skip, 2) if isinstance(skip, Tensor) else y

    torch.manual_seed(0)
    net, x = Unet(), torch.randn(2, 3, 16, 16)
    want = net(x)
    fuse_(net)
    torch.testing.assert_close(net(x), want)


def test_a_hook_on_the_pool_sees_what_is_in_front() -> None:
    """It is called, with the maximum as input: nothing joins a layer that somebody watches."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 1), FilteredPool.zhang(4))
    x = torch.randn(1, 3, 12, 12)
    want = net[2](net[1](net[0](x)))
    assert fuse_(net).fused
    seen: list[torch.Tensor] = []
    net[3].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net(x)
    assert len(seen) == 1
    assert torch.equal(seen[0], want)
