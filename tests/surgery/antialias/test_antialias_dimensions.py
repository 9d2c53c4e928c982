"""antialias_ on models of one and three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastblur import FusedBlurPool3d, FusedMaxBlurPool3d, antialias_, fuse_, unantialias_
from fastblur.surgery import FilteredPool
from testing.judge import binomial, judge
from testing.volumes import Case3d, judge3d

CONVS: dict[int, Any] = {1: nn.Conv1d, 3: nn.Conv3d}
MAXES: dict[int, Any] = {1: nn.MaxPool1d, 3: nn.MaxPool3d}
AVERAGES: dict[int, Any] = {1: nn.AvgPool1d, 3: nn.AvgPool3d}
NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}
MAX_CALLS: dict[int, Any] = {1: F.max_pool1d, 3: F.max_pool3d}


def blur_1d(x: Tensor, stride: tuple[int, ...], before: int, after: int) -> Tensor:
    pad = (0, 0, before, after)
    return judge(
        x.unsqueeze(2), (1, 1), (1, *stride), (0, 0), [1.0], binomial(3), pad, "reflect"
    ).squeeze(2)


def blur_3d(x: Tensor, stride: tuple[int, ...], before: int, after: int) -> Tensor:
    rows = tuple(tuple(binomial(3)) if s > 1 else (1.0,) for s in stride)
    sides = tuple(p if s > 1 else 0 for s in stride for p in (before, after))
    return judge3d(x, Case3d((1, 1, 1), stride, (0, 0, 0), rows, sides))  # type: ignore[arg-type]


def blur(x: Tensor, stride: Any = 2, before: int = 1, after: int = 1) -> Tensor:
    n = x.dim() - 2
    stride = (stride,) * n if isinstance(stride, int) else stride
    return (blur_1d if n == 1 else blur_3d)(x, stride, before, after)


def net(n: int) -> nn.Sequential:
    return nn.Sequential(
        CONVS[n](3, 4, 3, padding=1),
        nn.ReLU(),
        MAXES[n](3, 2, 1),
        CONVS[n](4, 6, 3, 2, 1),
        NORMS[n](6),
        nn.ReLU(),
        CONVS[n](6, 4, 1, 2),
        AVERAGES[n](2),
    ).eval()


def example(n: int) -> Tensor:
    return torch.randn(2, 3, *(41, 42, 43)[:n])


@pytest.mark.parametrize("n", [1, 3])
def test_values(n: int) -> None:
    model, x = net(n), example(n)
    a, b, norm, c = model[0], model[3], model[4], model[6]
    with torch.no_grad():
        h = blur(MAX_CALLS[n](a(x).relu(), 3, 1, 1))
        b.stride = (1,) * n
        h = blur(norm(b(h)).relu())
        b.stride = (2,) * n
        c.stride = (1,) * n
        h = c(blur(h))
        c.stride = (2,) * n
        # As many results as the average has: one row of padding less.
        want, plain = blur(h, 2, 1, 0), model(x)
        assert plain.shape == want.shape
        report = antialias_(model, 3)
        assert len(report.changed) == len(report.rows) == 4
        torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-6)
        fuse_(model)
        torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-6)
        unantialias_(model)
        assert torch.equal(model(x), plain)


def test_which_layers() -> None:
    """In one dimension as in two, which fuse_ joins; in three one layer has the max too."""
    one, three = net(1), net(3)
    antialias_(one)
    assert [type(m) for m in one[2].modules()][1:] == [nn.MaxPool1d, FilteredPool]
    assert one.state_dict()["2.1.filt"].shape == (4, 1, 4)
    report = fuse_(one)
    assert any("MaxPool1d" in part for row in report.rows for part in row.what)
    text = str(antialias_(three))
    assert "MaxPool3d(3, stride 2, padding 1) -> FusedMaxBlurPool3d; blur: 2" in text
    assert "AvgPool3d(2, stride 2) -> blur" in text
    assert type(three[2]) is FusedMaxBlurPool3d
    assert three[2].kernel_size == (3, 3, 3)
    assert type(three[7]) is FusedBlurPool3d


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("size", [9, 10, 11])
def test_sizes_of_ceil(size: int, n: int) -> None:
    model = nn.Sequential(CONVS[n](3, 4, 1), MAXES[n](2, ceil_mode=True))
    x = torch.randn(1, 3, *(size, size + 1, size + 2)[:n])
    before = model(x).shape
    assert antialias_(model, 3).changed
    assert model(x).shape == before


def test_a_dilated_max_stays_beside_its_blur() -> None:
    model, x = (
        nn.Sequential(nn.Conv3d(3, 4, 1), nn.MaxPool3d(2, dilation=2)),
        torch.randn(1, 3, 8, 8, 8),
    )
    shape = model(x).shape
    (row,) = antialias_(model, 3).rows
    assert row.change == "MaxPool3d(2, stride 2) -> MaxPool3d(2, stride 1)"
    want = blur(F.max_pool3d(model[0](x), 2, 1, 0, 2))
    torch.testing.assert_close(model(x), want)
    assert model(x).shape == shape


@pytest.mark.parametrize("blur_first", [False, True])
def test_axes_without_a_stride_are_not_blurred(blur_first: bool) -> None:
    model = nn.Sequential(nn.Conv3d(4, 4, 1), nn.Conv3d(4, 4, 3, (1, 2, 2), 1), nn.ReLU())
    x = torch.randn(1, 3, 5, 12, 13)[:, [0, 1, 2, 0]]
    conv = model[1]
    conv.stride = (1, 1, 1)
    if blur_first:
        row = tuple(binomial(3))
        case = Case3d((1,) * 3, (1,) * 3, (0,) * 3, ((1.0,), row, row), (0, 0, 1, 1, 1, 1))
        inner = judge3d(model[0](x), case)
        conv.stride = (1, 2, 2)
        want = conv(inner).relu()
    else:
        want = blur(conv(model[0](x)).relu(), (1, 2, 2))
        conv.stride = (1, 2, 2)
    antialias_(model, 3, blur_first=blur_first)
    torch.testing.assert_close(model(x), want)


class Summed(nn.Module):
    """A shortcut that fits only the convolution it is added to."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem, self.a, self.b = CONVS[n](3, 4, 1), CONVS[n](4, 4, 3, 2, 1), CONVS[n](4, 4, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.a(x) + self.b(x)


