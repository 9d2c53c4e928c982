"""Shifted images: crops at an offset out of larger ones, or images rolled round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._running import pair_of

IntOrPair = int | Sequence[int]


@dataclass(frozen=True)
class Moves:
    """How images are shifted.

    Attributes:
        crop: (height, width) of the crop; None to roll the whole image round its edges.
        offsets: how many offsets there are along (y, x), or None for as many as fit.
    """

    crop: tuple[int, int] | None
    offsets: tuple[int, int] | None

    @classmethod
    def resolve(cls, crop: IntOrPair | None, circular: bool, offsets: IntOrPair | None) -> Moves:
        """Reads the arguments of the measures, and checks all that needs no image."""
        if (crop is None) is not circular:
            raise ValueError(
                "exactly one of crop (a size) and circular=True must be given, "
                f"got {crop=}, {circular=}"
            )
        size = None if crop is None else pair_of("crop", crop, 1)
        return cls(size, None if offsets is None else pair_of("offsets", offsets, 1))

    def counts(self, height: int, width: int) -> tuple[int, int]:
        """How many offsets there are along y and x, in images of this size."""
        if self.crop is None:
            most = height, width
        else:
            most = height - self.crop[0] + 1, width - self.crop[1] + 1
            if min(most) < 1:
                raise ValueError(
                    f"crop must fit into the images of {height} x {width}, got {self.crop}"
                )
        found = self.offsets or most
        if found[0] > most[0] or found[1] > most[1]:
            raise ValueError(
                f"offsets must be at most {most} for images of {height} x {width} "
                f"and crop={self.crop}, got {found}"
            )
        return found

    def apply(self, images: Tensor, offsets: Sequence[Sequence[int]]) -> Tensor:
        """Each image of [B, C, H, W] at its own offset (y, x): [B, C, crop_h, crop_w] or rolled.

        A crop's offset is that of its top left corner; rolling moves the contents down and right.
        """
        if self.crop is None:
            pairs = zip(images, offsets, strict=True)
            return torch.stack([torch.roll(x, (dy, dx), (1, 2)) for x, (dy, dx) in pairs])
        h, w = self.crop
        pairs = zip(images, offsets, strict=True)
        return torch.stack([x[:, dy : dy + h, dx : dx + w] for x, (dy, dx) in pairs])
