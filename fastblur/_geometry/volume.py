"""The geometry of the 3-D operation, and the 2-D calls that it is made of.

The maximum of ``max_pool3d`` goes to the first of equal values in the order depth, height, width.
That is the order of maxima along the width first, then the height, then the depth. Blurs are
linear and may run in any order, each along its axis. The 2-D operation takes its maximum along its
columns first, then along its rows, so these calls in turn give the values and gradients of the
unfused chain:

1. along the width: the max alone;
2. along the height as columns and the depth as rows: max, blur, subsample, at once;
3. along the width: blur and subsample.

Without a max along the depth, height and width go together at once, and the depth is blurred last.
A call that would change nothing is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

from .checks import (
    MAX_POOL,
    BlurPadding,
    IntOrPair,
    TapsArgument,
    check_axis,
    check_half,
    check_modes,
    check_not_empty,
    check_stride,
    check_tensor,
    is_integer,
    is_sequence,
    sizes,
    taps_of,
)
from .filters import Row
from .geometry import Geometry

AXES = ("depth", "height", "width")

Triple: TypeAlias = tuple[int, int, int]
IntOrTriple: TypeAlias = IntOrPair  # an int or a sequence of ints
Axes: TypeAlias = Literal["depth", "width", "height, width", "depth, height"]


class Pass(NamedTuple):
    """One call of the 2-D operation: the axes that are its rows and columns, or the one of them."""

    axes: Axes
    geometry: Geometry


@dataclass(frozen=True)
class Volume:
    """Everything about a 3-D call except its input.

    Triples are (depth, height, width); ``blur_padding`` is (front, back, top, bottom, left, right).
    Create one with :meth:`resolve`, which checks its arguments; the constructor does not.
    """

    kernel_size: Triple
    stride: Triple
    padding: Triple
    taps: tuple[Row, Row, Row]
    blur_padding: tuple[int, int, int, int, int, int]
    padding_mode: str
    relu: bool
    passes: tuple[Pass, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "passes", self._passes())

    @classmethod
    def resolve(
        cls,
        kernel_size: IntOrTriple = 2,
        stride: IntOrTriple = 2,
        padding: IntOrTriple = 0,
        filter_size: IntOrTriple | None = None,
        taps: TapsArgument | None = None,
        blur_padding: BlurPadding = "same",
        padding_mode: str = "reflect",
        relu: bool = False,
    ) -> Volume:
        """Checks the arguments of a layer or function and fills in the defaults.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: a value is not allowed.
        """
        check_stride(stride, AXES)
        pool = _triple("kernel_size", kernel_size, 1, MAX_POOL)
        pad = _triple("padding", padding, 0)
        check_half(pool, pad, kernel_size, padding)
        in_depth, in_height, in_width = taps_of(filter_size, taps, AXES)
        check_modes(padding_mode, relu)
        steps = _triple("stride", stride, 1)
        rows = in_depth, in_height, in_width
        sides = _blur_padding(blur_padding, rows)
        return cls(pool, steps, pad, rows, sides, padding_mode, relu)

    def plain(self) -> dict[str, Any]:
        """Arguments of :meth:`resolve` that give the same."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def output_size(self, depth: int, height: int, width: int) -> tuple[int, ...]:
        """Size (depth, height, width) of the output; input sizes may be symbolic."""
        return tuple(
            (size + 2 * p - k + 1 + before + after - len(row)) // s + 1
            for size, k, s, p, row, (before, after) in zip(
                *((depth, height, width), self.kernel_size, self.stride, self.padding),
                *(self.taps, self._sides()),
                strict=True,
            )
        )

    def check_input(self, x: Tensor) -> None:
        """Raises TypeError or ValueError if ``x`` does not fit; reads only its metadata."""
        check_tensor(x)
        if x.dim() not in (4, 5):
            raise ValueError(
                f"input must be [N, C, D, H, W] or [C, D, H, W], got shape {tuple(x.shape)}"
            )
        check_not_empty(x, 4)
        for i, (axis, (before, after)) in enumerate(zip(AXES, self._sides(), strict=True)):
            size = x.shape[i - 3]
            pooled = size + 2 * self.padding[i] - self.kernel_size[i] + 1
            check_axis(self, axis, size, pooled, before, after, len(self.taps[i]))

    def _sides(self) -> tuple[tuple[int, int], ...]:
        front, back, top, bottom, left, right = self.blur_padding
        return (front, back), (top, bottom), (left, right)

    def _passes(self) -> tuple[Pass, ...]:
        deep_max, high_max, wide_max = zip(self.kernel_size, self.padding, strict=True)
        deep, high, wide = zip(self.stride, self.taps, self._sides(), strict=True)

        def call(axes: Axes, maxes: Any, blurs: Any, relu: bool = False) -> Pass:
            kernel_size, padding = zip(*maxes, strict=True)
            stride, (taps_h, taps_w), (rows, columns) = zip(*blurs, strict=True)
            sides, mode = (*rows, *columns), self.padding_mode
            geometry = Geometry(kernel_size, stride, padding, taps_h, taps_w, sides, mode, relu)
            return Pass(axes, geometry)

        neither = _NO_MAX, _NO_MAX
        if self.kernel_size[0] == 1:
            calls = [
                call("height, width", (high_max, wide_max), (high, wide), self.relu),
                call("depth", neither, (deep, _NO_BLUR)),
            ]
        else:
            relu_alone = self.relu and wide_max != _NO_MAX
            calls = [
                call("width", (_NO_MAX, wide_max), (_NO_BLUR, _NO_BLUR), relu_alone),
                call("depth, height", (deep_max, high_max), (deep, high), self.relu != relu_alone),
                call("width", neither, (_NO_BLUR, wide)),
            ]
        return tuple(c for c in calls if len(c.axes.split()) == 2 or not _is_identity(c.geometry))


_NO_MAX = (1, 0)  # kernel_size and padding
_NO_BLUR = (1, (1.0,), (0, 0))  # stride, taps and padding


def _is_identity(g: Geometry) -> bool:
    return (
        g.linear
        and g.stride == (1, 1)
        and g.taps_h == g.taps_w == (1.0,)
        and not any(g.blur_padding)
    )


def _triple(name: str, value: Any, low: int, high: int | None = None) -> Triple:
    depth, height, width = sizes(name, value, low, high, AXES)
    return depth, height, width


def _blur_padding(value: Any, rows: tuple[Row, ...]) -> tuple[int, int, int, int, int, int]:
    if isinstance(value, str) and value == "same":
        same = [side for row in rows for side in ((len(row) - 1) // 2, len(row) // 2)]
        front, back, top, bottom, left, right = same
        return front, back, top, bottom, left, right
    entries = tuple(value) if is_sequence(value) else (value,) * 3
    known = not isinstance(value, str) and len(entries) in (3, 6)
    if not (known and all(map(is_integer, entries))):
        raise (TypeError if known else ValueError)(
            f"blur_padding must be 'same', an int, (depth, height, width) or (front, back, top, "
            f"bottom, left, right), got {value!r}"
        )
    if len(entries) == 3:
        entries = tuple(entry for entry in entries for _ in range(2))
    front, top, left = _triple("blur_padding", entries[::2], 0)
    back, bottom, right = _triple("blur_padding", entries[1::2], 0)
    return front, back, top, bottom, left, right
