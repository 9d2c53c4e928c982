"""Shifts images: by cropping at an offset, or by rolling around the edges."""

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
        crop: (height, width) of the crop; None to roll the whole image around its edges.
        offsets: number of offsets along (y, x), or None for as many as fit.
    """

    crop: tuple[int, int] | None
    offsets: tuple[int, int] | None

    @classmethod
    def resolve(cls, crop: IntOrPair | None, circular: bool, offsets: IntOrPair | None) -> Moves:
        """Reads the arguments of the metrics and checks all that needs no image."""
        if (crop is None) is not circular:
            raise ValueError(
                "exactly one of crop (a size) and circular=True must be given, "
                f"got {crop=}, {circular=}"
            )
        size = None if crop is None else pair_of("crop", crop, 1)
        return cls(size, None if offsets is None else pair_of("offsets", offsets, 1))

    def counts(self, height: int, width: int) -> tuple[int, int]:
        """Number of offsets along y and x in images of this size."""
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
        """Shifts each image of [B, C, H, W] by its own offset (y, x), in pixels.

        Returns [B, C, crop_h, crop_w], or [B, C, H, W] if rolled. The offset of a crop is its top
        left corner; rolling moves the contents down and right.
        """
        if self.crop is None:
            pairs = zip(images, offsets, strict=True)
            return torch.stack([torch.roll(x, (dy, dx), (1, 2)) for x, (dy, dx) in pairs])
        h, w = self.crop
        pairs = zip(images, offsets, strict=True)
        return torch.stack([x[:, dy : dy + h, dx : dx + w] for x, (dy, dx) in pairs])
