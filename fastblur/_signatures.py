"""Reject unknown arguments with an error that lists the valid ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Arguments that users expect from torch.nn.MaxPool2d, antialiased_cnns and timm.
_ELSEWHERE = {
    "ceil_mode": "blur_padding sets the output size",
    "dilation": "dilated windows are not supported",
    "return_indices": "the winners are kept for backward only",
    "channels": "any number of channels is accepted",
    "filt_size": "use filter_size",
    "pad_type": "use padding_mode",
    "scale_factor": "use stride",
    "size": "the output is stride times as large as the input",
    "mode": "the taps choose it: two are nearest, four are bilinear",
    "align_corners": "it is False, as far as the filter can be centred",
}


def names_its_arguments(function: _Function) -> _Function:
    """Decorator: calls with unknown arguments raise a TypeError that lists the valid ones.

    A layer that is given ``channels`` raises a ValueError.
    """
    parameters = inspect.signature(function).parameters
    names = arguments_of(function)
    known = frozenset(names)
    by_position = [n for n in names if parameters[n].kind is not inspect.Parameter.KEYWORD_ONLY]
    itself = len(parameters) - len(names)  # 1 for a method, 0 for a function
    called = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not known.issuperset(kwargs):
            if itself and "channels" in kwargs:
                # No TypeError: timm would then call again with its stride as the first argument.
                raise ValueError(
                    f"{called} has no argument 'channels', for it accepts any number of them; as "
                    f"timm's aa_layer, use fastblur.integrations.timm.BlurPool2d"
                )
            check_names(called, kwargs, names)
        if len(args) - itself > len(by_position):
            raise TypeError(
                f"{called} takes only {', '.join(by_position)} as positional arguments, got "
                f"{len(args) - itself} positional arguments; pass the others by keyword"
            )
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments, in order, without ``self``."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def check_names(called: str, given: Iterable[str], names: list[str]) -> None:
    """Raise TypeError if a given name is not in ``names``."""
    for name in given:
        if name not in names:
            hint = f" ({_ELSEWHERE[name]})" if name in _ELSEWHERE else ""
            raise TypeError(
                f"{called} has no argument {name!r}{hint}; valid arguments: {', '.join(names)}"
            )
