"""antialias_ on small models, each made for one difficulty."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import antialias_
from fastblur._geometry import Geometry
from testing.judge import binomial, judge


def blur_of(x: Tensor, f: int | tuple[int, int] = 4, stride: int | tuple[int, int] = 2) -> Tensor:
    """Zhang's BlurPool in plain PyTorch."""
    f_h, f_w = (f, f) if isinstance(f, int) else f
    s = (stride, stride) if isinstance(stride, int) else stride
    pad = ((f_h - 1) // 2, f_h // 2, (f_w - 1) // 2, f_w // 2)
    return judge(x, (1, 1), s, (0, 0), binomial(f_h), binomial(f_w), pad, "reflect")


def of_ceil(x: Tensor, kernel: int) -> Tensor:
    """Zhang's, of a map with one row and one column more where the last window is cut off."""
    m = F.max_pool2d(x, kernel, 1)
    row = binomial(4)
    pad = (1, 3, 1, 3)
    return judge(m, (1, 1), (2, 2), (0, 0), row, row, pad, "reflect")


def reasons(report: Any) -> dict[str, str]:
    return {row.site: row.reason for row in report.left}


def convolution(stride: Any = 2, **rest: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 6, 3, stride, padding=1, **rest)


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


class GlobalPool(nn.Module):
    """As older networks end: their last pooling takes the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return x.view(x.size(0), -1)


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


class ByMode(nn.Module):
    """Its activation is another in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = convolution(), nn.ReLU(), nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.conv(x)) if self.training else self.b(self.conv(x))


