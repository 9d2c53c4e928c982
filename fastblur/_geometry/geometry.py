"""Sizes, paddings and taps of the operation: the Python definition of the geometry.

The C++ definition is ``csrc/geometry.h`` and ``fastblur._C.Plan``.
``tests/kernels/test_geometry.py`` compares both with the shapes that plain PyTorch produces.

Along one axis, with window size ``k``, max padding ``p``, blur padding ``before`` and ``after``,
``f`` taps and stride ``s``::

    pooled = size + 2 p - k + 1
    out    = floor((pooled + before + after - f) / s) + 1
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from .checks import (
    MAX_POOL,
    BlurPadding,
    IntOrPair,
    Pair,
    TapsArgument,
    check_axis,
    check_half,
    check_modes,
    check_not_empty,
    check_stride,
    check_tensor,
    is_integer,
    is_sequence,
    pair,
    taps_of,
)


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
        pool = pair("kernel_size", kernel_size, 1, MAX_POOL)
        pad = pair("padding", padding, 0)
        check_half(pool, pad, kernel_size, padding)
        taps_h, taps_w = taps_of(filter_size, taps)
        check_modes(padding_mode, relu)
        return cls(
            pool,
            pair("stride", stride, 1),
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


FIELDS = tuple(field.name for field in fields(Geometry))


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
        top, bottom = pair("blur_padding", value[:2], 0)
        left, right = pair("blur_padding", value[2:], 0)
        return top, bottom, left, right
    height, width = pair("blur_padding", value, 0)
    return height, height, width, width
