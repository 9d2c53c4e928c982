"""All that the CPU kernels of one target do with a case, and what must come out.

A driver calls the kernels by addresses: that of mutants/kernels.py those of a changed tree, that of
aarch64/program.py those of another processor, and Installed those of the installed extension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from fastblur._backends import compiled
from testing.cases import MODES, Case, fill, in_format, short, zhang
from testing.judge import Answer, answer
from testing.oracle import check

LAST = "nan in the last column"  # of x, where no window has it as its first candidate
TILE = "nan where a tile begins"  # which the tile before sees as a later candidate alone
KINDS = ("normal", "ties", "nan", "inf", LAST, TILE)
MARGIN = 256  # bytes beside each result that no kernel may touch
Results = dict[str, Tensor]
Driver = Callable[[Case, Tensor, Tensor, bool, int], Results]  # x, dy, channels_last, shares

# What the case list does not have: rows that are cut into tiles, bands, and each ending of a row.
MORE = [
    *(zhang(k, 4, pad=(k // 3,) * 2, relu=relu, shape=(1, 1, 9, 1100))
      for k in (1, 2, 3) for relu in (False, True)),
    *(zhang(k, f, pad=(k // 3,) * 2, shape=(2, 40, 11, 30)) for k in (1, 2, 3) for f in (3, 4)),
    *(zhang(k, f, relu=True, pad=(k // 3,) * 2, shape=(1, 3, 70, 90))
      for k in (1, 2, 3) for f in (2, 5)),
    *(zhang(2, 3, mode=mode, shape=(1, 9, 12, 21)) for mode in MODES),
    *(short(k, k // 3, f, 0) for k in (1, 2, 3) for f in (4, 5)),
    *(zhang(k, 4, pad=(k // 3,) * 2, shape=(1, 77, 6, 5)) for k in (1, 2, 3)),
]  # fmt: skip


@cache
def expected(case: Case, kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Answer]:
    x = fill(case.shape, "normal" if kind in (LAST, TILE) else kind, dtype)
    n, c, h, w = case.shape
    if kind == LAST:
        x[..., -1:] = torch.nan
    if kind == TILE and w > 512:
        x[..., 512] = torch.nan
    if kind == TILE and w * c > 512:  # of a row in channels_last
        x[:, 512 % c, :, 512 // c] = torch.nan
    dy = fill((n, c, *case.geometry().output_size(h, w)), "normal", dtype, seed=1)
    return x, dy, answer(x, dy, *case.chain())


def check_all(results: Results, want: Answer) -> None:
    """Fails unless each result is what the judge says, who knows no codes."""
    for name, ours in results.items():
        if name == "codes":
            continue
        exact = (want.dx, want.dx_size) if name == "dx" else (want.y, want.y_size)
        check(name, ours, *(t.numpy() for t in exact))


def rounds_to_even(driver: Driver, dtype: torch.dtype) -> bool:
    """Whether means of two neighbours among all numbers are rounded as torch rounds them."""
    case = Case((1, 1), (1, 1), taps_h=(1.0,), taps_w=(0.5, 0.5), blur_pad=(0,) * 4)
    case = replace(case, shape=(1, 1, 256, 256))
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(case.shape)
    x = torch.where(x.isfinite(), x, 0)
    dy = torch.zeros(1, 1, 256, 255, dtype=dtype)
    want = (x[..., 1:].double() / 2 + x[..., :-1].double() / 2).float().to(dtype)
    return torch.equal(driver(case, x, dy, False, 1)["y"], want)


def both_cuts(
    driver: Driver, case: Case, x: Tensor, dy: Tensor, channels_last: bool
) -> tuple[Results, Results]:
    """The results with the rows in one share and in five, after a check of the codes."""
    one, five = (driver(case, x, dy, channels_last, shares) for shares in (1, 5))
    if not torch.equal(one["codes"], five["codes"]):
        raise AssertionError("codes depend on how the rows are shared out")
    _, c, _, w = case.shape
    _, m_w = case.geometry().pooled_size(*case.shape[2:])
    length = max(w, m_w) * (c if channels_last else 1)
    behind = 0xFF & ~((1 << length % 8) - 1) if length % 8 else 0
    if (one["codes"].view(-1, (length + 7) // 8)[:, -1] & behind).any():
        raise AssertionError("codes have bits behind the end of a row")
    return one, five


def sizes_of(case: Case, channels_last: bool) -> list[int]:
    """As drivers.h has them."""
    pairs = (*case.pool, *case.stride, *case.pad, len(case.taps_h), len(case.taps_w))
    return [*case.shape, int(channels_last), *pairs, *case.blur_pad, int(case.relu)]


class Installed:
    """The kernels of the installed extension, on one of its targets."""

    def __init__(self, level: str) -> None:
        self.level = level

    def __call__(
        self, case: Case, x: Tensor, dy: Tensor, channels_last: bool, shares: int
    ) -> Results:
        geometry, before = case.geometry().arguments(), compiled.C.cpu.target()
        inputs = [in_format(t, channels_last) for t in (x, dy)]
        call = compiled.CPU.call(geometry, tuple(x.shape), channels_last, x)
        rooms = Rooms(x, dy, math.prod(call.codes_shape), channels_last)
        y, without, applied, codes, dx = (room.result.data_ptr() for room in rooms.values())
        at_x, at_dy = (t.data_ptr() for t in inputs)
        compiled.C.cpu.set_target(self.level)
        try:
            call.native.forward(at_x, y, codes, shares)
            call.native.forward(at_x, without, 0, shares)
            call.native.apply(at_x, codes, applied, shares)
            call.native.backward(at_dy, codes, dx, shares)
        finally:
            compiled.C.cpu.set_target(before)
        return rooms.results()


class Rooms(dict[str, "Room"]):
    """For what run_all of drivers.h writes, in its order."""

    def __init__(self, x: Tensor, dy: Tensor, code_bytes: int, channels_last: bool) -> None:
        codes = torch.empty(code_bytes, dtype=torch.uint8)
        likes = dict(y=dy, without=dy, applied=dy, codes=codes, dx=x)
        super().__init__({name: Room(like, channels_last) for name, like in likes.items()})

    def results(self) -> Results:
        """Fails if something was written beside them."""
        for name, room in self.items():
            if not room.is_whole():
                raise AssertionError(f"{name} is written beyond its memory")
        return {name: room.result for name, room in self.items()}


class Room:
    """Memory for a result like a tensor, with margins that show who writes there."""

    def __init__(self, like: Tensor, channels_last: bool) -> None:
        self.bytes = torch.full((like.nbytes + 2 * MARGIN,), 0xA5, dtype=torch.uint8)
        inner = self.bytes[MARGIN : MARGIN + like.nbytes].view(like.dtype)
        self.result = inner.view(like.shape)
        if channels_last and like.dim() == 4:
            n, c, h, w = like.shape
            self.result = inner.view(n, h, w, c).permute(0, 3, 1, 2)

    def is_whole(self) -> bool:
        return bool((self.bytes[:MARGIN] == 0xA5).all() and (self.bytes[-MARGIN:] == 0xA5).all())
