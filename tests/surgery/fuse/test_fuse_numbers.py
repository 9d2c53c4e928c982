"""Under fuse_ a model keeps its numbers, whatever its code does with what is in front of a blur."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import FusedBlurPool, fuse_
from fastblur._geometry import Geometry
from fastblur.surgery import FilteredPool

from .test_fuse import hooked, layer
from .test_fuse_joins import Net, plain


def results(net: nn.Module, x: Tensor, *more: object) -> list[Tensor]:
    """All that a call gives and keeps: outputs, what is on the model, gradients."""
    net.zero_grad()
    leaf = x.clone().requires_grad_()
    out = net(leaf, *more)
    out = list(out) if isinstance(out, (tuple, list)) else [out]
    found = [*out, *(v for v in vars(net).values() if isinstance(v, Tensor))]
    sum(t.double().square().sum() for t in out if t.requires_grad).backward()
    grads = [leaf.grad, *(p.grad for p in net.parameters())]
    return [t.detach().clone() for t in (*found, *grads) if t is not None]


KEPT: list[Tensor] = []


def iterating(n: Any, x: Tensor) -> Any:
    outs = []
    for i, module in enumerate(n.features):
        x = module(x)
        if i == 1:
            outs.append(x)
    return (x * 2 if x.sum() > 1e9 else x, *outs)


def subtracting(n: Any, x: Tensor) -> Tensor:
    c = n.conv(x)
    r = n.relu(c)
    c.sub_(1)
    return n.blur(r) + c.mean()


def adding(n: Any, x: Tensor) -> Tensor:
    c = n.conv(x)
    r = n.relu(c)
    c += 1
    return n.blur(r) + c.mean()


def by_data(n: Any, x: Tensor) -> Tensor:
    c = n.conv(x)
    r = n.relu(c)
    d = c.data
    d -= 1
    return n.blur(r)


def max_then_relu_in_place(n: Any, x: Tensor) -> Tensor:
    c = n.conv(x).detach()
    m = n.max(c)
    d = n.relu(c)
    return n.blur(m) + d.mean() + n.conv(x).mean()


def keeping_on_self(n: Any, x: Tensor) -> Tensor:
    n.kept = n.relu(n.conv(x))
    return n.blur(n.kept)


def keeping_a_mask(n: Any, x: Tensor) -> Tensor:
    r = n.relu(n.conv(x))
    n.mask = r == 0
    return n.blur(r)


def keeping_data(n: Any, x: Tensor) -> Tensor:
    r = n.relu(n.conv(x))
    n.kept = r.data
    return n.blur(r)


def keeping_in_a_list(n: Any, x: Tensor) -> Any:
    KEPT.clear()
    r = n.relu(n.conv(x))
    KEPT.append(r)
    return n.blur(r), KEPT[0]


def optional(n: Any, x: Tensor, features: bool = False) -> Any:
    r = n.relu(n.conv(x))
    y = n.blur(r)
    return (y, r) if features else y


def by_class(n: Any, x: Tensor) -> Any:
    skips = []
    for module in (n.conv, n.relu, n.max, n.blur):
        if isinstance(module, nn.MaxPool2d):
            skips.append(x)
        x = module(x)
    return (x, *skips)


def from_a_list(n: Any, x: Tensor) -> Tensor:
    return n.tail[0](n.relu(n.conv(x)))


def max_from_a_list(n: Any, x: Tensor) -> Tensor:
    for module in n.steps:
        x = module(x)
    return n.blur(x)


def no_grad_relu(n: Any, x: Tensor) -> Tensor:
    c = n.conv(x)
    with torch.no_grad():
        r = n.relu(c)
    return n.blur(r) + c.mean()


def through_identity(n: Any, x: Tensor) -> Tensor:
    return n.blur(n.identity(n.relu(n.conv(x))))


def identity_used_twice(n: Any, x: Tensor) -> Tensor:
    i = n.identity(n.relu(n.conv(x)))
    return n.blur(i) + i.mean()


def shape_asked(n: Any, x: Tensor) -> Tensor:
    r = n.relu(n.conv(x))
    _ = r.shape[2:]
    torch._assert(r.dim() == 4, "four")
    return n.blur(r)


def by_keyword(n: Any, x: Tensor) -> Tensor:
    return n.blur(inp=n.relu(n.conv(x)))


def functional_norm(n: Any, x: Tensor) -> Tensor:
    c = F.group_norm(n.conv(x), 2)
    return n.blur(n.relu(c))


class MaybeNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return x


def maybe_norm(n: Any, x: Tensor) -> Tensor:
    c = n.conv(x)
    return n.blur(n.relu(n.norm(c))) + c.mean()


def with_tail(n: Any) -> Any:
    n.tail = [n.blur]
    return n


def with_steps(n: Any) -> Any:
    n.steps = [n.conv, n.max]
    return n


def replaced_forward() -> nn.Module:
    identity = nn.Identity()
    identity.forward = lambda x: x - 1  # type: ignore[method-assign]
    return identity


def minus_one(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda m, i, o: o - 1)
    return module


def features() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), layer(), nn.Conv2d(4, 4, 1))


IN_PLACE = {"relu": nn.ReLU(inplace=True)}
# (how to make it, how many modules join)
HOSTILE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "slices": (
        lambda: Net(lambda n, x: (n.features[2:](a := n.features[:2](x)), a), features=features()),
        1,
    ),
    "iterates children": (lambda: Net(iterating, features=features()), 1),
    "input changed in between": (lambda: Net(subtracting), 0),
    "input added to in between": (lambda: Net(adding), 0),
    "input changed by .data": (lambda: Net(by_data), 0),
    "input of max changed": (lambda: Net(max_then_relu_in_place, **IN_PLACE), 0),
    "kept on self": (lambda: Net(keeping_on_self), 0),
    "mask kept": (lambda: Net(keeping_a_mask), 0),
    "data kept": (lambda: Net(keeping_data), 0),
    "kept in a list": (lambda: Net(keeping_in_a_list), 0),
    "optional argument": (lambda: Net(optional), 0),
    "by class": (lambda: Net(by_class), 0),
    "blur in a list": (lambda: with_tail(Net(from_a_list)), 0),
    "max in a list": (lambda: with_steps(Net(max_from_a_list)), 0),
    "relu without grad": (lambda: Net(no_grad_relu), 0),
    "identity": (lambda: Net(through_identity, identity=nn.Identity()), 1),
    "identity with hook": (lambda: Net(through_identity, identity=minus_one(nn.Identity())), 0),
    "identity in a container with hook": (
        lambda: Net(through_identity, identity=minus_one(nn.Sequential(nn.Identity()))),
        0,
    ),
    "identity with another forward": (
        lambda: Net(through_identity, identity=replaced_forward()),
        0,
    ),
    "identity used twice": (lambda: Net(identity_used_twice, identity=nn.Identity()), 0),
    "shape asked": (lambda: Net(shape_asked), 0),
    "by keyword": (lambda: Net(by_keyword), 0),
    "functional norm": (lambda: Net(functional_norm, **IN_PLACE), 1),
    "norm that returns its input": (lambda: Net(maybe_norm, **IN_PLACE, norm=MaybeNorm(4)), 0),
    "hook on what an in-place relu changes": (
        lambda: Net(plain, **IN_PLACE, norm=hooked(nn.BatchNorm2d(4))),
        1,
    ),
    "hook around all": (lambda: hooked(nn.Sequential(Net(plain))), 2),
    "hook around the layer": (lambda: Net(plain, blur=hooked(nn.Sequential(layer()))), 0),
    "relu with another forward": (
        lambda: Net(through_identity, relu=replaced_forward(), identity=nn.Identity()),
        0,
    ),
    "max subclass": (lambda: Net(plain, max=type("Max", (nn.MaxPool2d,), {})(2, 1)), 0),
    "max in front of a max": (
        lambda: Net(plain, blur=FilteredPool(Geometry.resolve(filter_size=3), layer().filt)),
        0,
    ),
    "relu in front of a relu": (
        lambda: Net(plain, max=nn.Identity(), blur=FusedBlurPool(3, relu=True)),
        0,
    ),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_same_numbers(name: str, training: bool) -> None:
    make, joins = HOSTILE[name]
    torch.manual_seed(0)
    net = make().double().train(training)
    x = torch.randn(2, 4, 30, 30, dtype=torch.float64)
    more = (True,) if name == "optional argument" else ()
    want = results(copy.deepcopy(net), x, *more)
    report = fuse_(net)
    got = results(net, x, *more)
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    assert sum(len(row.joined) for row in report.rows) == joins, report
