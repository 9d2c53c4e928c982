"""Shift consistency and the stability curve, against answers known beforehand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from fastblur.metrics import (
    ShiftConsistency,
    shift_consistency,
    stability_curve,
)
from fastblur.metrics.shift import draw

from .test_metrics import Chain, Spot, channel_means, images

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
