"""antialias_ where calls, sums and shared modules decide on the place of a blur."""

from __future__ import annotations

import io
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import antialias_

from .test_antialias import blur_of, convolution, reasons, small


class Functional(nn.Module):
    """Activation and pooling as calls of functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = convolution(1), nn.Conv2d(6, 6, 3, 2, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        return self.c(self.b(x).relu_())


class SharedPool(nn.Module):
    """As tutorials write it: one pooling, called after each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pool = convolution(1), nn.Conv2d(6, 5, 3, padding=1), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.b(self.pool(F.relu(self.a(x))))))


class Iterated(nn.Module):
    """Children of a Sequential called by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolution(1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        return self.layers[3](self.layers[2](self.layers[1](x)))


class Untraceable(nn.Module):
    """Its way depends on its data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.pool = convolution(), nn.ReLU(), nn.MaxPool2d(2)
        self.part = nn.Sequential(nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.conv(x)))
        return self.part(x) if x.sum() > 0 else self.part(-x)


class Sums(nn.Module):
    """Results whose number of channels is not that of their first input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.four, self.pool = nn.Conv2d(4, 1, 1), nn.Conv2d(4, 4, 1), nn.MaxPool2d(2)
        self.other = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.four(x)
        return self.other(torch.cat([self.pool(self.one(x) + y)] * 2, 1))


class Twice(nn.Module):
    """A convolution with two uses before its activation, one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return F.relu(self.b(F.relu(self.b(y.relu() + y))))


class Branches(nn.Module):
    """Strided convolutions of one sum, as in a RepVGG: both or none."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.norm, self.point = convolution(), nn.BatchNorm2d(6), nn.Conv2d(4, 6, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.wide(x)) + self.point(x))


def test_functional_calls() -> None:
    model = Functional().double()
    report = antialias_(model)
    assert reasons(report) == {
        "max_pool2d()": "a call of a function, where no module can be put",
    }
    assert [row.blur for row in report.changed] == ["c.0"]  # b's, in front of c
    x = torch.randn(1, 4, 20, 20, dtype=torch.float64)
    h = F.max_pool2d(F.relu(model.a(x)), 2)
    want = model.c[1](blur_of(F.conv2d(h, model.b.weight, model.b.bias, 1, 1).relu()))
    torch.testing.assert_close(model(x), want)


def test_shared_pool_serves_any_channels() -> None:
    model = SharedPool().double()
    report = antialias_(model, 3)
    assert [row.blur for row in report.changed] == ["pool.1"]
    assert model.pool[1].channels is None
    x = torch.randn(1, 4, 20, 20, dtype=torch.float64)
    h = blur_of(F.max_pool2d(F.relu(model.a(x)), 2, 1), 3)
    want = blur_of(F.max_pool2d(F.relu(model.b(h)), 2, 1), 3)
    torch.testing.assert_close(model(x), want)


def test_channels_of_sums() -> None:
    model = Sums()
    antialias_(model)
    assert (model.pool[1].channels, model.other[1].channels) == (4, 8)
    assert model(torch.randn(1, 4, 16, 16)).shape == (1, 8, 4, 4)


def test_numbers_that_are_used_stay() -> None:
    model = Iterated()
    antialias_(model)
    assert len(model.layers) == 4
    assert isinstance(model.layers[2], nn.Sequential)
    assert model(torch.randn(1, 4, 12, 12)).shape == (1, 5, 6, 6)


def test_untraceable_model() -> None:
    """Its convolution is left; poolings, and parts that can be traced, are not."""
    model = Untraceable()
    report = antialias_(model)
    assert reasons(report) == {"conv": "no trace shows where its result goes"}
    assert {row.site for row in report.changed} == {"pool", "part.0"}
    assert model(torch.randn(1, 4, 64, 64)).shape == (1, 6, 8, 8)


def test_several_uses() -> None:
    model = Twice()
    report = antialias_(model, stem=True)
    assert not report.changed
    assert "used 2 times" in reasons(report)["a"]
    assert "called 2 times" in reasons(report)["b"]


class FunctionInside(nn.Module):
    """Ends with its activation, a function's call; gives its input back as well if asked to."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.conv, self.both = convolution(), both

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.conv(x))
        return (y, x) if self.both else y


