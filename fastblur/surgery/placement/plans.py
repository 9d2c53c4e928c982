"""What ``antialias_`` is asked for, and what it plans for each strided layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..._geometry import BlurPadding, PaddingMode
from ..._geometry.filters import Row

SiteKind: TypeAlias = Literal["max", "conv", "avg"]
Where: TypeAlias = Literal["before", "after", "instead"]
SITE_KINDS: tuple[SiteKind, ...] = ("max", "conv", "avg")


@dataclass(frozen=True)
class Options:
    """The arguments of :func:`fastblur.antialias_`, checked."""

    taps: Row
    padding_mode: PaddingMode
    sites: frozenset[SiteKind]
    blur_first: bool
    min_channels: int
    keep_pool: bool
    stem: bool | None

    @property
    def filter_size(self) -> int:
        """Number of taps along an axis that is subsampled."""
        return len(self.taps)


@dataclass(frozen=True)
class Blur:
    """A blur to be made.

    Attributes:
        channels: of its filter; 1 serves any number.
        filter_size: one for each axis, of which there are 1 to 3; 1 along an axis that is not
            subsampled.
        stride: one for each axis.
        like: path of the module whose weight tells device and dtype, or None.
        padding: of the map, as of :class:`fastblur.FusedBlurPool` and its 1-D and 3-D versions.
        pool: kernel_size and padding of a max that the same layer takes, in 3-D.
    """

    channels: int
    filter_size: tuple[int, ...]
    stride: tuple[int, ...]
    like: str | None
    padding: BlurPadding = "same"
    pool: tuple[tuple[int, ...], tuple[int, ...]] | None = None


@dataclass(frozen=True)
class Change:
    """What is to be done for one site.

    Attributes:
        site: path of the strided layer.
        kind: of it.
        slot: path of the module next to which, or instead of which, the blur goes.
        where: on which side.
        blur: the blur.
        attributes: that the layer at ``site`` gets.
    """

    site: str
    kind: SiteKind
    slot: str
    where: Where
    blur: Blur
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Left:
    """A site that stays as it is, and why."""

    site: str
    kind: SiteKind
    reason: str
