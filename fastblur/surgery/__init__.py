"""Changes to whole models: fuse what is anti-aliased, anti-alias what is not."""

from .filtered_pool import BlurredConv2d, FilteredPool
from .fuse import Absorbed, fuse_, unfuse_
from .report import FuseReport, FuseRow

__all__ = [
    "Absorbed",
    "BlurredConv2d",
    "FilteredPool",
    "FuseReport",
    "FuseRow",
    "fuse_",
    "unfuse_",
]
