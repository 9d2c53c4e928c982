"""Sizes, paddings and taps of the operation: the Python definition of the geometry.

The C++ definition is ``csrc/geometry.h`` and ``fastblur._C.Plan``. ``tests/test_geometry.py``
compares both with the shapes that plain PyTorch produces.

Along one axis, with window size ``k``, max padding ``p``, blur padding ``before`` and ``after``,
``f`` taps and stride ``s``::

    pooled = size + 2 p - k + 1
    out    = floor((pooled + before + after - f) / s) + 1
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from ._filters import Row, named

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


@dataclass(frozen=True)
class Geometry:
    """Everything about a call except its input: the arguments of the operators' schemas.

    Pairs are (height, width); ``blur_padding`` is (top, bottom, left, right). Create one with
    :meth:`resolve`, which checks its arguments; the constructor does not.
    """

    kernel_size: Pair
    stride: Pair
    padding: Pair
    taps_h: tuple[float, ...]
    taps_w: tuple[float, ...]
    blur_padding: tuple[int, int, int, int]
    padding_mode: str
    relu: bool

    @classmethod
    def resolve(
        cls,
        kernel_size: IntOrPair = 2,
        stride: IntOrPair = 2,
        padding: IntOrPair = 0,
        filter_size: IntOrPair | None = None,
        taps: TapsArgument | None = None,
        blur_padding: BlurPadding = "same",
        padding_mode: str = "reflect",
        relu: bool = False,
    ) -> Geometry:
        """Checks the arguments of a layer or function and fills in the defaults.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: a value is not allowed.
        """
        check_stride(stride)
        pool = _pair("kernel_size", kernel_size, 1, MAX_POOL)
        pad = _pair("padding", padding, 0)
        check_half(pool, pad, kernel_size, padding)
        taps_h, taps_w = taps_of(filter_size, taps)
        check_modes(padding_mode, relu)
        return cls(
            pool,
            _pair("stride", stride, 1),
            pad,
            taps_h,
            taps_w,
            _blur_padding(blur_padding, len(taps_h), len(taps_w)),
            padding_mode,
            relu,
        )

    def arguments(self) -> tuple[Any, ...]:
        """The fields in order: the arguments of the operators' schemas."""
        return tuple(getattr(self, name) for name in FIELDS)

    def plain(self) -> dict[str, Any]:
        """Arguments of :meth:`resolve` that give the same."""
        values = {name: getattr(self, name) for name in FIELDS}
        return values | {"taps": (values.pop("taps_h"), values.pop("taps_w"))}

    def checked(self) -> Geometry:
        """Checks fields that were not resolved here; raises as :meth:`resolve`."""
        return Geometry.resolve(**self.plain())

    @property
    def linear(self) -> bool:
        """Whether the operation is a blur alone, without winners and codes."""
        return self.kernel_size == (1, 1) and not self.relu

    @property
    def code_bits(self) -> int:
        """Bits of a code: kept for backward per element of the pooled map."""
        rows, columns = self.kernel_size
        return (columns - 1).bit_length() + (rows - 1 + self.relu).bit_length()

    def pooled_size(self, height: int, width: int) -> Pair:
        """Size (height, width) of the pooled map."""
        (k_h, k_w), (p_h, p_w) = self.kernel_size, self.padding
        return height + 2 * p_h - k_h + 1, width + 2 * p_w - k_w + 1

    def output_size(self, height: int, width: int) -> Pair:
        """Size (height, width) of the output; input sizes may be symbolic."""
        m_h, m_w = self.pooled_size(height, width)
        top, bottom, left, right = self.blur_padding
        s_h, s_w = self.stride
        return (
            (m_h + top + bottom - len(self.taps_h)) // s_h + 1,
            (m_w + left + right - len(self.taps_w)) // s_w + 1,
        )

    def largest_map(self, height: int, width: int) -> Pair:
        """Size of the largest pooled map from which the blur makes an output of this size."""
        top, bottom, left, right = self.blur_padding
        s_h, s_w = self.stride
        return (
            s_h * height + len(self.taps_h) - 1 - top - bottom,
            s_w * width + len(self.taps_w) - 1 - left - right,
        )

    def check_input(self, x: Tensor) -> None:
        """Raises TypeError or ValueError if ``x`` does not fit; reads only its metadata."""
        check_tensor(x)
        if x.dim() not in (3, 4):
            raise ValueError(f"input must be [N, C, H, W] or [C, H, W], got shape {tuple(x.shape)}")
        check_not_empty(x, 3)
        height, width = x.shape[-2:]
        top, bottom, left, right = self.blur_padding
        m_h, m_w = self.pooled_size(height, width)
        for axis, size, pooled, before, after, row in (
            ("height", height, m_h, top, bottom, self.taps_h),
            ("width", width, m_w, left, right, self.taps_w),
        ):
            check_axis(self, axis, size, pooled, before, after, len(row))


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


FIELDS = tuple(field.name for field in fields(Geometry))


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
    _pair(name, value, low, high)


def _pair(name: str, value: Any, low: int, high: int | None = None) -> Pair:
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
    if listed and len(taps) == len(axes) and all(map(_is_row, taps)):
        return tuple(_tap_row(f"taps[{i}]", taps[i], several) for i in range(len(axes)))
    return (_tap_row("taps", taps, several),) * len(axes)


def _is_row(taps: Any) -> bool:
    """Whether a value can be one row of taps: numbers or a name."""
    return isinstance(taps, str) or is_sequence(taps)


def _entries(taps: Any) -> Sequence[Any]:
    """The entries of a list or tuple; a tensor reports requires_grad itself."""
    return taps if isinstance(taps, (list, tuple)) else ()


def _tap_row(name: str, taps: Any, several: str) -> Row:
    if isinstance(taps, str):
        return named(name, taps)
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
            f"{name} must be one row of numbers (for a separable filter, one row or a {several} of "
            f"rows), got {taps!r}"
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


def _blur_padding(value: Any, f_h: int, f_w: int) -> tuple[int, int, int, int]:
    if isinstance(value, str) and value == "same":
        return (f_h - 1) // 2, f_h // 2, (f_w - 1) // 2, f_w // 2
    entries = tuple(value) if is_sequence(value) else (value, value)
    known = not isinstance(value, str) and len(entries) in (2, 4)
    if not (known and all(map(is_integer, entries))):
        raise (TypeError if known else ValueError)(
            f"blur_padding must be 'same', an int, (height, width) or (top, bottom, left, right), "
            f"got {value!r}"
        )
    if len(entries) == 4:
        top, bottom = _pair("blur_padding", value[:2], 0)
        left, right = _pair("blur_padding", value[2:], 0)
        return top, bottom, left, right
    height, width = _pair("blur_padding", value, 0)
    return height, height, width, width
