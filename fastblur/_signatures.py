"""Calls with arguments that there are not: errors that tell which there are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

# What people are used to from torch.nn.MaxPool2d, antialiased_cnns and timm.
_ELSEWHERE = {
    "ceil_mode": "blur_padding decides the size of the result",
    "dilation": "the windows of the max have no gaps",
    "return_indices": "the winners are kept for backward alone",
    "channels": "any number of channels is served",
    "filt_size": "the number of taps is filter_size",
    "pad_type": "the border is padding_mode",
}


def names_its_arguments(function: _Function) -> _Function:
    """Makes a call with other arguments raise a TypeError that names those there are."""
    parameters = inspect.signature(function).parameters
    names = arguments_of(function)
    known = frozenset(names)
    by_position = [n for n in names if parameters[n].kind is not inspect.Parameter.KEYWORD_ONLY]
    itself = len(parameters) - len(names)  # 1 for a method, 0 for a function
    called = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not known.issuperset(kwargs):
            check_names(called, kwargs, names)
        if len(args) - itself > len(by_position):
            raise TypeError(
                f"{called} takes {', '.join(by_position)} by position and the others by name, got "
                f"{len(args) - itself} by position"
            )
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """Their names, in order."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def check_names(called: str, given: Iterable[str], names: list[str]) -> None:
    """Raises TypeError unless each of the names that were given is one of ``names``."""
    for name in given:
        if name not in names:
            hint = f" ({_ELSEWHERE[name]})" if name in _ELSEWHERE else ""
            raise TypeError(f"{called} has no argument {name!r}{hint}; it has {', '.join(names)}")
