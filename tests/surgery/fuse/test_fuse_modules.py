"""Modules whose calls, hooks or classes are their own stay exact, and copies keep their class."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastblur import fuse_, unfuse_

from .test_fuse import layer
from .test_fuse_joins import Net
from .test_fuse_proofs import normed


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
