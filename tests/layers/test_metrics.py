"""The measures of stability, against answers known beforehand."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import FusedMaxBlurPool1d
from fastblur.metrics import (
    ShiftConsistency,
    feature_similarity,
    shift_consistency,
    shift_equivariance,
    stability_curve,
)
from fastblur.metrics.shift import draw


class Spot(nn.Module):
    """Knows where the brightest pixel is: one class for each place, so every shift changes it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Chain(nn.Module):
    """A small classifier with batch norm, dropout and an eval-mode part, for its state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.norm(self.conv(x)).relu())
        return self.head(F.max_pool2d(y, 2).mean((2, 3)))

    def train(self, mode: bool = True) -> Chain:
        """Keeps its batch norm frozen, as models in fine-tuning do."""
        super().train(mode)
        self.norm.eval()
        return self


def images(n: int = 12, size: int = 12) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def channel_means(x: Tensor) -> Tensor:
    return x.mean((2, 3))


# Shift consistency.


def test_a_constant_model_is_consistent() -> None:
    found = shift_consistency(lambda x: x.new_ones(len(x), 5), images(), crop=8, pairs=4)
    assert found.consistency == float(found) == 1.0
    assert found.standard_error == 0.0
    assert found.agreement.shape == (12, 4)
    assert str(found).startswith("shift consistency 100.00%")


def test_an_equivariant_net_is_consistent_under_rolls() -> None:
    body = nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular", dtype=torch.float64)
    net = nn.Sequential(body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(20, 3, 12, 12, dtype=torch.float64)
    found = shift_consistency(net, x, circular=True, pairs=3)
    assert len(found.predictions.unique()) > 1
    assert found.consistency == 1.0
    strided = nn.Sequential(body, nn.MaxPool2d(4), Spot())
    assert shift_consistency(strided, x, circular=True, pairs=3).consistency < 0.5


def test_agreement_is_that_of_the_shifts_it_tells() -> None:
    """The class is the place of the brightest pixel, so the offsets alone say what it must be."""
    x = torch.zeros(9, 1, 8, 8)
    x[:, :, 3, 4] = 1
    found = shift_consistency(Spot(), x, crop=6, pairs=5)
    y, x_ = 3 - found.offsets[..., 0], 4 - found.offsets[..., 1]
    assert torch.equal(found.predictions, 6 * y + x_)
    same = (found.offsets[:, :, 0] == found.offsets[:, :, 1]).all(-1)
    assert torch.equal(found.agreement, same)
    assert 0 < same.sum() < same.numel()
    assert found.consistency == pytest.approx(same.double().mean().item())
    share = same.double().mean(1)
    assert found.standard_error == pytest.approx(share.std().item() / 3)
    apart = (found.offsets[:, :, 0] - found.offsets[:, :, 1]).abs().amax(-1)
    assert torch.equal(found.distance, apart)


def test_rolls_are_told_too() -> None:
    x = torch.zeros(9, 1, 5, 7)
    x[:, :, 0, 0] = 1
    found = shift_consistency(Spot(), x, circular=True, pairs=4)
    assert torch.equal(found.predictions, 7 * found.offsets[..., 0] + found.offsets[..., 1])
    assert found.offsets.amax((0, 1, 2)).tolist() == [4, 6]
    assert int(found.distance.max()) <= 3  # the shorter way round


@pytest.mark.parametrize(("asked", "most"), [(32, 31), (None, 32), ((2, 5), (1, 4))])
def test_offsets_are_uniform_in_their_range(asked: Any, most: Any) -> None:
    """32 offsets in 256 - 224 is the published protocol, which leaves the last one out."""
    metric = ShiftConsistency(crop=4, offsets=asked, pairs=1200)
    metric.update(lambda x: x[:, 0, :1, 0], torch.zeros(2, 1, 36, 36))
    offsets = metric.compute().offsets
    most = (most, most) if isinstance(most, int) else most
    for axis, largest in enumerate(most):
        counts = offsets[..., axis].flatten().bincount().double()
        assert len(counts) == largest + 1
        expected = 4800 / len(counts)
        chi2 = ((counts - expected) ** 2 / expected).sum().item()
        assert chi2 < largest + 5 * math.sqrt(2 * largest)  # five standard deviations
    # Neither do the two shifts of a pair, nor its axes, know of each other.
    flat = offsets.flatten(0, 1).flatten(1).double()
    correlation = torch.corrcoef(flat.T) - torch.eye(4)
    assert correlation.abs().max() < 0.1


def test_batches_do_not_matter() -> None:
    x, net = images(), Chain()
    whole = shift_consistency(net, x, crop=8, pairs=3, batch_size=12)
    for batch_size in (1, 5):
        split = shift_consistency(net, x, crop=8, pairs=3, batch_size=batch_size)
        assert torch.equal(split.offsets, whole.offsets)
        assert torch.equal(split.agreement, whole.agreement)
    loader = [(part, torch.zeros(len(part)), "more") for part in x.split(5)]
    assert torch.equal(shift_consistency(net, loader, crop=8, pairs=3).offsets, whole.offsets)
    bare = shift_consistency(net, iter(x.split(7)), crop=8, pairs=3)
    assert torch.equal(bare.agreement, whole.agreement)


def test_order_does_not_matter_with_ids() -> None:
    x = images()
    metric = ShiftConsistency(crop=8, pairs=3)
    for part in torch.randperm(12).split(5):
        metric.update(Spot(), x[part], ids=part)
    shuffled, straight = metric.compute(), shift_consistency(Spot(), x, crop=8, pairs=3)
    for name in ("ids", "offsets", "predictions", "agreement", "distance"):
        assert torch.equal(getattr(shuffled, name), getattr(straight, name)), name
    assert shuffled.consistency == straight.consistency
    metric.reset()
    metric.update(Spot(), x)
    assert torch.equal(metric.compute().offsets, straight.offsets)


def test_the_seed_decides() -> None:
    found = [shift_consistency(Spot(), images(), crop=6, seed=s).offsets for s in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert found[0][:4, 0].tolist() == [draw(0, i, 0, (7, 7)) for i in range(4)]
    # For ever: figures that are published with a seed can be made again.
    assert draw(7, 123, 4, (33, 33)) == [[1, 26], [17, 25]]


def test_no_images() -> None:
    found = ShiftConsistency(crop=2, pairs=2).compute()
    assert math.isnan(found.consistency)
    assert found.offsets.shape == (0, 2, 2, 2)


# The stability curve.


def test_stability_curve_by_hand() -> None:
    """A bright pixel passes the one place where the model looks, at one shift."""
    x = torch.zeros(2, 1, 7, 7)
    x[:, :, 1, 1] = 1
    looks = lambda x: torch.stack([1 - x[:, 0, 2, 2], x[:, 0, 2, 2]], 1)  # noqa: E731
    curve = stability_curve(looks, x, torch.tensor([1, 0]), crop=5, logits=False)
    assert curve.shifts.tolist() == [-1, 0, 1]
    # In the centre crop, from (1, 1), the pixel is at (0, 0); one step down and right, at (1, 1).
    assert curve.probability.tolist() == [[0, 0, 0], [1, 1, 1]]
    x[:, :, 2, 2] = 1
    curve = stability_curve(looks, x, torch.tensor([1, 0]), crop=5, logits=False)
    assert curve.probability.tolist() == [[0, 0, 1], [1, 1, 0]]
    assert curve.right.tolist() == [[False, False, True], [True, True, False]]
    assert curve.mean == pytest.approx(0.5)
    assert curve.swing == 1.0
    assert "3 shifts from -1 to 1" in str(curve)


def test_stability_curve_protocol_and_softmax() -> None:
    net = lambda x: channel_means(x)[:, :2]  # noqa: E731
    x, y = images(5, 40), torch.tensor([0, 1, 1, 0, 1])
    curve = stability_curve(net, x, y, crop=8, batch_size=2)
    assert curve.shifts.tolist() == list(range(-16, 17))  # Zhang's 33
    crop = x[:, :, 16:24, 16:24]
    by_hand = net(crop).softmax(1)[torch.arange(5), y]
    torch.testing.assert_close(curve.probability[:, 16], by_hand)
    even = stability_curve(net, x[..., :39, :39], y, crop=8)
    assert even.shifts.tolist() == list(range(-16, 16))
    torch.testing.assert_close(
        even.probability[:, 16],
        stability_curve(net, x[..., 15:23, 15:23], y, crop=8).probability[:, 0],
    )
    down = x[:, :, 13:21, 13:21]  # from further up and left: what it shows moves down and right
    by_hand = net(down).softmax(1)[torch.arange(5), y]
    torch.testing.assert_close(curve.probability[:, 19], by_hand)
    loader = list(zip(x.split(3), y.split(3), strict=True))
    torch.testing.assert_close(stability_curve(net, loader, crop=8).probability, curve.probability)
    swing = curve.probability.amax(1) - curve.probability.amin(1)
    assert curve.swing == pytest.approx(swing.mean().item())


def test_stability_curve_of_rolls() -> None:
    x = torch.zeros(1, 1, 4, 6)
    x[0, 0, 0, 0] = 1
    spot = lambda x: x[:, 0].flatten(1)  # noqa: E731
    curve = stability_curve(spot, x, torch.tensor([14]), circular=True, logits=False)
    assert curve.shifts.tolist() == [0, 1, 2, 3]  # as many as along the shorter side
    assert curve.probability.tolist() == [[0, 0, 1, 0]]  # 14 is (2, 2)
    # Results can be changed and differentiated: they are no inference tensors.
    curve.probability.mul_(2)
    assert not curve.probability.is_inference()


# Feature similarity.


def test_similarity_is_one_where_features_do_not_depend_on_the_place() -> None:
    found = feature_similarity(channel_means, images(2, 4), 10)
    assert found.similarity.shape == (2, 7, 7)
    torch.testing.assert_close(found.similarity, torch.ones(2, 7, 7))
    assert found.anchor == (3, 3)


def test_similarity_by_hand() -> None:
    """The features are the picture: the overlap of two bars on a black canvas."""
    patch = torch.tensor([[[1.0, 1.0]]])
    found = feature_similarity(nn.Flatten(), patch, (1, 6), background=0.0, anchor=(0, 0))
    assert found.similarity.flatten().tolist() == pytest.approx([1, 0.5, 0, 0, 0])
    assert found.columns.tolist() == [0, 1, 2, 3, 4]
    assert found.mean == pytest.approx(0.3)
    assert found.lowest == 0
    coarse = feature_similarity(nn.Flatten(), patch, (1, 6), background=0.0, anchor=(0, 1), step=2)
    assert coarse.similarity.flatten().tolist() == pytest.approx([0.5, 0.5, 0])
    assert coarse.columns.tolist() == [0, 2, 4]
    assert "1 x 3 places, 1 patch" in str(coarse)


def test_canvas_is_white_unless_told() -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.flatten(1)

    patch = torch.zeros(2, 1, 1)
    feature_similarity(look, patch, 2, step=2)
    assert seen[0].tolist() == [[[[0, 1], [1, 1]]] * 1 + [[[0, 1], [1, 1]]]]
    seen.clear()
    feature_similarity(look, patch, 2, step=2, background=torch.tensor([2.0, 3.0]))
    assert seen[0][0, :, 1, 1].tolist() == [2, 3]


def test_similarity_of_a_layer_by_name() -> None:
    net = Chain()
    x = images(3, 5)
    inner = nn.Sequential(net.conv, net.norm).eval()
    expected = feature_similarity(inner, x, 9, step=2)
    found = feature_similarity(net, x, 9, layer="norm", step=2, batch_size=4)
    torch.testing.assert_close(found.similarity, expected.similarity)
    assert found.lowest < 0.999
    assert not net.norm._forward_hooks
    # What comes next may overwrite the layer's output.
    spoilt = nn.Sequential(net.conv, net.norm, nn.ReLU(inplace=True), nn.Flatten())
    again = feature_similarity(spoilt, x, 9, layer="1", step=2)
    torch.testing.assert_close(again.similarity, expected.similarity)


# Equivariance of a layer.


def test_zhangs_example() -> None:
    signal = torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1])
    plain = shift_equivariance(nn.MaxPool1d(2), signal)
    assert plain.stride == 2
    assert plain.shifts.tolist() == [0, 1, 2, 3, 4]
    # Predicted between 0, 1, 0, 1: one half everywhere; found: 1. Relative to |(0, 1, 0, 1)|.
    torch.testing.assert_close(plain.predicted[1].flatten(), torch.full((4,), 0.5).double())
    expected = torch.tensor([0, math.sqrt(0.5), 0, math.sqrt(0.5), 0]).double()
    torch.testing.assert_close(plain.distance[:, 0], expected)
    assert plain.largest == pytest.approx(math.sqrt(0.5))
    blurred = shift_equivariance(FusedMaxBlurPool1d(filter_size=3), signal)
    assert blurred.responses[1].flatten().tolist() == [0.75] * 4
    assert blurred.largest < 1e-12


def test_a_linear_layer_without_aliasing_is_equivariant() -> None:
    """Subsampling by s keeps what oscillates slower than its Nyquist, and only that."""
    t = torch.arange(24, dtype=torch.float64)
    slow = 1 + torch.cos(2 * math.pi * 3 * t / 24 + 0.3)
    fast = slow + torch.cos(2 * math.pi * 5 * t / 24 + 0.2)
    every = nn.AvgPool1d(1, stride=3)
    found = shift_equivariance(every, torch.stack([slow, fast])[:, None])
    assert found.stride == 3
    assert found.distance[:, 0].max() < 1e-12
    aliased = found.distance[:, 1]
    assert aliased[[0, 3, 6]].max() < 1e-12
    assert aliased[[1, 2, 4, 5]].min() > 0.3


@pytest.mark.parametrize(
    "make",
    [
        lambda size: FusedMaxBlurPool1d(3, 2, 1, filter_size=size),
        lambda size: FusedMaxBlurPool1d(2, 2, filter_size=size, padding_mode="zeros"),
        lambda size: nn.Sequential(*(FusedMaxBlurPool1d(filter_size=size) for _ in range(3))),
    ],
)
def test_more_blur_is_nearer_to_equivariance(make: Callable[[int], nn.Module]) -> None:
    """On bumps at random; a filter of 1 is plain, strided max pooling."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(16, 2, 32, generator=generator) ** 6
    distances = [shift_equivariance(make(size), x).mean for size in (1, 2, 3, 5)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 3
    pool = shift_equivariance(nn.MaxPool1d(2), x)
    fused = shift_equivariance(FusedMaxBlurPool1d(filter_size=1), x)
    torch.testing.assert_close(pool.distance, fused.distance)


def test_padding_does_not_matter() -> None:
    x = torch.rand(2, 3, 16)
    modes = ("reflect", "replicate", "zeros")
    found = [
        shift_equivariance(FusedMaxBlurPool1d(3, 2, 1, padding_mode=mode), x) for mode in modes
    ]
    unpadded = shift_equivariance(nn.Sequential(nn.MaxPool1d(3, 2), nn.Identity()), x)
    assert unpadded.stride == 2
    for other in found[1:]:
        torch.testing.assert_close(other.responses, found[0].responses)


def test_silent_layer() -> None:
    found = shift_equivariance(lambda x: 0 * x[..., ::2], torch.rand(8))
    assert found.largest == 0.0
    impulse = torch.tensor([0.0, 1, 0, 0])
    found = shift_equivariance(lambda x: x[..., ::2], impulse, [1])
    assert found.largest == math.inf


# What all have in common.


def run_all(net: Callable[[Tensor], Tensor]) -> list[Any]:
    x = images(4)
    return [
        shift_consistency(net, x, crop=8),
        stability_curve(net, x, torch.zeros(4, dtype=torch.int64), crop=8),
        feature_similarity(net, x[:1], 14),
    ]


def flags(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


def test_state_is_restored() -> None:
    net = Chain()
    net.train()
    net.conv.eval()  # a mixture that neither train() nor eval() would give back
    before, buffers = flags(net), {k: v.clone() for k, v in net.state_dict().items()}
    seen = []
    net.register_forward_pre_hook(
        lambda module, _: seen.append((flags(module), torch.is_inference_mode_enabled()))
    )
    for _ in run_all(net):
        assert flags(net) == before
    layer = nn.Sequential(nn.Dropout(), FusedMaxBlurPool1d())
    layer[1].eval()
    shift_equivariance(layer, torch.rand(8))
    assert flags(layer) == [True, True, False]
    assert all(not any(training) and inference for training, inference in seen)
    assert all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items())
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("which", range(4))
def test_state_is_restored_after_an_error(which: int) -> None:
    net = Chain()
    net.train()
    before = flags(net)

    def fail(*_: object) -> None:
        assert not net.training
        raise RuntimeError("on purpose")

    handle = net.head.register_forward_hook(fail)
    x, y = images(2), torch.zeros(2, dtype=torch.int64)
    calls: list[Callable[[], object]] = [
        lambda: shift_consistency(net, x, crop=8),
        lambda: stability_curve(net, x, y, crop=8),
        lambda: feature_similarity(net, x, 14, layer="conv"),
        lambda: shift_equivariance(net, torch.rand(3, 8)),
    ]
    with pytest.raises(RuntimeError):
        calls[which]()
    handle.remove()
    assert flags(net) == before
    assert not net.conv._forward_hooks
    assert not torch.is_inference_mode_enabled()


def test_images_that_are_none() -> None:
    with pytest.raises(TypeError, match=r"images must be a tensor \[N, C, H, W\] or .*NoneType"):
        shift_consistency(Spot(), None, crop=8)  # type: ignore[arg-type]


def test_a_failed_update_counts_nothing() -> None:
    metric = ShiftConsistency(crop=8)
    with pytest.raises(ValueError, match="classes"):
        metric.update(lambda x: x, images())
    metric.update(channel_means, images())
    assert metric.compute().ids.tolist() == list(range(12))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: shift_consistency(Spot(), x), r"exactly one of crop .* circular=False"),
        (lambda x: shift_consistency(Spot(), x, crop=4, circular=True), "exactly one of crop"),
        (lambda x: shift_consistency(Spot(), x, crop=13), r"crop must fit .* 12 x 12, got \(13"),
        (lambda x: shift_consistency(Spot(), x, crop=0), "crop must be at least 1, got 0"),
        (lambda x: shift_consistency(Spot(), x, crop=(1, 2, 3)), r"pair .* got \(1, 2, 3\)"),
        (lambda x: shift_consistency(Spot(), x, crop=8, offsets=6), r"offsets must be at most \(5"),
        (lambda x: shift_consistency(Spot(), x, crop=8, pairs=0), "pairs must be at least 1"),
        (lambda x: shift_consistency(Spot(), x, crop=8, seed=-1), "seed must be at least 0"),
        (lambda x: shift_consistency(Spot(), x, crop=8, batch_size=0), "batch_size must be at"),
        (lambda x: shift_consistency(Spot(), x[0], crop=8), r"images must be \[N, C, H, W\]"),
        (lambda x: shift_consistency(Spot(), [x[0]], crop=8), r"a batch of images must be \[N"),
        (lambda x: shift_consistency(nn.Identity(), x, crop=8), r"model must return .* \[12, cl"),
        (lambda x: twice(x, [0, 1, 1]), "ids must be unique, got 1 again"),
        (lambda x: twice(x, [0.0, 1.0, 2.0]), "ids must be ints"),
        (lambda x: stability_curve(Spot(), x, crop=8), "labels must be given"),
        (lambda x: curve(x, [1] * 11), r"labels must have shape \[12\]"),
        (lambda x: curve(x, [999] * 12), r"labels must be in 0\.\.191, .* 999\.\.999"),
        (lambda x: curve(x[:0], []), "images must not be empty"),
        (
            lambda x: feature_similarity(Spot(), x, 11),
            r"at least the size of the patch, \(12, 12\)",
        ),
        (lambda x: feature_similarity(Spot(), x, 14, anchor=(3, 0)), r"anchor must be .* \(2, 2\)"),
        (lambda x: feature_similarity(Spot(), x, 14, step=0), "step must be at least 1"),
        (lambda x: feature_similarity(Spot(), x[0, 0], 14), r"patch must be .* \[12, 12\]"),
        (lambda x: feature_similarity(Chain(), x, 14, layer="c"), r"one of \['conv', .* got 'c'"),
        (lambda x: feature_similarity(Idle(), x, 14, layer="idle"), "'idle', which did not"),
        (lambda x: feature_similarity(lambda x: (x,), x, 14), "features must be .* got tuple"),
        (lambda x: feature_similarity(Spot(), x, 14, background=torch.ones(2)), "background must"),
        (
            lambda x: shift_equivariance(nn.MaxPool1d(3), torch.rand(8)),
            "multiple of the layer's stride",
        ),
        (
            lambda x: shift_equivariance(nn.MaxPool1d(5), torch.rand(8)),
            "multiple of the layer's stride",
        ),
        (lambda x: shift_equivariance(nn.AvgPool1d(20, 1), torch.rand(8)), "at least two periods"),
        (lambda x: shift_equivariance(nn.Flatten(), torch.rand(8)), r"layer must give \[1, C, L\]"),
        (lambda x: shift_equivariance(nn.MaxPool1d(2), torch.rand(8), []), "shifts must be"),
        (lambda x: shift_equivariance(nn.MaxPool1d(2), torch.rand(8), [0.5]), r"ints, .* \[0\.5\]"),
        (lambda x: shift_equivariance(nn.MaxPool1d(2), torch.arange(8)), "signal must be floating"),
    ],
)
def test_errors(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(images())


def twice(x: Tensor, ids: list[Any]) -> None:
    ShiftConsistency(crop=8).update(Spot(), x[:3], ids=torch.tensor(ids))


def curve(x: Tensor, labels: list[int]) -> None:
    stability_curve(Spot(), x, torch.tensor(labels, dtype=torch.int64), crop=8)


class Idle(Spot):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Identity()


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match=r"pairs must be an int, got 1\.5"):
        ShiftConsistency(crop=8, pairs=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a batch of images must be a tensor .* got str"):
        shift_consistency(Spot(), ["x"], crop=8)
    with pytest.raises(TypeError, match="layer='x' needs a model that is a module, got function"):
        feature_similarity(channel_means, images(), 14, layer="x")


def test_the_model_decides_on_the_device() -> None:
    net = Chain().to("meta")
    with pytest.raises(NotImplementedError, match="meta"):  # the images went there, not back
        shift_consistency(net, images(), crop=8)


def test_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="draws with matplotlib")
    monkeypatch.delenv("DISPLAY", raising=False)
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    consistency, curve, similarity = run_all(Chain())
    equivariance = shift_equivariance(nn.MaxPool1d(2), torch.rand(8))
    for result in (consistency, curve, similarity, equivariance):
        ax = result.plot()
        assert result.plot(ax) is ax
        ax.figure.canvas.draw()
        assert ax.get_xlabel()
        assert ax.get_ylabel()
    lines = equivariance.plot().lines
    assert lines[0].get_ydata() == pytest.approx(equivariance.distance.mean(1).tolist())
    one = curve.plot(image=2).lines[0].get_ydata()
    assert one == pytest.approx(curve.probability[2].tolist())
    # The points are means of pairs, all of them counted once.
    points = consistency.plot().lines[0].get_ydata()
    assert len(points) == 4
    assert sum(points) / 4 == pytest.approx(100 * consistency.consistency)
    # Rows of a heat map go down, also where two share their axis or one is drawn over.
    heat = similarity.plot(similarity.plot())
    assert heat.get_ylim()[0] > heat.get_ylim()[1]
    plt.close("all")


def test_plot_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"fastblur\[plot\]"):
        shift_equivariance(nn.MaxPool1d(2), torch.rand(8)).plot()


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    x = images()
    plain = shift_consistency(channel_means, x, crop=8, batch_size=5)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    without = shift_consistency(channel_means, x, crop=8, batch_size=5, progress=True)
    assert torch.equal(without.agreement, plain.agreement)
    assert capsys.readouterr() == ("", "")
    monkeypatch.undo()
    pytest.importorskip("rich", reason="the bar is rich's")
    shown = shift_consistency(channel_means, x, crop=8, batch_size=5, progress=True)
    assert torch.equal(shown.agreement, plain.agreement)
    assert "Shift consistency" in capsys.readouterr().out


def test_import_stays_light() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import fastblur; fastblur.metrics;"
        "print({m.split('.')[0] for m in set(sys.modules) - before} & {'matplotlib', 'rich'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
