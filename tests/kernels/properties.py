"""Random calls for the properties, and what each backend must make of them.

`Example` is drawn by `examples()`: geometry, dtype, values with ties, NaN and infinities, and how x
and the gradient lie in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from testing import oracle
from testing.cases import MODES, Case, fill
from testing.judge import binomial

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
KINDS = ("normal", "ties", "nan", "inf")
PLACES = ("contiguous", "channels_last", "offset", "sliced", "turned", "expanded", "row", "image")
TAPS = (0.25, 0.5, 1.0, -0.5, 0.0, 2.0, 0.1, -1.25, 0.7)
MAX_ELEMENTS = 6_000


def share(part: float) -> settings:
    """Settings that run a part of the profile's examples."""
    return settings(max_examples=max(1, round(settings.default.max_examples * part)))  # type: ignore[union-attr]


def lay(values: Tensor, place: str) -> Tensor:
    """The values at a place in memory; where that repeats elements, the first of them."""
    n, c, h, w = values.shape
    if place == "channels_last":
        return values.to(memory_format=torch.channels_last)
    if place == "offset":  # every element's address is odd, so to say
        return torch.cat([values.new_zeros(1), values.flatten()])[1:].view(values.shape)
    if place == "sliced":
        room = values.new_full((2 * n + 1, c + 3, 2 * h + 1, 3 * w + 2), torch.nan)
        view = room[1::2, 2 : 2 + c, 1::2, 2::3]
        return view.copy_(values)
    if place == "turned":
        return values.transpose(2, 3).contiguous().transpose(2, 3)
    if place == "expanded":
        return values[:, :1].contiguous().expand(n, c, h, w)
    if place == "row":
        return values[:, :, :1].contiguous().expand(n, c, h, w)
    if place == "image":
        return values[:1].contiguous().expand(n, c, h, w)
    return values


@dataclass(frozen=True)
class Example:
    case: Case
    dtype: torch.dtype
    kind: str
    place: str
    dy_place: str
    seed: int

    def __repr__(self) -> str:
        rest = (self.dtype, self.kind, self.place, self.dy_place, self.seed)
        return f"Example({self.case!r}, {', '.join(map(repr, rest))})"

    def x(self) -> Tensor:
        return lay(fill(self.case.shape, self.kind, self.dtype, self.seed), self.place)

    def dy(self) -> Tensor:
        size = (*self.case.shape[:2], *self.case.geometry().output_size(*self.case.shape[2:]))
        return lay(fill(size, "normal", self.dtype, self.seed + 1), self.dy_place)

    @cached_property
    def answer(self) -> oracle.Answer:
        return oracle.answer(self.x(), self.dy(), self.case)

    def judge(self, name: str, run: Callable[[Tensor], Tensor], roundings: float = 1.0) -> None:
        """Runs a backend on this, forwards and backwards, and compares with the oracle."""
        leaf, dy = self.x().detach().requires_grad_(), self.dy()
        before = leaf.detach().clone()
        y = run(leaf)
        (dx,) = torch.autograd.grad(y, leaf, dy)
        assert y.dtype == dx.dtype == self.dtype
        same = torch.equal(*(t.nan_to_num(nan=12345.0) for t in (leaf.detach(), before)))
        assert same, f"{name} writes into its input"
        oracle.check(f"{name} y", y, self.answer.y, self.answer.y_size, roundings)
        oracle.check(f"{name} dx", dx, self.answer.dx, self.answer.dx_size, roundings)


@st.composite
def axes(draw: st.DrawFn, mode: str, like_users: bool, longest: int) -> tuple[object, ...]:
    """One axis: (size, pool, stride, pad, taps, before, after)."""
    pool = draw(st.integers(1, 3) if like_users else st.integers(1, 15))
    pad = draw(st.integers(0, pool // 2))
    size = max(pool - 2 * pad, 1) + draw(st.integers(0, longest))
    pooled = size + 2 * pad - pool + 1
    stride = 2 if like_users else draw(st.integers(1, 9))
    most = {"reflect": pooled - 1, "circular": pooled}.get(mode, 2 * pooled + 3)
    before, after = draw(st.integers(0, min(most, 12))), draw(st.integers(0, min(most, 12)))
    f = draw(st.integers(1, min(pooled + before + after, 5 if like_users else 31)))
    if like_users and f // 2 <= most:
        before, after = (f - 1) // 2, f // 2
        f = min(f, pooled + before + after)
    if draw(st.booleans()):
        return size, pool, stride, pad, tuple(binomial(f)), before, after
    taps = tuple(draw(st.lists(st.sampled_from(TAPS), min_size=f, max_size=f)))
    return size, pool, stride, pad, taps, before, after


@st.composite
def examples(
    draw: st.DrawFn,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    places: tuple[str, ...] = PLACES,
    max_elements: int = MAX_ELEMENTS,
) -> Example:
    mode = draw(st.sampled_from(MODES))
    like_users = draw(st.booleans())
    square = like_users and draw(st.booleans())
    w = draw(axes(mode, like_users, 70))
    h = (w[0], *w[1:]) if square else draw(axes(mode, like_users, 24))
    area = int(h[0]) * int(w[0])  # type: ignore[call-overload]
    c = draw(st.integers(1, max(1, min(34, max_elements // area))))
    n = draw(st.integers(1, max(1, min(3, max_elements // (c * area)))))
    n *= draw(st.integers(0, 19)) != 7  # an empty batch now and then
    case = Case(
        (h[1], w[1]), (h[2], w[2]), (h[3], w[3]), h[4], w[4],  # type: ignore[arg-type]
        (h[5], h[6], w[5], w[6]), mode, draw(st.booleans()), (n, c, h[0], w[0]),  # type: ignore[arg-type]
    )  # fmt: skip
    return Example(
        case,
        draw(st.sampled_from(dtypes)),
        draw(st.sampled_from(KINDS)),
        draw(st.sampled_from(places)),
        draw(st.sampled_from(PLACES)),
        draw(st.integers(0, 2**16)),
    )
