"""fastblur for Composer: ``Trainer(algorithms=[FastBlur()])``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.core import Algorithm, Event, State
from composer.loggers import Logger

from ._convert import Converter


class FastBlur(Algorithm):
    """Runs ``fuse_`` on the model on ``Event.INIT``.

    Put it behind Composer's ``BlurPool``: it then fuses the layers that ``BlurPool`` made.

    Args:
        antialias: whether to run ``antialias_`` first; a dict holds its arguments.
        fuse: further arguments of ``fuse_``.

    Raises:
        TypeError: ``antialias`` is neither a bool nor a dict, or an argument has an unknown name.

    Example:
        >>> trainer = Trainer(model, algorithms=[BlurPool(), FastBlur()])
    """

    def __init__(self, antialias: bool | Mapping[str, Any] = False, **fuse: Any) -> None:
        self._convert = Converter(antialias, fuse)

    def __repr__(self) -> str:
        fuse = "".join(f", {name}={value!r}" for name, value in self._convert.fuse.items())
        return f"FastBlur(antialias={self._convert.antialias!r}{fuse})"

    def match(self, event: Event, state: State) -> bool:
        """Whether the event is ``Event.INIT``, which precedes the loading of checkpoints."""
        return bool(event == Event.INIT)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Changes the model."""
        self._convert(state.model)
