"""Where the source of a module proves that nobody holds its result, an in-place ReLU joins."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastblur import fuse_
from fastblur.surgery.joins.fresh import returns_new

from .test_fuse import hooked, layer
from .test_fuse_proofs import assert_same

FrozenBatchNorm2d = pytest.importorskip("torchvision.ops").FrozenBatchNorm2d


class Frozen(nn.Module):
    """A norm that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers["weight"] = torch.linspace(-1, 2, 4)
        self._buffers["bias"] = torch.linspace(-1, 1, 4)
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        """Its sum has no name."""
        w = self.weight.reshape(1, -1, 1, 1)
        bias = self.bias.reshape(1, -1, 1, 1) - self.eps * w
        return x * w + bias


class FrozenThatKeeps(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = x * self.weight.reshape(1, -1, 1, 1) + 1
        return self.kept


class FrozenThatKeepsByName(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        y = x * self.weight.reshape(1, -1, 1, 1) + 1
        self.kept = y
        return y


class FrozenWithALambda(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        y = x * self.weight.reshape(1, -1, 1, 1) + 1
        self.peek = lambda: y
        return y


class FrozenThatCalls(Frozen):
    def keep(self, x: Tensor) -> Tensor:
        self.kept = x.detach()
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.keep(x * 2) * 1


class Adding(Tensor):
    """Whose sums somebody holds."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [a.as_subclass(Tensor) if isinstance(a, Adding) else a for a in args]
        result = func(*plain, **(kwargs or {}))
        KEPT.append(result)
        return result


KEPT: list[Tensor] = []


class Keeper:
    """A summand that is no number."""

    def __radd__(self, other: Tensor) -> Tensor:
        KEPT.append(other + 1)
        return KEPT[-1]


class FrozenByProperty(Frozen):
    @property
    def eps(self) -> Any:
        return Keeper()

    @eps.setter
    def eps(self, value: float) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 + self.eps


class FrozenByGetattr(Frozen):
    def __getattr__(self, name: str) -> Any:
        return Keeper() if name == "weight" else super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 + self.weight


class FrozenByAttribute(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 + self.weight


class FrozenByDescriptor(FrozenByProperty):
    """The tensor of this name is not what is read."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers["eps"] = torch.zeros(())


class FrozenWithALoop(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        y = x
        for y in (Keeper(),):  # noqa: B007
            pass
        return x * 2 + y


class FrozenIdentity(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        return x


class FrozenView(Frozen):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x)


class FrozenPower(Frozen):
    """Autograd keeps its result."""

    def forward(self, x: Tensor) -> Tensor:
        return 2**x


def frozen_with_another_code() -> nn.Module:
    class Other(Frozen):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 + 1

    code = Other.forward.__code__
    consts = tuple(3 if value == 2 else value for value in code.co_consts)
    Other.forward.__code__ = code.replace(co_consts=consts)  # type: ignore[method-assign]
    return Other()


def with_weight(weight: Any) -> nn.Module:
    norm = FrozenByAttribute()
    del norm.weight
    norm.weight = weight
    return norm


UNPROVEN: dict[str, Callable[[], nn.Module]] = {
    "keeps": FrozenThatKeeps,
    "keeps by name": FrozenThatKeepsByName,
    "keeps in a lambda": FrozenWithALambda,
    "calls": FrozenThatCalls,
    "property": FrozenByProperty,
    "property over a tensor": FrozenByDescriptor,
    "__getattr__": FrozenByGetattr,
    "loop": FrozenWithALoop,
    "another code": frozen_with_another_code,
    "a subclass of Tensor": lambda: with_weight(torch.ones(4, 1, 1).as_subclass(Adding)),
    "an object": lambda: with_weight(Keeper()),
}
# They keep nothing, yet what they return is not theirs alone.
ALIASES: dict[str, Callable[[], nn.Module]] = {
    "identity": FrozenIdentity,
    "view": FrozenView,
    "power": FrozenPower,
}


@pytest.mark.parametrize("name", [*UNPROVEN, *ALIASES])
def test_unproven(name: str) -> None:
    assert not returns_new((UNPROVEN | ALIASES)[name]())


@pytest.mark.parametrize("kind", [Frozen, lambda: FrozenBatchNorm2d(4)])
def test_proven(kind: Callable[[], nn.Module]) -> None:
    assert returns_new(kind())


def norm_and_blur(norm: nn.Module) -> nn.Sequential:
    relu_and_blur = nn.Sequential(nn.ReLU(inplace=True), layer())
    return nn.Sequential(nn.Conv2d(4, 4, 3), norm, relu_and_blur)


def kept_in(net: nn.Module) -> list[Tensor]:
    found = [m.kept for m in net.modules() if isinstance(vars(m).get("kept"), Tensor)]
    return found + [m.peek() for m in net.modules() if "peek" in vars(m)]


@pytest.mark.parametrize("name", UNPROVEN)
def test_in_place_relu_behind_what_may_be_held(name: str) -> None:
    """The ReLU writes into what the norm keeps, with and without fuse_."""
    results = []
    for fuse in (False, True):
        torch.manual_seed(0)
        net = norm_and_blur(UNPROVEN[name]())
        if fuse:
            assert [row.joined for row in fuse_(net).rows] == [()]
        KEPT.clear()
        y = net(torch.randn(2, 4, 13, 13))
        results.append([t.detach().clone() for t in (y, *KEPT, *kept_in(net))])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_hooked_norm() -> None:
    net = norm_and_blur(hooked(Frozen()))
    assert [row.joined for row in fuse_(net).rows] == [()]


@pytest.mark.parametrize("make", [Frozen, lambda: FrozenBatchNorm2d(4), lambda: nn.BatchNorm2d(4)])
def test_in_place_relu_behind_a_norm(make: Callable[[], nn.Module]) -> None:
    """Also if the ReLU is in a Sequential of its own: the norm is outside."""
    torch.manual_seed(0)
    net = norm_and_blur(make()).double()
    plain = copy.deepcopy(net)
    assert [row.joined for row in fuse_(net).rows] == [("2.0",)]
    assert_same(net, plain, torch.randn(2, 4, 13, 13, dtype=torch.float64))
