"""Changes to whole models: fuse what is anti-aliased, anti-alias what is not."""

from .antialias import AntialiasReport, AntialiasRow, antialias_
from .filtered_pool import FilteredPool

__all__ = ["AntialiasReport", "AntialiasRow", "FilteredPool", "antialias_"]
