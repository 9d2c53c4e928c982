"""Changes whole models: fuses anti-aliasing layers, anti-aliases ordinary CNNs."""

from .antialias import AntialiasReport, AntialiasRow, antialias_, unantialias_
from .filtered_pool import BlurredConv2d, FilteredPool
from .fuse import fuse_, unfuse_
from .placement.placing import WithBlur
from .report import FuseReport, FuseRow, UnantialiasReport, UnfuseReport

__all__ = [
    "AntialiasReport",
    "AntialiasRow",
    "BlurredConv2d",
    "FilteredPool",
    "FuseReport",
    "FuseRow",
    "UnantialiasReport",
    "UnfuseReport",
    "WithBlur",
    "antialias_",
    "fuse_",
    "unantialias_",
    "unfuse_",
]
