"""fastblur for fastai: ``Learner(..., cbs=FastBlur())``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastai.callback.core import Callback

from ._convert import Converter


class FastBlur(Callback):
    """Runs ``fuse_`` on the model as soon as the Learner is made, or before a fit.

    Args:
        antialias: whether to run ``antialias_`` first; a dict holds its arguments.
        fuse: further arguments of ``fuse_``.

    Raises:
        TypeError: ``antialias`` is neither a bool nor a dict, or an argument has an unknown name.

    Example:
        >>> learn = vision_learner(dls, resnet18, cbs=FastBlur(antialias=True))
    """

    order = -11  # in front of all that wrap the model

    def __init__(self, antialias: bool | Mapping[str, Any] = False, **fuse: Any) -> None:
        super().__init__()
        self._convert = Converter(antialias, fuse)

    def after_create(self) -> None:
        """Changes the model, before any checkpoint is loaded into it."""
        self._convert(self.learn.model)

    # For a callback that is added later, or only for one fit.
    before_fit = after_create
