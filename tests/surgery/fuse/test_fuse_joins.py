"""What joins a layer in fuse_, and what tracing for it leaves alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastblur import fuse_

from .test_fuse import aa, check, hooked, layer, timm


class Parts(nn.Module):
    """conv, norm, relu, max and blur."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.relu, self.max = nn.ReLU(), nn.MaxPool2d(2, 1)
        self.blur = layer()
        for name, module in modules.items():
            setattr(self, name, module)


def Net(forward: Callable[..., Any], **modules: nn.Module) -> Any:
    """A network of Parts whose class has this ``forward``."""
    return type("Net", (Parts,), {"forward": forward})(**modules)


class ReLU2(nn.ReLU):
    pass


def used_twice(n: Any, x: Tensor) -> Tensor:
    r = n.relu(n.conv(x))
    return n.blur(r) + r[..., ::2, ::2]


def max_used_twice(n: Any, x: Tensor) -> Tensor:
    m = n.max(n.conv(x))
    return n.blur(m) + m[..., ::2, ::2]


def changed_in_place(n: Any, x: Tensor) -> Tensor:
    c = n.conv(x)
    r = n.relu(c)
    return n.blur(r) + c[..., ::2, ::2]


def changed_view(n: Any, x: Tensor) -> Tensor:
    c = n.conv(x)
    return n.blur(n.relu(c.view(c.shape))) + c.sum()


def nested_of_used(n: Any, x: Tensor) -> Tensor:
    c = n.conv(x)
    return n.blur(n.relu(c)) + c[..., 1::2, ::2].mean()


def plain(n: Any, x: Tensor) -> Tensor:
    return n.blur(n.max(n.relu(n.norm(n.conv(x)))))


def relu_of_two(n: Any, x: Tensor) -> Tensor:
    return n.blur(n.relu(n.conv(x))) + n.relu(x).mean()


def function(n: Any, x: Tensor) -> Tensor:
    return n.blur(torch.relu(n.conv(x)))


def in_train_mode_otherwise(n: Any, x: Tensor) -> Tensor:
    y = n.relu(n.conv(x))
    return n.blur(y * 2 if n.training else y)


def branching(n: Any, x: Tensor) -> Tensor:
    r = n.relu(n.conv(x))
    return n.blur(r) if r.sum() > 0 else n.blur(-r)


