"""The stability curve (Zhang, ICML 2019, Figure 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._moves import IntOrPair, Moves
from ._running import Images, Model, axes, batches, classify, evaluating

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class StabilityCurve:
    """The result of :func:`stability_curve`.

    Attributes:
        shifts: int64 [S], how far the contents move down and right, in pixels.
        probability: float32 [N, S], the probability of the right class.
        right: bool [N, S], whether the model predicts that class.
        mean: mean probability over images and shifts.
        swing: largest minus smallest probability along an image's curve, averaged over images.
    """

    shifts: Tensor
    probability: Tensor
    right: Tensor
    mean: float
    swing: float

    def __str__(self) -> str:
        return (
            f"probability of the right class: mean {self.mean:.3f}, largest minus smallest "
            f"{self.swing:.3f}, {len(self.probability)} images, {len(self.shifts)} shifts from "
            f"{self.shifts[0]} to {self.shifts[-1]}"
        )

    def plot(
        self, ax: Axes | None = None, *, image: int | None = None, label: str | None = None
    ) -> Axes:
        """Plots one image's curve, or the mean of all with its quartiles; needs matplotlib."""
        ax = axes(ax)
        shifts = self.shifts.tolist()
        if image is not None:
            ax.plot(shifts, self.probability[image].tolist(), marker=".", label=label)
        else:
            line = ax.plot(shifts, self.probability.mean(0).tolist(), marker=".", label=label)[0]
            low, high = self.probability.quantile(torch.tensor([0.25, 0.75]), dim=0).tolist()
            ax.fill_between(shifts, low, high, color=line.get_color(), alpha=0.15, lw=0)
        ax.set(xlabel="diagonal shift (pixels, down and right)", ylim=(-0.04, 1.04))
        ax.set_ylabel("probability of the right class")
        ax.grid(alpha=0.3)
        return ax


def stability_curve(
    model: Model,
    images: Images,
    labels: Tensor | None = None,
    *,
    crop: IntOrPair | None = None,
    circular: bool = False,
    offsets: int | None = None,
    logits: bool = True,
    batch_size: int = 64,
    progress: bool = False,
) -> StabilityCurve:
    """The probability that a classifier gives the right class as the image moves diagonally.

    (Zhang, ICML 2019, Figure 1.) A shift is a crop at offset (o, o); ``crop=224`` from images of
    256 pixels gives the 33 shifts of Zhang's evaluation. Shifts are reported as the movement of the
    picture's contents relative to the centre crop, which has offset ``(count - 1) // 2``. Reducing
    the offset by one moves the contents one pixel down and right.

    Args:
        model: a module or another callable from [B, C, crop_h, crop_w] to [B, classes]. Images are
            moved to the device of its parameters.
        images: [N, C, H, W], or an iterable of batches (images, labels), like those of a
            DataLoader.
        labels: int [N], the right classes, if images are one tensor.
        crop: the size of the crops in pixels, an int or (height, width).
        circular: roll the whole image around its edges by 0..offsets - 1 instead of cropping.
        offsets: number of shifts. Default: as many as the shorter axis allows.
        logits: whether the model returns logits; False if it returns probabilities.
        batch_size: images per batch, if images are one tensor.
        progress: draw a progress bar, if rich is installed.

    Returns:
        The curve and swing of the images: see :class:`StabilityCurve`.

    Raises:
        ValueError, TypeError: an argument is wrong, there are no images, or the model does not
            return [B, classes].

    Example:
        >>> import torch
        >>> from fastblur.metrics import stability_curve
        >>> top_left = lambda x: torch.stack([x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]], 1)
        >>> image = torch.eye(4).fliplr()[None, None]  # its diagonal is dark
        >>> curve = stability_curve(top_left, image, torch.tensor([1]), crop=2, logits=False)
        >>> curve.shifts.tolist(), curve.probability.tolist()
        ([-1, 0, 1], [[1.0, 1.0, 1.0]])
    """
    moves = Moves.resolve(crop, circular, offsets)
    probability, right = [], []
    count = None
    for x, y in batches(images, labels, batch_size, progress, "Stability curve"):
        if y is None:
            raise ValueError("labels must be given, with images or in each batch, got none")
        here = min(moves.counts(*x.shape[2:]))
        if count not in (None, here):
            raise ValueError(
                f"images must all allow {count} shifts, got a batch that allows {here}"
            )
        count = here
        for_batch: list[Tensor] = []
        chosen: list[Tensor] = []
        with evaluating(model):
            for offset in range(count):
                scores = classify(model, moves.apply(x, [(offset, offset)] * len(x)))
                target = _checked(y, scores).to(scores.device).unsqueeze(1)
                values = scores.float().softmax(1) if logits else scores.float()
                for_batch.append(values.gather(1, target).squeeze(1).cpu())
                chosen.append((scores.argmax(1) == target.squeeze(1)).cpu())
        # Stacked outside inference mode, so that the result can be modified and differentiated.
        probability.append(torch.stack(for_batch, 1))
        right.append(torch.stack(chosen, 1))
    if count is None or sum(map(len, probability)) == 0:
        raise ValueError("images must not be empty, got none")
    curves, hits = torch.cat(probability), torch.cat(right)
    shifts = torch.arange(count)
    if not circular:
        shifts = (count - 1) // 2 - shifts.flip(0)
        curves, hits = curves.flip(1), hits.flip(1)
    return StabilityCurve(
        shifts=shifts,
        probability=curves,
        right=hits,
        mean=curves.mean().item(),
        swing=(curves.amax(1) - curves.amin(1)).mean().item(),
    )


def _checked(labels: Tensor, scores: Tensor) -> Tensor:
    if labels.shape != scores.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be ints, one per image, got {labels.dtype} {list(labels.shape)}"
        )
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= scores.shape[1]):
        raise ValueError(
            f"labels must be in 0..{scores.shape[1] - 1}, the model's classes, "
            f"got {int(labels.min())}..{int(labels.max())}"
        )
    return labels.long()
