"""The arguments of all operations: what is allowed, and the errors that say so."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from .filters import FILTERS, Row, named

MAX_POOL = 15
MAX_TAPS = 31
MAX_EXTENT = 2**31 - 1  # largest stride or padding
FILTER_SIZE = 4  # the default, used by most published anti-aliased models

PaddingMode: TypeAlias = Literal["reflect", "replicate", "zeros", "circular"]
PADDING_MODES: tuple[str, ...] = get_args(PaddingMode)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

AXES = ("height", "width")

Pair: TypeAlias = tuple[int, int]
IntOrPair: TypeAlias = int | Sequence[int]
Taps: TypeAlias = str | Sequence[float] | Tensor
TapsArgument: TypeAlias = Taps | Sequence[Taps]
BlurPadding: TypeAlias = Literal["same"] | int | Sequence[int]


def binomial_taps(filter_size: int) -> Row:
    """Row ``filter_size - 1`` of Pascal's triangle divided by its sum (Zhang 2019, section 4)."""
    n = filter_size - 1
    return tuple(math.comb(n, i) / 2**n for i in range(filter_size))


class Window(Protocol):
    """What a check of one axis reads of a geometry."""

    @property
    def kernel_size(self) -> tuple[int, ...]: ...
    @property
    def padding(self) -> tuple[int, ...]: ...
    @property
    def padding_mode(self) -> str: ...


def check_axis(
    of: Window, axis: str, size: int, pooled: int, before: int, after: int, n_taps: int
) -> None:
    """Raises ValueError if an axis of the input does not fit."""
    if pooled < 1:
        raise ValueError(
            f"kernel_size {of.kernel_size} with padding {of.padding} is larger than the "
            f"input, whose {axis} is {size}"
        )
    widest = max(before, after)
    if of.padding_mode == "reflect" and widest >= pooled:
        raise ValueError(
            f"padding_mode 'reflect' needs a blur_padding smaller than the pooled map: got "
            f"{widest} for a {axis} of {pooled} (input {size}); 'replicate' and 'zeros' have "
            f"no such limit"
        )
    if of.padding_mode == "circular" and widest > pooled:
        raise ValueError(
            f"padding_mode 'circular' needs a blur_padding no larger than the pooled map: got "
            f"{widest} for a {axis} of {pooled} (input {size})"
        )
    if pooled + before + after < n_taps:
        raise ValueError(
            f"the filter's {n_taps} taps are longer than the padded pooled map, "
            f"{pooled + before + after} along the {axis} (input {size})"
        )


def check_tensor(x: Any) -> None:
    """Raises TypeError unless ``x`` is a dense tensor of a dtype that is supported."""
    if not isinstance(x, Tensor):
        raise TypeError(f"input must be a torch.Tensor, got {type(x).__name__}")
    if x.layout is not torch.strided or x.is_quantized or x.is_nested:
        kind = f"layout {x.layout}"
        if x.layout is torch.strided:
            kind = "a quantised tensor" if x.is_quantized else "a nested tensor"
        raise TypeError(f"input must be a dense tensor, got {kind}")
    if x.dtype not in DTYPES:
        raise TypeError(f"input must be float32, float64, float16 or bfloat16, got {x.dtype}")


def check_not_empty(x: Tensor, last: int) -> None:
    """Raises ValueError if one of the last axes has no element."""
    for size in x.shape[-last:]:  # a loop, because compiled code calls this
        if size < 1:
            raise ValueError(f"input may be empty only along the batch, got shape {tuple(x.shape)}")


def check_half(
    pool: tuple[int, ...], pad: tuple[int, ...], kernel_size: IntOrPair, padding: IntOrPair
) -> None:
    """Raises ValueError if a padding of the max is more than half of its window."""
    if any(2 * p > k for k, p in zip(pool, pad, strict=True)):
        raise ValueError(
            f"padding must be at most half of kernel_size, got padding={padding!r} for "
            f"kernel_size={kernel_size!r}"
        )


def check_modes(padding_mode: Any, relu: Any) -> None:
    """Raises unless the padding mode is known and ``relu`` is a bool."""
    if padding_mode not in PADDING_MODES:
        raise ValueError(
            f"padding_mode must be one of {', '.join(map(repr, PADDING_MODES))}, got "
            f"{padding_mode!r}"
        )
    if not isinstance(relu, bool):
        raise TypeError(f"relu must be True or False, got {relu!r}")


def is_integer(value: Any) -> bool:
    """Whether a value is an int or acts as one, like an array scalar; bools do not count."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _integer(name: str, value: Any, several: str) -> int:
    if not is_integer(value):
        raise TypeError(f"{name} must be an int or a {several} of ints, got {value!r}")
    return operator.index(value)


def is_sequence(value: Any) -> bool:
    """Whether a value is a list, a tuple, or a tensor or array with a length."""
    if isinstance(value, (str, bytes, dict)):
        return False
    return hasattr(value, "__getitem__") and getattr(value, "ndim", 1) > 0


def check_stride(stride: Any, axes: tuple[str, ...] = AXES) -> None:
    """Raises for None, which means ``kernel_size`` in ``torch.nn.MaxPool2d``."""
    if stride is None:
        raise TypeError(
            f"stride must be an int or a {_several(axes)} of ints, got None; the default is 2, not "
            f"kernel_size as in torch.nn.MaxPool{len(axes)}d"
        )


def _several(axes: tuple[str, ...]) -> str:
    return {2: "pair", 3: "triple"}[len(axes)]


def check_scalar(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises if ``value`` is not an int from ``low`` to ``high``."""
    if is_sequence(value) or isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {value!r}")
    pair(name, value, low, high)