FLOWS: dict[str, tuple[Callable[[], Any], tuple[str, ...], str]] = {
    "all": (lambda: Net(plain), ("ReLU", "MaxPool2d", "BlurPool"), ""),
    "relu used twice": (lambda: Net(used_twice), ("BlurPool",), "used elsewhere"),
    "max used twice": (lambda: Net(max_used_twice), ("BlurPool",), "used elsewhere"),
    "relu called twice": (lambda: Net(relu_of_two), ("ReLU", "BlurPool"), ""),
    "relu in place of what is used": (
        lambda: Net(changed_in_place, relu=nn.ReLU(inplace=True)),
        ("BlurPool",),
        "it overwrites its input",
    ),
    "relu in place of a view": (
        lambda: Net(changed_view, relu=nn.ReLU(inplace=True)),
        ("BlurPool",),
        "it overwrites its input",
    ),
    "relu of what is used": (lambda: Net(nested_of_used), ("ReLU", "BlurPool"), ""),
    "relu as a function": (lambda: Net(function), ("BlurPool",), ""),
    "one mode only": (lambda: Net(in_train_mode_otherwise), ("BlurPool",), "nothing proves"),
    "cannot be traced": (lambda: Net(branching), ("BlurPool",), "no trace shows"),
    "relu subclass": (lambda: Net(plain, relu=ReLU2()), ("MaxPool2d", "BlurPool"), "subclass"),
    "relu6": (lambda: Net(plain, relu=nn.ReLU6()), ("MaxPool2d", "BlurPool"), ""),
    "relu hooked": (lambda: Net(plain, relu=hooked(nn.ReLU())), ("MaxPool2d", "BlurPool"), "hooks"),
    "max hooked": (
        lambda: Net(plain, max=hooked(nn.MaxPool2d(2, 1))),
        ("BlurPool",),
        "without the MaxPool2d at max: it has hooks",
    ),
    "max of stride 2": (lambda: Net(plain, max=nn.MaxPool2d(2)), ("BlurPool",), "its stride is 2"),
    "max with dilation": (
        lambda: Net(plain, max=nn.MaxPool2d(2, 1, dilation=2)),
        ("BlurPool",),
        "dilation",
    ),
    "average in front": (lambda: Net(plain, max=nn.AvgPool2d(2, 1)), ("BlurPool",), ""),
    "larger than the kernels": (
        lambda: Net(plain, max=nn.MaxPool2d(16, 1)),
        ("BlurPool",),
        "kernel_size must be 1 to 15",
    ),
    "container hooked": (
        lambda: Net(plain, max=hooked(nn.Sequential(nn.MaxPool2d(2, 1)))),
        ("BlurPool",),
        "without the MaxPool2d at max.0: nothing proves",
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_what_joins(name: str) -> None:
    make, what, note = FLOWS[name]
    net = make()
    x = torch.randn(2, 4, 60, 60)
    torch.manual_seed(1)
    report = fuse_(copy.deepcopy(net))
    (row,) = [row for row in report.rows if row.path == "blur"]
    assert row.what == what, report
    assert note in row.note, report
    assert bool(note) == bool(row.note), report
    check(net, x)


def test_return_indices() -> None:
    net = Net(lambda n, x: n.blur(n.max(x)[0]), max=nn.MaxPool2d(2, 1, return_indices=True))
    report = check(net, torch.randn(1, 4, 20, 20))
    assert [row.what for row in report.rows] == [("BlurPool",)]


def test_tracing_disturbs_nobody() -> None:
    seen: list[object] = []
    net = Net(plain)
    state = random.getstate()
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(o))
    try:
        report = fuse_(net)
        assert all(isinstance(value, Tensor) for value in seen)
        net(torch.randn(1, 4, 20, 20))
    finally:
        handle.remove()
    assert "hooks of all modules" in str(report)
    assert len(seen) > 3
    random.setstate(state)
    expected = random.random()
    random.setstate(state)
    fuse_(Net(lambda n, x: n.blur(n.relu(n.conv(x)) * random.random())))
    assert random.random() == expected


def test_hooks_set_before_keep_what_they_see() -> None:
    """timm's and torchvision's feature extractors watch modules by hooks."""
    net = timm.create_model("resnetblur18", num_classes=3).eval()
    seen: list[Tensor] = []
    net.act1.register_forward_hook(lambda m, i, o: seen.append(o))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        net(x)
        report = fuse_(net)
        net(x)
    assert torch.equal(seen[0], seen[1])
    assert "without the ReLU at act1: it has hooks" in str(report)
    assert report.rows[0].joined == ("maxpool.0",)


def test_max_1d_with_padding() -> None:
    from antialiased_cnns.blurpool import BlurPool1D

    net = nn.Sequential(nn.MaxPool1d(3, stride=1, padding=1), BlurPool1D(6, filt_size=3))
    (row,) = check(net, torch.randn(2, 6, 25)).fused
    assert row.joined == ("0",)


def test_model_that_cannot_be_copied() -> None:
    class Uncopied(nn.Sequential):
        def __deepcopy__(self, memo: object) -> None:
            raise RuntimeError("no")

    net = Uncopied(nn.ReLU(), aa.BlurPool(4, filt_size=3))
    x = torch.randn(1, 4, 9, 9)
    want = net(x)
    (row,) = fuse_(net).fused
    assert row.joined == ("0",)
    torch.testing.assert_close(net(x), want)