@pytest.mark.parametrize("n", [1, 3])
def test_a_shortcut_stays_with_what_it_is_added_to(n: int) -> None:
    a, b = antialias_(Summed(n)).left
    assert "no activation follows" in str(a.reason)
    assert b.reason == "its result is summed with that of a, which is left"


def make_video(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        video = pytest.importorskip("torchvision.models.video")
        return getattr(video, name)(weights=None)

    return make


def make_monai(name: str, **rest: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return getattr(pytest.importorskip("monai.networks.nets"), name)(**rest)

    return make


ONE_CHANNEL = dict(spatial_dims=3, in_channels=1, out_channels=2)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    # the model, its input, how many layers change, and how many subsample
    "r3d_18": (make_video("r3d_18"), (1, 3, 16, 32, 32), 6, 7),
    "r2plus1d_18": (make_video("r2plus1d_18"), (1, 3, 16, 32, 32), 9, 10),
    "monai densenet, 3-D": (
        make_monai("DenseNet", init_features=8, growth_rate=4, block_config=(2, 2), **ONE_CHANNEL),
        (1, 1, 32, 32, 32), 2, 3,
    ),
    "monai densenet, 1-D": (
        make_monai("DenseNet", **ONE_CHANNEL | dict(spatial_dims=1)), (1, 1, 256), 4, 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_published_models(name: str) -> None:
    make, shape, changed, rows = MODELS[name]
    model, x = make().eval(), torch.randn(shape)
    keys = list(model.state_dict())
    with torch.no_grad():
        before = model(x)
        report = antialias_(model, 3, padding_mode="replicate")
        assert (len(report.changed), len(report.rows)) == (changed, rows)
        assert report.recipe == "general"  # also of a 3-D DenseNet
        after = model(x)
        assert after.shape == before.shape
        assert after.isfinite().all()
        assert not torch.equal(after, before)
        unantialias_(model)
        assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys


def test_fuse_says_that_volumes_are_fused_already() -> None:
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.MaxPool3d(2))
    antialias_(net)
    assert str(fuse_(net)) == "nothing to fuse; layers already fused: 1"
