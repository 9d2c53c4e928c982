"""Changes to whole models: fuse what is anti-aliased, anti-alias what is not."""

from .filtered_pool import FilteredPool

__all__ = ["FilteredPool"]
