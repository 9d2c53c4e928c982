"""What is measured of a trained network, with `fastblur.metrics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastblur import FusedMaxBlurPool1d
from fastblur.metrics import (
    FeatureSimilarity,
    feature_similarity,
    shift_consistency,
    shift_equivariance,
    stability_curve,
)

from .data import CANVAS, CLASSES, MARGIN, centred
from .networks import BLURS, FEATURES, PLAIN

SIGNAL_SHIFTS = 16


@dataclass(frozen=True)
class Measures:
    """How every network is measured.

    Attributes:
        pairs: pairs of shifts for each image, for consistency.
        shifted_images: test images for consistency, the first ones; accuracy takes all.
        curves: test images whose stability curve is measured, the first ones.
        canvas: height and width of the canvas on which objects move, in pixels.
        step: distance between their positions, in pixels.
        corner_step: the same, where the anchor is a corner.
        near: largest shift that counts as local, in pixels.
    """

    pairs: int = 1
    shifted_images: int = 5000
    curves: int = 500
    canvas: int = 48
    step: int = 1
    corner_step: int = 4
    near: int = 3


def rounded(values: Tensor) -> Any:
    """Nested lists rounded to four decimals, more than a picture shows."""
    return [rounded(row) for row in values] if values.dim() else round(values.item(), 4)


def measure(
    net: nn.Module, test: tuple[Tensor, Tensor], how: Measures, seed: int
) -> dict[str, Any]:
    """All figures of one network, ready for JSON."""
    images, labels = test
    right = torch.tensor(0)
    net.eval()
    with torch.inference_mode():
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            right += (net(centred(x)).argmax(1) == y).sum()
    room = centred(images[: max(how.shifted_images, how.curves)], 2 * MARGIN)
    moving = room[: how.curves], labels[: how.curves]
    curve = stability_curve(net, *moving, crop=CANVAS, batch_size=250)
    agreement = shift_consistency(
        net, room[: how.shifted_images], crop=CANVAS, pairs=how.pairs, seed=seed, batch_size=250
    )
    objects = one_of_each(images, labels)
    maps = {
        anchor: feature_similarity(
            net,
            objects,
            how.canvas,
            layer=FEATURES,
            background=0.0,
            anchor=place,
            step=step,
            batch_size=147,
        )
        for anchor, place, step in (
            ("middle", None, how.step),
            ("corner", (0, 0), how.corner_step),
        )
    }
    return {
        "accuracy": right.item() / len(labels),
        "consistency": float(agreement),
        "swing": curve.swing,
        "local": local(maps["middle"], how.near),
        "global": maps["middle"].mean,
        "global_corner": maps["corner"].mean,
        "axis": curve.shifts.tolist(),
        "curve": rounded(curve.probability.mean(0)),
        "places": maps["middle"].rows.tolist(),
        "anchor": list(maps["middle"].anchor),
        "map": rounded(maps["middle"].similarity.mean(0)),
        "curves": rounded(curve.probability),
        "right": curve.right[:, curve.shifts == 0].squeeze(1).tolist(),
    }


def one_of_each(images: Tensor, labels: Tensor) -> Tensor:
    """The first image of each class that is there, not selected: float32 [10, 1, 28, 28]."""
    first = [(labels == c).nonzero()[0, 0] for c in range(len(CLASSES)) if (labels == c).any()]
    return centred(images[torch.stack(first)], 0)


def local(found: FeatureSimilarity, near: int) -> float:
    """The mean similarity at all places up to `near` pixels from the anchor, but for the anchor."""
    distance = distances(found.rows, found.anchor)
    chosen = (distance > 0) & (distance <= near)
    return found.similarity.mean(0)[chosen].mean().item()


def distances(places: Tensor, anchor: tuple[int, int]) -> Tensor:
    """Pixels from the anchor to each of [places, places], the larger of both axes."""
    down, right = (places - anchor[0]).abs(), (places - anchor[1]).abs()
    return torch.maximum(down[:, None], right)


def signals(images: Tensor) -> dict[str, Any]:
    """The 1-D experiment: Zhang's example through one layer, rows of images through three."""
    one = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(4)
    layers = {PLAIN: lambda: nn.MaxPool1d(2)} | {
        name: lambda size=size: FusedMaxBlurPool1d(filter_size=size) for name, size in BLURS.items()
    }
    rows = centred(images)[:, :, CANVAS // 2]  # the middle row of each image's canvas
    rows = rows[rows.amax((1, 2)) > 0]  # an empty row has no distance
    found: dict[str, Any] = {"example": one.tolist(), "responses": {}, "distance": {}}
    for name, layer in layers.items():
        responses = shift_equivariance(layer(), one, [0, 1]).responses
        found["responses"][name] = rounded(responses[:, 0, 0])
        three = nn.Sequential(*(layer() for _ in range(3)))
        moved = shift_equivariance(three, rows, range(SIGNAL_SHIFTS + 1))
        found["distance"][name] = rounded(moved.distance.mean(1))
    return found
