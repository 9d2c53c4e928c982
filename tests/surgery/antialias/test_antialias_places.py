"""antialias_ in models that look at their own modules: nothing else of them may change."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import antialias_, unantialias_
from fastblur.surgery import FilteredPool, WithBlur

from .test_antialias import convolution, reasons, small


def stack() -> nn.Sequential:
    """Its children 1 and 4, and what they become if numbers move, give maps of one shape."""
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1, 2),
        nn.AvgPool2d(2),
    )


class Extractor(nn.Module):
    """Walks its layers, and takes some of them by their number."""

    def __init__(self, branches: bool, by_number: bool) -> None:
        super().__init__()
        self.layers, self.branches, self.by_number = stack(), branches, by_number

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.branches and x.sum() > 1e9:
            return [x]
        found = []
        for i in range(len(self.layers)) if self.by_number else (0,):
            x = self.layers[i](x) if self.by_number else x
            if i in (1, 4):
                found.append(x)
        if not self.by_number:
            for name, layer in self.layers.named_children():
                x = layer(x)
                if name in ("1", "4"):
                    found.append(x)
        return found


class Routed(nn.Module):
    """As YOLO: each layer says where its input comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.model = stack()
        for i, layer in enumerate(self.model):
            layer.f, layer.i, layer.type = -1, i, type(layer).__name__

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.model:
            if layer.f != -1 or layer.i != len(kept):
                x = kept[layer.f]
            x = layer(x)
            kept.append(x)
        return x if x.sum() < 1e9 else kept[0]


class VGG(nn.Module):
    """The published model by its name and children, which another network walks."""

    def __init__(self) -> None:
        super().__init__()
        pool, convs = nn.MaxPool2d(2), (nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1))
        self.features = nn.Sequential(convs[0], nn.ReLU(), pool, convs[1], nn.ReLU())
        self.avgpool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for layer in self.features if x.sum() < 1e9 else ():
            found.append(x := layer(x))
        return found


class SamePadded(nn.Module):
    """Pads by the stride that its convolution has, as models from TensorFlow do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, (stride, _), (size, _) = self.stem(x), self.conv.stride, self.conv.kernel_size
        pad = max(size - (stride if int(x.shape[-1]) % stride == 0 else 1), 0)
        return self.conv(F.pad(x, (pad // 2, pad - pad // 2) * 2)).relu()


class ByClass(nn.Module):
    """Calls its convolution only if it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.pool = nn.Conv2d(4, 4, 1), convolution(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.pool(self.conv(x) if isinstance(self.conv, nn.Conv2d) else x)


class KeptElsewhere(nn.Module):
    """Calls its pooling by a reference that nobody can replace."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.pool = convolution(1), nn.ReLU(), nn.MaxPool2d(2)
        self.steps = (self.conv, self.act, self.pool)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class Branched(nn.Conv2d):
    """As in TridentNet: one convolution for each third of the channels."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([super(Branched, self).forward(x) for x in input.chunk(3, 1)], 1)


class Trident(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(4, 12, 1), Branched(4, 6, 3, 2, 1)
        self.norm, self.act = nn.BatchNorm2d(18), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(self.stem(x))))


class Block(nn.Module):
    """Its last activation is one of all blocks', as YOLO's; the rest counts on arguments."""

    default_act = nn.ReLU()

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.conv, self.more = convolution(), more
        self.act = Block.default_act

    def forward(self, x: Tensor, times: int = 1) -> Tensor:
        return self.act(self.conv(x))


class TwoBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Block(False), nn.Conv2d(6, 4, 1)
        self.again = Block(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.two(self.one(x, times=2)), 3)


