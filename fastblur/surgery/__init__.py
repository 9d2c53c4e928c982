"""Changes whole models: fuses anti-aliasing layers, anti-aliases ordinary CNNs."""

from .antialias import AntialiasReport, AntialiasRow, antialias_
from .filtered_pool import BlurredConv2d, FilteredPool
from .fuse import fuse_, unfuse_
from .report import FuseReport, FuseRow, UnfuseReport

__all__ = [
    "AntialiasReport",
    "AntialiasRow",
    "BlurredConv2d",
    "FilteredPool",
    "FuseReport",
    "FuseRow",
    "UnfuseReport",
    "antialias_",
    "fuse_",
    "unfuse_",
]
