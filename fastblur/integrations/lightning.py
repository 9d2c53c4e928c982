"""fastblur for Lightning: ``Trainer(callbacks=[FastBlur()])``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from torch import nn

from ._convert import Converter

# One class serves the trainers of both packages; each asks for its own Callback.
_INSTALLED = [name for name in ("lightning", "pytorch_lightning") if find_spec(name)]
if not _INSTALLED:
    raise ModuleNotFoundError("FastBlur needs Lightning: pip install lightning", name="lightning")
_CALLBACKS = [
    importlib.import_module(f"{name}.pytorch" if name == "lightning" else name).Callback
    for name in _INSTALLED
]


class FastBlur(*_CALLBACKS):  # type: ignore[misc]  # the bases are those that are installed
    """Runs ``fuse_`` on the LightningModule before checkpoints are loaded and optimizers are made.

    Layers that ``LightningModule.setup`` or ``configure_model`` creates come too late for this
    callback: call ``fuse_`` at the end of that method.

    Args:
        antialias: whether to run ``antialias_`` first; a dict holds its arguments.
        submodule: path of the part of the LightningModule to change; "" is all of it.
        fuse: further arguments of ``fuse_``.

    Raises:
        TypeError: ``antialias`` is neither a bool nor a dict, or an argument has an unknown name.
        AttributeError: in ``setup``, if the module has no such submodule.

    Example:
        >>> trainer = Trainer(callbacks=[FastBlur(antialias={"filter_size": 3})])
    """

    def __init__(
        self, antialias: bool | Mapping[str, Any] = False, *, submodule: str = "", **fuse: Any
    ) -> None:
        self.submodule = submodule
        self._convert = Converter(antialias, fuse)

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Changes the module, before each of fit, validate, test and predict."""
        self._convert(pl_module.get_submodule(self.submodule))
