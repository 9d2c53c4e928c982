"""Feature similarity and the equivariance of a layer, against answers known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastblur import FusedMaxBlurPool1d
from fastblur.metrics import (
    feature_similarity,
    shift_equivariance,
)

from .test_metrics import Chain, channel_means, images

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
