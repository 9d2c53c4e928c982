"""A ReLU joins only where the code that calls it proves that nobody else reads its result."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastblur import fuse_
from fastblur._backends import compiled

from .test_fuse_joins import Net
from .test_fuse_numbers import results

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
