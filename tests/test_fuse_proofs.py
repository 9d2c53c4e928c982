"""A ReLU joins only where the code that calls it proves that nobody else reads its result."""

from __future__ import annotations

import contextlib
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
from fastblur.surgery.call_sites import fused_class
from fastblur.surgery.rewriting import Method

from .test_fuse import hooked, layer
from .test_fuse_joins import Net, results

SEEN: dict[str, Any] = {}
Forward = Callable[[Any, Tensor], Any]


def the_issue(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    return y + F.avg_pool2d(f, 2) if isinstance(f, torch.Tensor) else y


def by_type(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    return y + f.mean() if type(f) is torch.Tensor else y


def by_is_tensor(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    return y + f.mean() if torch.is_tensor(f) else y


def by_jit_isinstance(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    return y + f.mean() if torch.jit.isinstance(f, torch.Tensor) else y


def stored(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    s.kept = f
    return s.blur(f)


def stored_at_once(s: Any, x: Tensor) -> Any:
    s.kept = s.relu(s.conv(x))
    return s.blur(s.kept)


def named_twice(s: Any, x: Tensor) -> Any:
    f = g = s.relu(s.conv(x))
    f = s.blur(f)
    return f + g.mean()


def returned(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    return s.blur(f), f


def in_a_dict(s: Any, x: Tensor) -> Any:
    out = {"f": s.relu(s.conv(x))}
    out["y"] = s.blur(out["f"])
    return out["y"], out["f"]


def in_a_list(s: Any, x: Tensor) -> Any:
    fs = []
    x = s.relu(s.conv(x))
    fs.append(x)
    x = s.blur(x)
    return (x, *fs)


def eval_only(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    return y if s.training else y + f.mean()


def training_only(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    return y + f.mean() if s.training else y


def large_only(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    if f.shape[-1] > 20:
        y = y + f.mean()
    return y


def added_to(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    f = f.clone()
    f += 1
    return y + f.mean()


def in_a_loop(s: Any, x: Tensor) -> Any:
    total, f = 0, x
    for _ in range(2):
        total = total + f.mean()
        f = s.relu(s.conv(x))
        y = s.blur(f)
    return y + total


def closed_over(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    SEEN["read"] = lambda: f
    f = s.blur(f)
    return f + SEEN["read"]().mean()


def closed_over_before(s: Any, x: Tensor) -> Any:
    def read() -> Tensor:
        return f

    s.blur.register_forward_pre_hook(lambda *_: SEEN.update(f=read()))
    f = s.relu(s.conv(x))
    f = s.blur(f)
    return f + SEEN["f"].mean()


def by_locals(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    return y + locals()["f"].mean()


def by_eval(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    return y + eval("f").mean()


def read_after_an_error(s: Any, x: Tensor) -> Any:
    f = s.conv(x)
    try:
        f = s.relu(f)
        f = s.blur(f)
        raise ValueError
    except ValueError:
        return f.mean()


def read_if_the_blur_fails(s: Any, x: Tensor) -> Any:
    f = s.conv(x)[:, :3]
    try:
        f = s.relu(f)
        f = s.blur(f)
    except (ValueError, RuntimeError):
        pass
    return f


def suppressed(s: Any, x: Tensor) -> Any:
    f = s.conv(x)[:, :3]
    with contextlib.suppress(ValueError, RuntimeError):
        f = s.relu(f)
        f = s.blur(f)
    return f


def finally_read(s: Any, x: Tensor) -> Any:
    f = s.conv(x)
    try:
        f = s.relu(f)
        return s.blur(f)
    finally:
        SEEN["f"] = f
        s.kept = f


def another_line_between(s: Any, x: Tensor) -> Any:
    c = s.conv(x)
    f = s.relu(c)
    c.data.add_(1)
    f = s.blur(f)
    return f + c.mean()


def order_of_evaluation(s: Any, x: Tensor) -> Any:
    c = s.conv(x)
    f = s.relu(c)
    return c.data.sub_(1).mean() + s.blur(f)


def deleted(s: Any, x: Tensor) -> Any:
    f = s.relu(s.conv(x))
    y = s.blur(f)
    del f
    return y


def self_replaced(s: Any, x: Tensor) -> Any:
    relu = s.relu
    s = s.other if hasattr(s, "other") else s
    return s.blur(relu(s.conv(x)))


# Methods whose ReLU must not join, at least not all of the time, and stay exact.
UNPROVEN: tuple[Forward, ...] = (
    *(the_issue, by_type, by_is_tensor, by_jit_isinstance, stored, stored_at_once, named_twice),
    *(returned, in_a_dict, in_a_list, eval_only, training_only, large_only, added_to, in_a_loop),
    *(closed_over, closed_over_before, by_locals, by_eval, read_after_an_error),
    *(read_if_the_blur_fails, suppressed, finally_read, another_line_between),
    *(order_of_evaluation, deleted, self_replaced),
)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("forward", UNPROVEN, ids=lambda f: f.__name__)
def test_unproven_stays_exact(forward: Forward, inplace: bool, training: bool) -> None:
    torch.manual_seed(0)
    net = Net(forward, relu=nn.ReLU(inplace=inplace)).double().train(training)
    report = fuse_(copy.deepcopy(net))
    assert [row.joined for row in report.rows] in ([()], [])
    for size in (12, 30):
        x = torch.randn(2, 4, size, size, dtype=torch.float64)
        fused = copy.deepcopy(net)
        fuse_(fused)
        want, got = results(copy.deepcopy(net), x), results(fused, x)
        assert len(got) == len(want)
        for mine, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def nested(s: Any, x: Tensor) -> Any:
    return s.blur(s.max(s.relu(s.conv(x)))) * 2


def same_name(s: Any, x: Tensor) -> Any:
    x = s.conv(x)
    x = s.relu(x)
    x = s.max(x)
    x = s.blur(x)
    return x  # noqa: RET504


def one_name_each(s: Any, x: Tensor) -> Any:
    a = s.conv(x)
    b = s.relu(a)
    c = s.max(b)
    d = s.blur(c)
    return d  # noqa: RET504


def annotated(s: Any, x: Tensor) -> Any:
    y: Tensor = s.relu(s.conv(x))
    y = s.max(y)
    return s.blur(y)


def in_a_branch(s: Any, x: Tensor) -> Any:
    if s.training or x.shape[-1] < 1000:
        x = s.conv(x)
        x = s.relu(x)
        x = s.blur(s.max(x))
    else:
        x = s.blur(x)
    return x


def twice_and_elsewhere(s: Any, x: Tensor) -> Any:
    a = s.relu(x * 1)
    y = s.blur(s.max(s.relu(s.conv(x))))
    return y + s.blur(s.max(s.relu(s.conv(a)))), a


def normed(s: Any, x: Tensor) -> Any:
    x = s.norm(s.conv(x))
    x = s.relu(x)
    x = s.max(x)
    return s.blur(x)


PROVEN: tuple[Forward, ...] = (
    *(nested, same_name, one_name_each, annotated, in_a_branch, twice_and_elsewhere, normed),
)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("forward", PROVEN, ids=lambda f: f.__name__)
def test_proven_joins(forward: Forward, inplace: bool, training: bool) -> None:
    torch.manual_seed(0)
    net = Net(forward, relu=nn.ReLU(inplace=inplace)).double().train(training)
    fused = copy.deepcopy(net)
    (row,) = fuse_(fused).rows
    assert row.joined == ("relu", "max")
    assert not row.note
    seen: list[str] = []
    relu = fused.relu.register_forward_hook(lambda *_: seen.append("relu"))
    x = torch.randn(2, 4, 30, 30, dtype=torch.float64)
    assert_same(fused, net, x)  # with the hook on, the ReLU is called
    assert seen
    relu.remove()
    with torch.no_grad():
        kernel = [type(m) for m in called(fused, x)]
    assert nn.MaxPool2d not in kernel
    assert kernel.count(nn.ReLU) == (forward is twice_and_elsewhere)
    assert_same(fused, net, x)


def assert_same(fused: nn.Module, net: nn.Module, x: Tensor) -> None:
    want, got = results(copy.deepcopy(net), x), results(fused, x)
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def called(net: nn.Module, x: Tensor) -> list[nn.Module]:
    """The ReLUs and maxes whose own forward runs."""
    seen: list[nn.Module] = []
    originals = {kind: kind.forward for kind in (nn.ReLU, nn.MaxPool2d)}

    def watched(kind: Any) -> Any:
        def forward(self: nn.Module, input: Tensor) -> Tensor:
            seen.append(self)
            return originals[kind](self, input)

        return forward

    try:
        for kind in originals:
            kind.forward = watched(kind)
        net(x)
    finally:
        for kind, forward in originals.items():
            kind.forward = forward
    return seen


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
        except ValueError:
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
    compiled = torch.compile(chain, fullgraph=True, backend=backend)
    assert_same(compiled, plain, x)
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
    assert str(fuse_(net)) == "nothing to fuse; layers that are fused already: 1"
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