class First(nn.Module):
    def forward(self, pair: Any) -> Tensor:
        return pair[0]


def test_activation_that_is_a_module_s_result() -> None:
    model = nn.Sequential(FunctionInside(both=False), nn.Conv2d(6, 2, 1))
    assert [row.blur for row in antialias_(model, stem=True).changed] == ["0.1"]
    assert model(torch.randn(1, 4, 16, 16)).shape == (1, 2, 8, 8)
    model = nn.Sequential(FunctionInside(both=True), First(), nn.Conv2d(6, 2, 1))
    assert "no place" in reasons(antialias_(model, stem=True))["0.conv"]
    assert model(torch.randn(1, 4, 16, 16)).shape == (1, 2, 8, 8)


def test_two_blurs_at_one_convolution() -> None:
    """One for the layer before and then its own, whichever was registered first."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point, self.wide = nn.Conv2d(6, 2, 1, 3), convolution()

        def forward(self, x: Tensor) -> Tensor:
            return self.point(F.relu(self.wide(x)))

    model = Model().double()
    report = antialias_(model, stem=True)
    assert {row.site: row.blur for row in report.rows} == {"wide": "point.0", "point": "point.1"}
    x = torch.randn(1, 4, 30, 30, dtype=torch.float64)
    h = blur_of(F.conv2d(x, model.wide.weight, model.wide.bias, 1, 1).relu())
    want = F.conv2d(blur_of(h, 4, 3), model.point[2].weight, model.point[2].bias)
    torch.testing.assert_close(model(x), want)


def test_branches_of_one_sum() -> None:
    report = antialias_(Branches(), stem=True)
    assert not report.changed
    assert reasons(report)["point"] == "its result is summed with that of wide, which is left"
    assert len(antialias_(Branches(), stem=True, blur_first=True).changed) == 2


def test_aliases_and_hooks() -> None:
    pool = nn.MaxPool2d(2)
    shared = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.ReLU(), pool)
    assert "it is shared: it is also 3" in reasons(antialias_(shared))["1"]
    hooked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2))
    seen: list[Any] = []
    hooked[1].register_forward_hook(lambda *arguments: seen.append(arguments))
    hooked[0].register_forward_hook(lambda *arguments: seen.append(arguments))
    assert "has hooks" in reasons(antialias_(hooked))["1"]
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(convolution(), nn.ReLU()))
    inner[1].register_forward_hook(lambda *arguments: seen.append(arguments))
    assert antialias_(inner).changed
    assert not seen  # tracing does not run them


def test_tracing_leaves_no_trace() -> None:
    """Buffers, modes and what the modules themselves keep stay as they are."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.act = convolution(), nn.BatchNorm2d(6), nn.ReLU()
            self.calls = 0
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.seen.add_(1)
            torch.rand(())
            return self.act(self.norm(self.conv(x)))

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Counting())
    model[1].norm.eval()
    state = torch.get_rng_state()
    assert antialias_(model).changed
    assert torch.equal(torch.get_rng_state(), state)
    assert (model[1].calls, model[1].seen.item()) == (0, 0.0)
    assert model.training
    assert not model[1].norm.training
    assert model[1].act.training


def test_tensors_that_are_no_parameters() -> None:
    """A tensor with a history cannot be copied, and need not be."""
    model = small()
    model.scale = torch.ones(1, requires_grad=True) * 2
    assert len(antialias_(model).changed) == 3


def test_what_cannot_be_copied() -> None:
    """Nothing can be traced then."""

    class Locked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.file = io.TextIOWrapper(io.BytesIO())
            self.conv, self.act, self.pool = convolution(), nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.act(self.conv(x)))

    model = Locked()
    report = antialias_(model)
    assert [row.site for row in report.changed] == ["pool"]
    assert model(torch.randn(1, 4, 16, 16)).shape == (1, 6, 4, 4)
