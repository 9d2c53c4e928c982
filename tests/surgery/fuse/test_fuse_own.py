"""A blur of an own class is recognised by its source; what could do something else is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import antialias_, fuse_, unfuse_

from .test_fuse import hooked
from .test_fuse_proofs import assert_same

CHANNELS = 4
CALLS = 0


def kernel(size: int = 3, channels: int = CHANNELS) -> Tensor:
    row = torch.tensor({2: [0.5, 0.5], 3: [0.25, 0.5, 0.25], 4: [0.125, 0.375, 0.375, 0.125]}[size])
    return torch.outer(row, row).repeat(channels, 1, 1, 1)


class MyBlur(nn.Module):
    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel() if weight is None else weight)
        self.stride, self.pads, self.channels = 2, (1, 1, 1, 1), CHANNELS
        self.mode = "reflect"

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.pads, mode=self.mode)
        return F.conv2d(x, self.kernel, stride=self.stride, groups=x.shape[1])


class Short(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        """Of nested calls."""
        return F.conv2d(
            F.pad(x, [1, 2, 0, 1], "replicate"), self.kernel, None, self.stride, 0, 1, 4
        )


class ByZeros(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        weight_for = x.size(1)
        return F.conv2d(x, self.kernel.to(x.dtype), stride=(2, 3), padding=1, groups=weight_for)


class AnyChannels(MyBlur):
    """Gives a tensor a name."""

    def __init__(self) -> None:
        super().__init__(kernel(4, 1))
        self.pad = nn.ZeroPad2d((1, 2, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        weight = self.kernel
        return F.conv2d(self.pad(x), weight.expand(channels, -1, -1, -1), stride=2, groups=channels)


class AnyChannelsInOne(AnyChannels):
    def forward(self, x: Tensor) -> Tensor:
        y = self.pad(x)
        return torch.conv2d(y, self.kernel.repeat(y.size(1), 1, 1, 1), stride=2, groups=y.size(1))


OWN: dict[str, Callable[[], nn.Module]] = {
    "attributes": MyBlur,
    "constants": Short,
    "zeros": ByZeros,
    "any number of channels": AnyChannelsInOne,
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_own_class(name: str, training: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.ReLU(), nn.MaxPool2d(2, 1), OWN[name]())
    net.double().train(training)
    plain = copy.deepcopy(net)
    (row,) = fuse_(net).rows
    assert row.joined == ("1", "2")
    assert list(net.state_dict()) == list(plain.state_dict())
    for size in ((12, 12), (13, 20), (31, 14)):
        assert_same(net, plain, torch.randn(2, 3, *size, dtype=torch.float64))
    unfuse_(net)
    assert type(net[3]) is type(plain[3])


def test_model_with_an_own_blur_is_anti_aliased_already() -> None:
    net = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.ReLU(), nn.MaxPool2d(2), MyBlur())
    assert "already: 3" in str(antialias_(net))


class Counting(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        self.stride = self.stride + 1
        return F.conv2d(x, self.kernel, stride=2, groups=4)


class CountingGlobally(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        global CALLS
        CALLS += 1
        return F.conv2d(x, self.kernel, stride=2 if CALLS < 100 else 1, groups=4)


class Random(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, 1e-6)
        return F.conv2d(x, self.kernel, stride=2, groups=4)


class ByDtype(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float16:
            return x[..., ::2, ::2]
        return F.conv2d(x, self.kernel, stride=2, groups=4)


class ByDevice(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=1 if x.is_cuda else 2, groups=4)


class ByGradMode(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        stride = 2 if torch.is_grad_enabled() else 1
        return F.conv2d(x, self.kernel, stride=stride, groups=4)


class ByMode(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2, padding=self.training, groups=4)


class BySize(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, x.shape[-1] % 2, 0, 0))
        return F.conv2d(x, self.kernel, stride=2, groups=4)


class ByHeight(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2, padding=x.shape[2], groups=4)


class ByValue(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(max=1e6)
        return F.conv2d(x, self.kernel, stride=2, groups=4)


class InDouble(MyBlur):
    """Its result is of another dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.to(self.kernel), self.kernel, stride=2, groups=4)


