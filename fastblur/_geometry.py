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
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ._filters import named

MAX_POOL = 15
MAX_TAPS = 31
MAX_EXTENT = 2**31 - 1  # largest stride or padding
FILTER_SIZE = 4  # the default, used by most published anti-aliased models

PaddingMode: TypeAlias = Literal["reflect", "replicate", "zeros", "circular"]
PADDING_MODES: tuple[str, ...] = get_args(PaddingMode)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

Pair: TypeAlias = tuple[int, int]
IntOrPair: TypeAlias = int | Sequence[int]
Taps: TypeAlias = str | Sequence[float] | Tensor
TapsArgument: TypeAlias = Taps | Sequence[Taps]
BlurPadding: TypeAlias = Literal["same"] | int | Sequence[int]


def binomial_taps(filter_size: int) -> tuple[float, ...]:
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
        for k, p in zip(pool, pad, strict=True):
            if 2 * p > k:
                raise ValueError(
                    f"padding must be at most half of kernel_size, got padding={padding!r} for "
                    f"kernel_size={kernel_size!r}"
                )
        taps_h, taps_w = _taps_of(filter_size, taps)
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding_mode must be one of {', '.join(map(repr, PADDING_MODES))}, got "
                f"{padding_mode!r}"
            )
        if not isinstance(relu, bool):
            raise TypeError(f"relu must be True or False, got {relu!r}")
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
        if not isinstance(x, Tensor):
            raise TypeError(f"input must be a torch.Tensor, got {type(x).__name__}")
        if x.layout is not torch.strided or x.is_quantized or x.is_nested:
            kind = f"layout {x.layout}"
            if x.layout is torch.strided:
                kind = "a quantised tensor" if x.is_quantized else "a nested tensor"
            raise TypeError(f"input must be a dense tensor, got {kind}")
        if x.dtype not in DTYPES:
            raise TypeError(f"input must be float32, float64, float16 or bfloat16, got {x.dtype}")
        if x.dim() not in (3, 4):
            raise ValueError(f"input must be [N, C, H, W] or [C, H, W], got shape {tuple(x.shape)}")
        channels, height, width = x.shape[-3:]
        if channels < 1 or height < 1 or width < 1:
            raise ValueError(f"input may be empty only along the batch, got shape {tuple(x.shape)}")
        top, bottom, left, right = self.blur_padding
        m_h, m_w = self.pooled_size(height, width)
        self._check_axis("height", height, m_h, 0, top, bottom, len(self.taps_h))
        self._check_axis("width", width, m_w, 1, left, right, len(self.taps_w))

    def _check_axis(
        self, side: str, size: int, pooled: int, axis: int, before: int, after: int, n_taps: int
    ) -> None:
        if pooled < 1:
            raise ValueError(
                f"kernel_size {self.kernel_size} with padding {self.padding} is larger than the "
                f"input, whose {side} is {size}"
            )
        widest = max(before, after)
        if self.padding_mode == "reflect" and widest >= pooled:
            raise ValueError(
                f"padding_mode 'reflect' needs a blur_padding smaller than the pooled map: got "
                f"{widest} for a {side} of {pooled} (input {size}); 'replicate' and 'zeros' have "
                f"no such limit"
            )
        if self.padding_mode == "circular" and widest > pooled:
            raise ValueError(
                f"padding_mode 'circular' needs a blur_padding no larger than the pooled map: got "
                f"{widest} for a {side} of {pooled} (input {size})"
            )
        if pooled + before + after < n_taps:
            raise ValueError(
                f"the filter's {n_taps} taps are longer than the padded pooled map, "
                f"{pooled + before + after} along the {side} (input {size})"
            )


FIELDS = tuple(field.name for field in fields(Geometry))


def is_integer(value: Any) -> bool:
    """Whether a value is an int or acts as one, like an array scalar; bools do not count."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _integer(name: str, value: Any) -> int:
    if not is_integer(value):
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    return operator.index(value)


def is_sequence(value: Any) -> bool:
    """Whether a value is a list, a tuple, or a tensor or array with a length."""
    if isinstance(value, (str, bytes, dict)):
        return False
    return hasattr(value, "__getitem__") and getattr(value, "ndim", 1) > 0


def check_stride(stride: Any) -> None:
    """Raises for None, which means ``kernel_size`` in ``torch.nn.MaxPool2d``."""
    if stride is None:
        raise TypeError(
            "stride must be an int or a pair of ints, got None; the default is 2, not kernel_size "
            "as in torch.nn.MaxPool2d"
        )


def check_scalar(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises if ``value`` is not an int from ``low`` to ``high``."""
    if is_sequence(value) or isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {value!r}")
    _pair(name, value, low, high)


def _pair(name: str, value: Any, low: int, high: int | None = None) -> Pair:
    if is_sequence(value):
        if len(value) != 2:
            raise ValueError(f"{name} must be an int or a (height, width) pair, got {value!r}")
        pair = (_integer(name, value[0]), _integer(name, value[1]))
    else:
        pair = (_integer(name, value),) * 2
    for entry in pair:
        if entry < low or entry > (MAX_EXTENT if high is None else high):
            most = MAX_EXTENT if high is None and entry > low else high
            allowed = f"{low} or more" if most is None else f"{low} to {most}"
            raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return pair


def _taps_of(filter_size: Any, taps: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if taps is None:
        size = FILTER_SIZE if filter_size is None else filter_size
        f_h, f_w = _pair("filter_size", size, 1, MAX_TAPS)
        return binomial_taps(f_h), binomial_taps(f_w)
    rows = _split_taps(taps)
    numbers = len(rows[0]), len(rows[1])
    if filter_size is not None and _pair("filter_size", filter_size, 1, MAX_TAPS) != numbers:
        raise ValueError(
            f"filter_size must be omitted or equal to the number of taps if taps are given, got "
            f"filter_size={filter_size!r} for {numbers} taps"
        )
    return rows


def _split_taps(taps: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not _is_row(taps):
        raise TypeError(
            f"taps must be a sequence of numbers, the name of a filter, or a pair of these, got "
            f"{taps!r}"
        )
    # An array of two rows could be a 2x2 filter; a list or tuple of two rows is a pair.
    several = is_sequence(taps) and not hasattr(taps, "tolist")
    if several and len(taps) == 2 and all(map(_is_row, taps)):
        return _tap_row("taps[0]", taps[0]), _tap_row("taps[1]", taps[1])
    row = _tap_row("taps", taps)
    return row, row


def _is_row(taps: Any) -> bool:
    """Whether a value can be one row of taps: numbers or a name."""
    return isinstance(taps, str) or is_sequence(taps)


def _entries(taps: Any) -> Sequence[Any]:
    """The entries of a list or tuple; a tensor reports requires_grad itself."""
    return taps if isinstance(taps, (list, tuple)) else ()


def _tap_row(name: str, taps: Any) -> tuple[float, ...]:
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
            f"{name} must be one row of numbers (for a separable filter, one row or a pair of "
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