class Joined(nn.Module):
    """Sums and joins maps of a max or a convolution, and of an average: sizes must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 2, 2)
        self.max, self.avg = nn.MaxPool2d(2), nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.cat([self.max(x), self.avg(x)], 1) + self.conv(x)


class ShapedPool(nn.Module):
    """Its global average has a window read off the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = convolution(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        return F.avg_pool2d(x, (x.shape[2], x.shape[3]))


MODELS: list[Callable[[], nn.Module]] = [
    stack,
    small,
    *(lambda b=b, n=n: Extractor(b, n) for b in (False, True) for n in (False, True)),
    Routed,
    VGG,
    SamePadded,
    ByClass,
    KeptElsewhere,
    Trident,
    TwoBlocks,
    Joined,
    ShapedPool,
]


def flat(result: Any) -> list[Tensor]:
    return result if isinstance(result, list) else [result]


class Picture:
    """All that can be seen of a model."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.modules = list(model.named_modules(remove_duplicate=False))
        self.kinds = [type(module) for _, module in self.modules]
        self.modes = [module.training for _, module in self.modules]
        self.text = repr(model)
        self.state = {key: value.clone() for key, value in model.state_dict().items()}
        self.attributes = [
            {k: v for k, v in vars(module).items() if not isinstance(v, dict)}
            for _, module in self.modules
        ]
        with torch.no_grad():
            self.outputs = [y.clone() for y in flat(copy.deepcopy(model)(x))]

    def check(self, model: nn.Module, x: Tensor) -> None:
        now = Picture(model, x)
        assert now.modules == self.modules
        assert (now.kinds, now.modes, now.text) == (self.kinds, self.modes, self.text)
        assert now.attributes == self.attributes
        assert list(now.state) == list(self.state)
        assert all(torch.equal(now.state[key], value) for key, value in self.state.items())
        assert all(map(torch.equal, now.outputs, self.outputs))


@pytest.mark.parametrize("blur_first", [False, True])
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("size", [32, 33, 37])
def test_children_and_sizes_stay(
    make: Callable[[], nn.Module], blur_first: bool, size: int
) -> None:
    """Whatever reads, walks or sums: same children, same sizes, and the way back."""
    model = make().eval()
    x = torch.randn(1, 4 if make is not small else 3, size, size)
    before = Picture(model, x)
    names = {path: list(module._modules) for path, module in model.named_modules()}
    report = antialias_(model, 3, stem=True, blur_first=blur_first)
    moved = {row.site: row for row in report.rows}
    assert moved
    for path, children in names.items():
        module = dict(before.modules)[path]
        assert list(module._modules) == children, path
    outputs = flat(model(x))
    assert [y.shape for y in outputs] == [y.shape for y in before.outputs]
    unantialias_(model)
    before.check(model, x)


@pytest.mark.parametrize("by_number", [False, True])
def test_layers_taken_by_number(by_number: bool) -> None:
    """What comes out behind layer 1 is what came out; behind layer 4, its blurred twin."""
    model = Extractor(branches=True, by_number=by_number).eval()
    x = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        first, second = model(x)
        report = antialias_(model, 3)
        again, blurred = model(x)
        blur = FilteredPool.zhang(4, 3)
        layers = model.layers
        pooled = F.max_pool2d(first, 2, 1)
        conv = layers[3]
        want = blur(F.conv2d(blur(pooled), conv.weight, conv.bias, 1, 1).relu())
    assert torch.equal(again, first)
    torch.testing.assert_close(blurred, want)
    assert blurred.shape == second.shape
    assert [row.blur for row in report.changed] == [
        "layers.2.1",
        "layers.4.1",
        "layers.5.0",
        "layers.6",
    ]


def test_attributes_are_read_and_written() -> None:
    model = Routed()
    antialias_(model, stem=True)
    assert [layer.i for layer in model.model] == list(range(7))
    assert [layer.type for layer in model.model][2:4] == ["MaxPool2d", "Conv2d"]
    shortcut = model.model[5]
    assert isinstance(shortcut, WithBlur)
    assert (shortcut.in_channels, shortcut.kernel_size) == (4, (1, 1))
    assert shortcut.weight is shortcut.core.weight
    new = nn.Parameter(torch.zeros(4, 4, 1, 1))
    shortcut.weight = new
    assert shortcut.core.weight is new
    assert "weight" not in shortcut._parameters
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = shortcut.nothing
    assert not hasattr(shortcut, "reset_parameters")  # else loops over modules call it twice
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.model[5].in_channels == 4


def test_reasons_of_what_looks_at_itself() -> None:
    assert "depends on the class" in reasons(antialias_(ByClass(), blur_first=True))["conv"]
    assert [row.site for row in antialias_(ByClass(), blur_first=True).changed] == ["pool"]
    assert "depends on the class" in reasons(antialias_(KeptElsewhere()))["pool"]
    report = antialias_(Trident())
    assert "forward of its own" in reasons(report)["conv"]
    model = Trident()
    assert antialias_(model, blur_first=True).changed
    assert model.conv[0].channels is None
    # Both blocks are called with more than a map, and their activation is shared.
    report = antialias_(TwoBlocks(), stem=True)
    assert [row.blur for row in report.changed] == ["two.0"]
    assert "no place" in reasons(report)["again.conv"]


def test_window_read_off_the_map() -> None:
    model = ShapedPool()
    report = antialias_(model, stem=True)
    assert reasons(report) == {"avg_pool2d()": "a call of a function, where no module can be put"}
    assert [row.site for row in report.changed] == ["conv"]
