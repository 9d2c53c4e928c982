"""What antialias_ makes of layers, what it leaves, its arguments, and what lasts."""

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


class GlobalPool(nn.Module):
    """As older networks end: their last pooling takes the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return x.view(x.size(0), -1)


class ByMode(nn.Module):
    """Its activation is another in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = convolution(), nn.ReLU(), nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.conv(x)) if self.training else self.b(self.conv(x))


class Subclass(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (1, 1, 1, 1)))


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


def test_parametrized_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.utils.parametrizations.weight_norm(convolution()))
    model.append(nn.ReLU())
    weight = model[1].weight.detach().clone()
    x = torch.randn(1, 3, 16, 16)
    want = blur_of(F.conv2d(model[0](x), weight, model[1].bias, 1, 1).relu())
    assert antialias_(model).changed
    torch.testing.assert_close(model(x), want)


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