class Optional(MyBlur):
    def forward(self, x: Tensor, stride: int = 2) -> Tensor:
        return F.conv2d(x, self.kernel, stride=stride, groups=4)


class ByProperty(MyBlur):
    @property
    def step(self) -> int:
        return 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=self.step, groups=4)


class Calling(MyBlur):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 2


class Trained(MyBlur):
    def __init__(self) -> None:
        super().__init__()
        del self.kernel
        self.kernel = nn.Parameter(kernel())


class TwoBuffers(MyBlur):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("other", torch.ones(1))


class Strange:
    """Not torch's functions."""

    pad = staticmethod(F.pad)

    @staticmethod
    def conv2d(*args: Any, **kwargs: Any) -> Tensor:
        return F.conv2d(*args, **kwargs)


class OtherFunctions(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        return Strange.conv2d(x, self.kernel, stride=2, groups=4)


def closing_over(stride: list[int]) -> nn.Module:
    class Closing(MyBlur):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel, stride=stride, groups=4)

    return Closing()


def closing_over_functions(F: Any) -> nn.Module:
    class Closing(MyBlur):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel, stride=2, groups=4)

    return Closing()


class WithParameter(MyBlur):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def with_another_code() -> nn.Module:
    class Other(MyBlur):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel, stride=2, groups=4)

    code = Other.forward.__code__
    consts = tuple(1 if value == 2 else value for value in code.co_consts)
    Other.forward.__code__ = code.replace(co_consts=consts)  # type: ignore[method-assign]
    return Other()


NOT_SEEN: dict[str, Callable[[], nn.Module]] = {
    **{
        kind.__name__: kind
        for kind in (
            *(Counting, CountingGlobally, Random, ByDtype, ByDevice, ByGradMode, ByMode, BySize),
            *(ByHeight, ByValue, InDouble, Optional, ByProperty, Calling, Trained, TwoBuffers),
            *(OtherFunctions, AnyChannels, WithParameter),
        )
    },
    "Closing": lambda: closing_over([2, 2]),
    "functions around it": lambda: closing_over_functions(Strange),
    "another code": with_another_code,
    "learned": lambda: nn.Conv2d(4, 4, 3, stride=2, groups=4, bias=False),
}


@pytest.mark.parametrize("name", NOT_SEEN)
def test_what_could_do_something_else_is_left(name: str) -> None:
    net = nn.Sequential(nn.ReLU(), NOT_SEEN[name]())
    assert fuse_(net).rows == ()


class PadsTwice(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1))
        return F.conv2d(x, self.kernel, stride=2, padding=1, groups=4)


class PadsWithOnes(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), value=1)
        return F.conv2d(x, self.kernel, stride=2, groups=4)


class Dilated(MyBlur):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, dilation=2, groups=4)


class Tiled(MyBlur):
    """Its filter is not the buffer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.repeat(1, 1, 2, 1), stride=2, groups=4)


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "twice": (PadsTwice, "pads twice"),
    "ones": (PadsWithOnes, "not with zeros"),
    "dilated": (Dilated, "dilated"),
    "tiled": (Tiled, "something else"),
    "not separable": (lambda: MyBlur(torch.eye(3).repeat(4, 1, 1, 1)), "not separable"),
    "hooked": (lambda: hooked(MyBlur()), "hooks"),
    "meta": (lambda: MyBlur().to("meta"), "meta device"),
}


@pytest.mark.parametrize("name", LEFT)
def test_reasons(name: str) -> None:
    make, reason = LEFT[name]
    (row,) = fuse_(nn.Sequential(nn.ReLU(), make())).rows
    assert row.fused is None
    assert reason in row.note