def pair(name: str, value: Any, low: int, high: int | None = None) -> Pair:
    """:func:`sizes` of height and width."""
    height, width = sizes(name, value, low, high)
    return height, width


def sizes(
    name: str, value: Any, low: int, high: int | None = None, axes: tuple[str, ...] = AXES
) -> tuple[int, ...]:
    """One int for each axis, from an int for all or one for each.

    Raises:
        TypeError, ValueError: ``value`` is something else, or not from ``low`` to ``high``.
    """
    several = _several(axes)
    if is_sequence(value):
        if len(value) != len(axes):
            raise ValueError(
                f"{name} must be an int or a ({', '.join(axes)}) {several}, got {value!r}"
            )
        entries = tuple(_integer(name, value[i], several) for i in range(len(axes)))
    else:
        entries = (_integer(name, value, several),) * len(axes)
    for entry in entries:
        if entry < low or entry > (MAX_EXTENT if high is None else high):
            most = MAX_EXTENT if high is None and entry > low else high
            allowed = f"{low} or more" if most is None else f"{low} to {most}"
            raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return entries


def taps_of(filter_size: Any, taps: Any, axes: tuple[str, ...] = AXES) -> tuple[Row, ...]:
    """The taps along each axis."""
    if taps is None:
        size = FILTER_SIZE if filter_size is None else filter_size
        return tuple(map(binomial_taps, sizes("filter_size", size, 1, MAX_TAPS, axes)))
    rows = _split_taps(taps, axes)
    numbers = tuple(map(len, rows))
    if filter_size is not None and sizes("filter_size", filter_size, 1, MAX_TAPS, axes) != numbers:
        raise ValueError(
            f"filter_size must be omitted or equal to the number of taps if taps are given, got "
            f"filter_size={filter_size!r} for {numbers} taps"
        )
    return rows


def _split_taps(taps: Any, axes: tuple[str, ...]) -> tuple[Row, ...]:
    several = _several(axes)
    if not _is_row(taps):
        raise TypeError(
            f"taps must be a sequence of numbers, the name of a filter, or a {several} of these, "
            f"got {taps!r}"
        )
    # An array of rows could be a filter of two axes; a list or tuple of rows is one for each axis.
    listed = is_sequence(taps) and not hasattr(taps, "tolist")
    if listed and len(taps) not in (0, len(axes)) and all(map(_is_row_for_sure, taps)):
        raise ValueError(
            f"taps must be one row for all axes or a {several} of rows ({', '.join(axes)}), got "
            f"{taps!r}"
        )
    if listed and len(taps) == len(axes) and all(map(_is_row, taps)):
        return tuple(tap_row(f"taps[{i}]", taps[i]) for i in range(len(axes)))
    return (tap_row("taps", taps),) * len(axes)


def _is_row(taps: Any) -> bool:
    """Whether a value can be one row of taps: numbers or a name."""
    return isinstance(taps, str) or is_sequence(taps)


def _is_row_for_sure(taps: Any) -> bool:
    """Whether a value cannot be one number: not one in quotes, for example."""
    return is_sequence(taps) or (isinstance(taps, str) and taps in FILTERS)


def _entries(taps: Any) -> Sequence[Any]:
    """The entries of a list or tuple; a tensor reports requires_grad itself."""
    return taps if isinstance(taps, (list, tuple)) else ()


def tap_row(name: str, taps: Any) -> Row:
    """One row of taps, from numbers or a name.

    Raises:
        TypeError, ValueError: ``taps``, which the error calls ``name``, is no such row.
    """
    if isinstance(taps, str):
        return named(name, taps)
    if not is_sequence(taps):
        raise TypeError(f"{name} must be a sequence of numbers, got {taps!r}")
    if any(getattr(value, "requires_grad", False) for value in (taps, *_entries(taps))):
        raise ValueError(f"{name} must be constant, got a tensor that requires grad")
    try:
        values = taps.tolist() if hasattr(taps, "tolist") else taps
    except RuntimeError:  # a tensor without readable numbers: sparse, or on meta
        raise TypeError(f"{name} must be a sequence of numbers, got {taps!r}") from None
    if not 1 <= len(values) <= MAX_TAPS:
        raise ValueError(f"{name} must have 1 to {MAX_TAPS} entries, got {len(values)}")
    if any(map(is_sequence, values)):
        raise TypeError(
            f"{name} must be one row of numbers for each axis, whose outer product is the filter, "
            f"got {taps!r}"
        )
    try:
        if any(isinstance(value, (str, bytes)) for value in values):
            raise TypeError
        row = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a sequence of numbers, got {taps!r}") from None
    except OverflowError:
        raise ValueError(f"{name} must be finite, got {taps!r}") from None
    if not all(math.isfinite(value) for value in row):
        raise ValueError(f"{name} must be finite, got {row}")
    return row
