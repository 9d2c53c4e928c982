"""A ReLU joins only where the code that calls it proves that nobody else reads its result."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastblur import FusedMaxBlurPool, fuse_, unfuse_
from fastblur._backends import compiled
from fastblur.surgery import FilteredPool
from fastblur.surgery.call_sites import fused_class
from fastblur.surgery.rewriting import Method
from fastblur.surgery.source import NoProof

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


class Named(nn.Module):
    """Attributes that fuse_ might take for its own."""

    _tail = "abc"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def _fuses_relu(self, x: Tensor) -> Tensor:
        return x * 2

    def forward(self, x: Tensor) -> Tensor:
        return self._fuses_relu(self.conv(x))


class Deep(nn.Module):
    """Its last calls are of attributes of attributes, and of a name that is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.conv, self.__conv = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.__conv(x)
        x = self.body.conv(x)
        return self.relu(x)


class Doubling(nn.Sequential):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 2


class DoublingBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 4, 3), nn.ReLU()

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


class KeepingConv(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        self.kept = super()._conv_forward(*args)
        return self.kept


class CallingConv(nn.Conv2d):
    def __call__(self, x: Tensor) -> Tensor:
        self.kept = super().__call__(x)
        return self.kept


class WrappedConv(nn.Conv2d):
    @functools.wraps(nn.Conv2d.forward)
    def forward(self, x: Tensor) -> Tensor:
        self.kept = nn.Conv2d.forward(self, x)
        return self.kept


class Peek(DoublingBlock):
    __call__ = nn.Module.__call__

    def forward(self, x: Tensor) -> Tensor:
        self.peek = lambda: y
        y = self.relu(self.conv(x))
        return y


class Global(Peek):
    def forward(self, x: Tensor) -> Tensor:
        global HELD
        HELD = self.relu(self.conv(x))
        self.kept = HELD
        return HELD


class Hooking(Peek):
    """Its ReLU is watched, or another, only once it has been called."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.relu._forward_hooks:
            self.relu.register_forward_hook(lambda m, i, o: o * 3)
        return self.relu(self.conv(x))


class Swapping(Peek):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.relu = nn.Tanh()
        return self.relu(x)


def conv_that(do: Callable[[Any], object]) -> nn.Module:
    """A convolution with a hook that changes what comes after it."""
    conv = nn.Conv2d(4, 4, 3)
    conv.register_forward_hook(lambda *_: do(conv))
    return conv


def patched_conv() -> nn.Module:
    conv: Any = nn.Conv2d(4, 4, 3)

    def keeping(*args: Any) -> Tensor:
        conv.kept = nn.Conv2d._conv_forward(conv, *args)
        return conv.kept

    conv._conv_forward = keeping
    return conv


def line(*modules: nn.Module, inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(*modules, nn.ReLU(inplace=inplace), layer())


def swapped_later() -> nn.Sequential:
    net = line(conv_that(lambda _: net.__setitem__(1, nn.GELU())))
    return net


LINES: dict[str, Callable[[], nn.Sequential]] = {
    "names like ours": lambda: line(Named()),
    "deep names": lambda: nn.Sequential(Deep(), layer()),
    "__call__ of a Sequential": lambda: nn.Sequential(
        Doubling(nn.Conv2d(4, 4, 3), nn.ReLU()), layer()
    ),
    "__call__ of a block": lambda: nn.Sequential(DoublingBlock(), layer()),
    "_conv_forward that keeps": lambda: line(KeepingConv(4, 4, 3), inplace=True),
    "__call__ that keeps": lambda: line(CallingConv(4, 4, 3), inplace=True),
    "forward that keeps": lambda: line(WrappedConv(4, 4, 3), inplace=True),
    "patched conv": lambda: line(patched_conv(), inplace=True),
    "closure over what is returned": lambda: nn.Sequential(Peek(), layer()),
    "global that is returned": lambda: nn.Sequential(Global(), layer()),
    "hooked while it runs": lambda: nn.Sequential(Hooking(), layer()),
    "swapped while it runs": lambda: nn.Sequential(Swapping(), layer()),
    "swapped by a hook": swapped_later,
}


def kept_in(net: nn.Module) -> list[Tensor]:
    found = [m.kept for m in net.modules() if isinstance(getattr(m, "kept", None), Tensor)]
    return found + [m.peek() for m in net.modules() if "peek" in vars(m)]


@pytest.mark.parametrize("name", LINES)
def test_lines_stay_exact(name: str) -> None:
    results = []
    for fuse in (False, True):
        torch.manual_seed(0)
        net = LINES[name]().double()
        if fuse:
            fuse_(net)
        x = torch.randn(2, 4, 13, 13, dtype=torch.float64, requires_grad=True)
        found = []
        for _ in range(2):
            y = net(x)
            (dx,) = torch.autograd.grad(y.square().sum(), x)
            found += [y, dx, *kept_in(net)]
        results.append([t.detach().clone() for t in found])
    assert len(results[0]) == len(results[1])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_hook_that_removes_itself() -> None:
    kept = []
    for fuse in (False, True):
        torch.manual_seed(0)
        net = Net(normed, relu=nn.ReLU(inplace=True)).double()
        if fuse:
            fuse_(net)
        handle = net.norm.register_forward_hook(
            lambda m, i, o: (
                (kept.append(o), handle.remove())[2:]  # noqa: B023
                or None
            )
        )
        net(torch.randn(2, 4, 20, 20, dtype=torch.float64))
    torch.testing.assert_close(kept[0], kept[1])


def test_code_that_looks_at_classes() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = line(nn.Conv2d(4, 4, 3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return y if type(self.body) is nn.Sequential else y * 2

    net, x = Looking(), torch.randn(1, 4, 12, 12)
    want = net(x)
    report = fuse_(net)
    torch.testing.assert_close(net(x), want)
    assert "looks at the classes" in str(report)


class Reduced(nn.Sequential):
    def __reduce__(self) -> Any:
        return self.__class__, tuple(self)


class WithArguments(nn.Sequential):
    def __new__(cls, *modules: nn.Module) -> Any:
        assert modules
        return super().__new__(cls)

    def __getnewargs__(self) -> Any:
        return tuple(self)


@pytest.mark.parametrize("kind", [nn.Sequential, Reduced, WithArguments])
@pytest.mark.parametrize("protocol", range(6))
def test_pickles_as_its_class_does(kind: type[nn.Sequential], protocol: int) -> None:
    if kind is WithArguments and protocol < 2:
        pytest.skip("pickle calls __new__ without its arguments, fused or not")
    net, x = kind(nn.Conv2d(4, 4, 3), nn.ReLU(), layer()), torch.randn(1, 4, 12, 12)
    assert fuse_(net).rows[0].joined
    for again in (pickle.loads(pickle.dumps(net, protocol)), copy.deepcopy(net)):
        assert type(again) is type(net)
        assert torch.equal(again(x), net(x))
        unfuse_(again)
        assert type(again) is kind


def test_classes_made_of_a_fused_one() -> None:
    class Twice:
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2  # type: ignore[misc]

    block = DoublingBlock()
    block.__class__ = Peek
    net, x = nn.Sequential(block, layer()), torch.randn(1, 4, 12, 12)
    fuse_(net)
    want = net(x)
    kind = type("Twice", (Twice, type(net[0])), {})
    net[0].__class__ = kind
    torch.testing.assert_close(net(x), want * 2)
    torch.testing.assert_close(copy.deepcopy(net)(x), want * 2)


def test_source_with_warnings(tmp_path: Any) -> None:
    """Who reads the source again does not warn again, and fails for no filter."""
    import importlib.util
    import warnings

    path = tmp_path / "warns.py"
    path.write_text(
        "from torch import nn\n"
        "class N(nn.Module):\n"
        "    def __init__(self, blur):\n"
        "        super().__init__(); self.relu = nn.ReLU(); self.blur = blur\n"
        "    def forward(self, x):\n"
        "        assert (x is not None, 'always')\n"
        "        pattern = '\\d'\n"
        "        return self.blur(self.relu(x))\n"
    )
    spec = importlib.util.spec_from_file_location("warns", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings(action="ignore"):
        spec.loader.exec_module(module)
    with warnings.catch_warnings(action="error"):
        assert fuse_(module.N(layer())).rows[0].joined == ("relu",)


def test_what_is_no_function_of_a_class() -> None:
    class Settings:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> None: ...

    class Configured(DoublingBlock):
        settings = Settings()

    fuse_(Configured())


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
        assert_same(fused, net, x)


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
    with torch.no_grad(), Calls() as calls:
        fused(x)
    if compiled.C is not None:  # else the reference calls them, at whose place they join
        assert not any("max_pool2d" in name for name in calls.names)
        assert sum("relu" in name for name in calls.names) == (forward is twice_and_elsewhere)
    assert_same(fused, net, x)


def assert_same(fused: nn.Module, net: nn.Module, x: Tensor) -> None:
    want, got = results(copy.deepcopy(net), x), results(fused, x)
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


class Calls(TorchDispatchMode):
    """The operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


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
