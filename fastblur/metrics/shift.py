"""Shift consistency (Zhang, ICML 2019, section 4)."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._moves import IntOrPair, Moves
from ._running import Images, Model, at_least, axes, batches, check_images, classify, evaluating

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Consistency:
    """The result of :func:`shift_consistency`; ``float()`` gives the consistency, in 0..1.

    Attributes:
        consistency: the share of pairs of shifts that get the same class; NaN without images.
        standard_error: standard error of the consistency: the standard deviation of the images'
            shares divided by the square root of their number. NaN for fewer than two images.
        agreement: bool [N, pairs], whether a pair agrees; images in order of their ids.
        predictions: int64 [N, pairs, 2], the predicted classes at the two shifts.
        offsets: int64 [N, pairs, 2, 2], the two shifts as (y, x) in pixels: the top left corner
            of a crop, or how far down and right the image was rolled.
        distance: int64 [N, pairs], pixels between the two shifts, along the axis where they are
            further apart; the shorter way around for rolled images.
        ids: int64 [N], in ascending order.
    """

    consistency: float
    standard_error: float
    agreement: Tensor
    predictions: Tensor
    offsets: Tensor
    distance: Tensor
    ids: Tensor

    def __float__(self) -> float:
        return self.consistency

    def __str__(self) -> str:
        n, pairs = self.agreement.shape
        return (
            f"shift consistency {self.consistency:.2%} (standard error {self.standard_error:.2%}), "
            f"{n} images, {pairs} {'pair' if pairs == 1 else 'pairs'} of shifts each"
        )

    def plot(self, ax: Axes | None = None, *, label: str | None = None) -> Axes:
        """Plots the share of agreeing pairs against the distance of their shifts; needs matplotlib.

        Similar distances share a point; each point has about the same number of pairs.
        """
        ax = axes(ax)
        distance, order = self.distance.flatten().sort(stable=True)
        agreement = self.agreement.flatten()[order].float()
        x, y = [], []
        for chunk in torch.arange(len(distance)).chunk(12):
            x.append(distance[chunk].float().mean().item())
            y.append(100 * agreement[chunk].mean().item())
        ax.plot(x, y, marker="o", label=label)
        ax.set(xlabel="distance between the two shifts (pixels)", ylabel="same class (%)")
        ax.grid(alpha=0.3)
        return ax


class ShiftConsistency:
    """:func:`shift_consistency`, batch by batch.

    Args:
        crop: as for :func:`shift_consistency`.
        circular: as for :func:`shift_consistency`.
        offsets: as for :func:`shift_consistency`.
        pairs: as for :func:`shift_consistency`.
        seed: as for :func:`shift_consistency`.

    Example:
        >>> import torch
        >>> from fastblur.metrics import ShiftConsistency
        >>> metric = ShiftConsistency(crop=24, seed=1)
        >>> for batch in torch.rand(6, 3, 32, 32).split(4):
        ...     metric.update(lambda x: x.mean((2, 3)), batch)
        >>> len(metric.compute().ids)
        6
    """

    def __init__(
        self,
        *,
        crop: IntOrPair | None = None,
        circular: bool = False,
        offsets: IntOrPair | None = None,
        pairs: int = 1,
        seed: int = 0,
    ) -> None:
        self._moves = Moves.resolve(crop, circular, offsets)
        self._pairs = at_least("pairs", pairs, 1)
        self._seed = at_least("seed", seed, 0)
        self.reset()

    def reset(self) -> None:
        """Discards all images."""
        self._ids: set[int] = set()
        self._found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def update(self, model: Model, images: Tensor, ids: Tensor | None = None) -> None:
        """Runs the model on the shifted images.

        Args:
            model: as for :func:`shift_consistency`.
            images: [B, C, H, W].
            ids: int [B], the numbers of these images. An image's id and the seed determine its
                shifts, so with ids they do not depend on the order of the images. By default
                images are numbered from 0 in the order in which they arrive.

        Raises:
            ValueError, TypeError: an argument is wrong, or an id repeats. The metric is unchanged
                then.
        """
        check_images(images)
        numbers = self._numbers(ids, len(images))
        height, width = images.shape[2:]
        counts = self._moves.counts(height, width)
        offsets = torch.tensor(
            [[draw(self._seed, i, pair, counts) for pair in range(self._pairs)] for i in numbers],
            dtype=torch.int64,
        ).reshape(-1, self._pairs, 2, 2)
        predictions = torch.empty(len(images), self._pairs, 2, dtype=torch.int64)
        if len(images):
            with evaluating(model):
                for pair in range(self._pairs):
                    for which in range(2):
                        shifted = self._moves.apply(images, offsets[:, pair, which].tolist())
                        predictions[:, pair, which] = classify(model, shifted).argmax(1).cpu()
        apart = (offsets[:, :, 0] - offsets[:, :, 1]).abs()
        if self._moves.crop is None:
            apart = torch.minimum(apart, torch.tensor([height, width]) - apart)
        self._ids.update(numbers)
        self._found.append((torch.tensor(numbers).long(), predictions, offsets, apart.amax(-1)))

    def compute(self) -> Consistency:
        """The result for all images so far, sorted by id."""
        nothing = torch.empty(0, self._pairs, 2, 2, dtype=torch.int64)
        found = [(nothing[:, 0, 0, 0], nothing[..., 0], nothing, nothing[..., 0, 0]), *self._found]
        ids, predictions, offsets, distance = (torch.cat(part) for part in zip(*found, strict=True))
        ids, order = ids.sort()
        predictions = predictions[order]
        agreement = predictions[..., 0] == predictions[..., 1]
        share = agreement.double().mean(1)
        n = len(ids)
        return Consistency(
            consistency=share.mean().item(),
            standard_error=share.std().item() / math.sqrt(n) if n > 1 else math.nan,
            agreement=agreement,
            predictions=predictions,
            offsets=offsets[order],
            distance=distance[order],
            ids=ids,
        )

    def _numbers(self, ids: Tensor | None, count: int) -> list[int]:
        if ids is None:
            start = max(self._ids, default=-1) + 1
            return list(range(start, start + count))
        if ids.shape != (count,) or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(
                f"ids must be ints [{count}], one per image, got {ids.dtype} {list(ids.shape)}"
            )
        numbers: list[int] = ids.tolist()
        here: set[int] = set()
        for number in numbers:
            if number in here or number in self._ids:
                raise ValueError(f"ids must be unique, got {number} again")
            here.add(number)
        return numbers


def shift_consistency(
    model: Model,
    images: Images,
    *,
    crop: IntOrPair | None = None,
    circular: bool = False,
    offsets: IntOrPair | None = None,
    pairs: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Consistency:
    r"""How often a classifier gives one image the same class at two random shifts.

    .. math:: E_{X, s_1, s_2}\; 1[\arg\max P(S_{s_1} X) = \arg\max P(S_{s_2} X)]

    (Zhang, ICML 2019, section 4.) A shift is a crop at a random position; labels are not needed.
    The published protocol for ImageNet uses images resized and centre-cropped to 256 pixels,
    ``crop=224, offsets=32``, and one pair of shifts per image.

    The seed and an image's number determine its shifts, whatever the batches, so two models see the
    same crops and can be compared image by image. A classifier whose order of summation depends on
    the batch size may still decide a near tie differently.

    Args:
        model: a module or another callable from [B, C, crop_h, crop_w] to scores [B, classes];
            the largest score is its prediction. Images are moved to the device of its parameters.
        images: [N, C, H, W], or an iterable of such batches, alone or first in a tuple or list,
            like those of a DataLoader. Images are numbered in the order in which they arrive; if
            that order changes, use :class:`ShiftConsistency` with ids.
        crop: the size of the crops in pixels, an int or (height, width).
        circular: roll the whole image around its edges instead of cropping.
        offsets: each offset is one of 0..offsets - 1, along both axes or (y, x). Default: all
            possible offsets, ``H - crop + 1``, or ``H`` if images are rolled.
        pairs: number of pairs of shifts per image.
        seed: seed of the shifts, 0 or more.
        batch_size: images per batch, if images are one tensor.
        progress: draw a progress bar, if rich is installed.

    Returns:
        The share, its standard error, and the agreement of each image: see :class:`Consistency`.

    Raises:
        ValueError, TypeError: an argument is wrong, or the model's result is not [B, classes].

    Example:
        >>> import torch
        >>> from fastblur.metrics import shift_consistency
        >>> brightest = lambda x: x.mean((2, 3))  # the brightest channel: hardly ever changes
        >>> images = torch.ones(8, 3, 32, 32) * torch.tensor([0.1, 0.5, 0.9]).reshape(3, 1, 1)
        >>> print(shift_consistency(brightest, images, crop=24))
        shift consistency 100.00% (standard error 0.00%), 8 images, 1 pair of shifts each
    """
    metric = ShiftConsistency(crop=crop, circular=circular, offsets=offsets, pairs=pairs, seed=seed)
    for batch, _ in batches(images, None, batch_size, progress, "Shift consistency"):
        metric.update(model, batch)
    return metric.compute()


def draw(seed: int, image: int, pair: int, counts: tuple[int, int]) -> list[list[int]]:
    """Two shifts [[y, x], [y, x]] with y and x below the counts, determined by the arguments.

    A hash needs no state, and no release of torch can change it, unlike a generator. 64 bits modulo
    a count of pixels are uniform for all practical purposes.
    """
    digest = hashlib.blake2b(f"{seed}/{image}/{pair}".encode(), digest_size=32).digest()
    y1, x1, y2, x2 = struct.unpack("<4Q", digest)
    return [[y1 % counts[0], x1 % counts[1]], [y2 % counts[0], x2 % counts[1]]]