class Branches(nn.Module):
    """Strided convolutions of one sum, as in a RepVGG: both or none."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.norm, self.point = convolution(), nn.BatchNorm2d(6), nn.Conv2d(4, 6, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.wide(x)) + self.point(x))


class Subclass(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (1, 1, 1, 1)))


def first_weight(model: nn.Module) -> Tensor:
    return next(model.parameters())


@pytest.mark.parametrize(
    ("layers", "want"),
    [
        (
            lambda: [convolution(), nn.BatchNorm2d(6), nn.Dropout(0.1), nn.SiLU()],
            lambda m, x: blur_of(F.silu(m[1](F.conv2d(x, m[0].weight, m[0].bias, 1, 1)))),
        ),
        (
            lambda: [convolution((1, 2)), nn.ReLU()],
            lambda m, x: blur_of(F.conv2d(x, m[0].weight, m[0].bias, 1, 1).relu(), (1, 4), (1, 2)),
        ),
        (
            lambda: [nn.Conv2d(4, 4, 3, 3, 2, dilation=2, groups=4), nn.PReLU(4)],
            lambda m, x: blur_of(
                F.prelu(F.conv2d(x, m[0].weight, m[0].bias, 1, 2, 2, 4), m[1].weight), 4, 3
            ),
        ),
        (
            lambda: [nn.Conv2d(4, 6, 3, 2, 1, padding_mode="circular"), nn.ReLU()],
            lambda m, x: blur_of(
                F.conv2d(F.pad(x, (1, 1, 1, 1), "circular"), m[0].weight, m[0].bias).relu()
            ),
        ),
        (
            lambda: [nn.Conv2d(4, 6, 1, 2), nn.BatchNorm2d(6)],
            lambda m, x: m[1](F.conv2d(blur_of(x), m[0].weight, m[0].bias)),
        ),
        (
            lambda: [nn.MaxPool2d(3, 2, 1, dilation=2 - 1), nn.Conv2d(4, 6, 1)],
            lambda m, x: m[1](blur_of(F.max_pool2d(x, 3, 1, 1))),
        ),
        (
            lambda: [nn.MaxPool2d(3, 2, dilation=2)],
            lambda m, x: blur_of(F.max_pool2d(x, 3, 1, 0, 2)),
        ),
        (
            lambda: [nn.MaxPool2d((1, 2))],
            lambda m, x: blur_of(F.max_pool2d(x, (1, 2), 1), (1, 4), (1, 2)),
        ),
        (lambda: [nn.MaxPool2d(3, 2, ceil_mode=True)], lambda m, x: of_ceil(x, 3)),
        (lambda: [nn.MaxPool2d(2, ceil_mode=True)], lambda m, x: of_ceil(x, 2)),
        (lambda: [nn.AvgPool2d(2)], lambda m, x: blur_of(x)[..., :7, :]),
        (lambda: [nn.AvgPool2d(3, 2, 1)], lambda m, x: blur_of(x)),
        (lambda: [nn.AvgPool2d(4, 2, 1)], lambda m, x: blur_of(x)[..., :7, :]),
        (
            lambda: [nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(4, 2, 1)],
            lambda m, x: m[1](blur_of(x)),
        ),
    ],
)
def test_what_the_method_makes(
    layers: Callable[[], list[nn.Module]], want: Callable[[Any, Tensor], Tensor]
) -> None:
    """Written out in plain PyTorch; sizes stay what they were."""
    model = nn.Sequential(*layers()).double().eval()
    x = torch.randn(2, 4, 15, 18, dtype=torch.float64)
    size = model(x).shape
    assert antialias_(model, stem=True).changed
    result = model(x)
    torch.testing.assert_close(result, want(model, x), rtol=1e-10, atol=1e-10)
    assert result.shape == size


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: nn.MaxPool2d(2, return_indices=True), "return_indices=True"),
        (lambda: nn.MaxPool2d(2, 3, ceil_mode=True), "ceil_mode=True"),
        (lambda: nn.AvgPool2d(5, 3), "is wider than 4 taps"),
        (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), "its last window is cut off"),
        (lambda: nn.AvgPool2d(2, divisor_override=3), "divisor_override=3"),
        (lambda: nn.AvgPool2d(8), "stride of 8 is more than the 4 taps"),
        (lambda: nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), "its result is flattened"),
        (lambda: nn.Sequential(convolution()), "no activation follows: its result goes to the res"),
        (lambda: nn.Sequential(convolution(), nn.Softmax(1)), "no activation follows"),
        (lambda: nn.Sequential(Subclass(4, 6, 3, 2), nn.ReLU()), "Subclass has a forward of its"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3, 2), nn.ReLU()), "not initialised"),
        (lambda: nn.MaxPool3d(2, return_indices=True), "return_indices=True"),
        (lambda: nn.Conv1d(4, 4, 3, 2), "no activation follows"),
        (lambda: nn.AvgPool3d(2, divisor_override=3), "divisor_override=3"),
        (GlobalPool, "its result is flattened"),
        (ByMode, "another way in train mode"),
    ],
)
def test_what_is_left(layer: Callable[[], nn.Module], reason: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer())
    before, modules = repr(model), list(model.modules())
    report = antialias_(model)
    assert [reason in row.reason for row in report.left] == [True]
    assert "nothing changed" in str(report)
    assert reason in str(report)
    assert repr(model) == before
    assert list(model.modules()) == modules


def test_model_without_a_site() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert str(antialias_(model)) == "nothing changed: the model has no strided layer"
    report = antialias_(nn.MaxPool2d(2))
    assert "cannot be replaced in place" in str(report)


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


def test_parametrized_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.utils.parametrizations.weight_norm(convolution()))
    model.append(nn.ReLU())
    weight = model[1].weight.detach().clone()
    x = torch.randn(1, 3, 16, 16)
    want = blur_of(F.conv2d(model[0](x), weight, model[1].bias, 1, 1).relu())
    assert antialias_(model).changed
    torch.testing.assert_close(model(x), want)


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


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
        nn.AvgPool2d(2),
    )


def test_sites_and_min_channels() -> None:
    for site, number in (("max", "2"), ("conv", "3"), ("avg", "7")):
        report = antialias_(small(), sites={site})  # type: ignore[arg-type]
        assert [row.site for row in report.changed] == [number]
    assert "fewer than min_channels=9" in reasons(antialias_(small(), min_channels=9))["3"]
    assert "3" not in reasons(antialias_(small(), min_channels=8))


def test_named_sequential() -> None:
    model = nn.Sequential()
    for name, module in (("conv", convolution()), ("act1", nn.ReLU()), ("down", nn.MaxPool2d(2))):
        model.add_module(name, module)
    antialias_(model, stem=True)
    assert list(model._modules) == ["conv", "act1", "down"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_and_mode(dtype: torch.dtype) -> None:
    model = small().to(dtype).eval()
    report = antialias_(model)
    for row in report.changed:
        blur = model.get_submodule(str(row.blur))
        assert blur.filt.dtype == dtype
    assert not any(module.training for module in model.modules())
    assert model(torch.randn(1, 3, 32, 32, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("taps", ["kaiser6", [0.3, 0.5, 0.2]], ids=str)
def test_a_filter_of_ones_own(taps: Any) -> None:
    """In two dimensions, one and three; an axis with stride 1 is not blurred."""
    row = torch.tensor(Geometry.resolve(taps=taps).taps_h)
    nets = {
        2: nn.Sequential(nn.Conv2d(3, 4, 3, (2, 1)), nn.ReLU(), nn.MaxPool2d(2)),
        1: nn.Sequential(nn.Conv1d(3, 4, 3, 2), nn.ReLU(), nn.MaxPool1d(2)),
        3: nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.MaxPool3d(2)),
    }
    for n, net in nets.items():
        report = antialias_(net, taps=taps, stem=True, padding_mode="replicate")
        blurs = [net.get_submodule(str(row.blur)) for row in report.changed]
        assert blurs
        for blur in blurs:
            rows = [torch.tensor(r) for r in blur.taps][2 - n if n < 3 else 0 :]
            strides = blur.stride[2 - n if n < 3 else 0 :]
            for found, stride in zip(rows, strides, strict=True):
                torch.testing.assert_close(found, row if stride > 1 else torch.ones(1))
        assert net(torch.randn(1, 3, *[16] * n)).isfinite().all()


def test_meta_device() -> None:
    with torch.device("meta"):
        model = small()
    antialias_(model, 3)
    assert all(value.is_meta for value in model.state_dict().values())
    filled = small()
    antialias_(filled, 3)
    model.load_state_dict(filled.state_dict(), strict=True, assign=True)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), filled(x))
    # A default device is for new models, not for parts of one.
    model = small()
    with torch.device("meta"):
        antialias_(model)
    assert not any(value.is_meta for value in model.state_dict().values())


def test_copies_and_checkpoints() -> None:
    model = small().eval()
    antialias_(model)
    x = torch.randn(1, 3, 32, 32)
    want = model(x)
    assert torch.equal(copy.deepcopy(model)(x), want)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), want)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = small().eval()
    antialias_(other)
    other.load_state_dict(torch.load(file), strict=True)
    assert torch.equal(other(x), want)


def test_compile_and_channels_last() -> None:
    model = small().eval()
    antialias_(model)
    x = torch.randn(1, 3, 32, 32)
    want = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), want)
    last = model.to(memory_format=torch.channels_last)
    result = last(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(result, want)
    assert result.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(TypeError, match="compiled"):
        antialias_(compiled)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"filter_size": 0}, ValueError, "filter_size must be 1 to 31, got 0"),
        ({"filter_size": 3.0}, TypeError, "filter_size must be an int, got 3.0"),
        ({"filter_size": True}, TypeError, "filter_size must be an int, got True"),
        ({"taps": "kaiser"}, ValueError, "taps must be numbers or one of .*, got 'kaiser'"),
        ({"taps": ([1.0], [1.0])}, TypeError, "taps must be one row of numbers"),
        ({"taps": [1, 2, 1], "filter_size": 4}, ValueError, "filter_size must be omitted or equal"),
        ({"padding_mode": "mirror"}, ValueError, "padding_mode must be one of .* got 'mirror'"),
        ({"sites": "max"}, TypeError, "sites must be a set of .* got 'max'"),
        ({"sites": {"lp"}}, ValueError, r"sites must be one or more of .* got \['lp'\]"),
        ({"sites": ()}, ValueError, "sites must be one or more of"),
        ({"blur_first": 1}, TypeError, "blur_first must be True or False, got 1"),
        ({"keep_pool": None}, TypeError, "keep_pool must be True or False, got None"),
        ({"stem": 2}, TypeError, "stem must be True, False or None, got 2"),
        ({"min_channels": 0}, ValueError, "min_channels must be 1 or more, got 0"),
        ({"min_channels": 2.0}, TypeError, "min_channels must be an int, got 2.0"),
    ],
)
def test_wrong_arguments_change_nothing(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = small()
    before = repr(model)
    with pytest.raises(error, match=message):
        antialias_(model, **arguments)
    assert repr(model) == before


def test_wrong_models() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        antialias_("resnet18")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"pass model\.module"):
        antialias_(nn.DataParallel(small()))
