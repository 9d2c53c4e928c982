"""Whether a call computes what the layer is, to rounding: asked before it is timed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .baselines import Rival
from .workloads import Workload

IMAGES = 4  # of a batch, that are looked at, the first and the last among them
OUR_ROUNDING, THEIR_ROUNDING = 4.0, 16.0  # units in the last place of the largest result


class WrongResult(AssertionError):
    """A rival, or fastblur, computes something else."""


class Judge:
    """The unfused chain in float64, on some images of one workload's input."""

    def __init__(self, workload: Workload, x: Tensor, dy: Tensor) -> None:
        self.workload = workload
        last = workload.shape[0] - 1
        self.images = sorted({round(last * i / (IMAGES - 1)) for i in range(IMAGES)})
        self.x, self.dy = x[self.images].double(), dy[self.images].double()
        self._results: dict[str, tuple[Tensor, Tensor]] = {}

    def check(self, name: str, rival: Rival, mode: str, got: tuple[Tensor, ...]) -> None:
        """Raises WrongResult unless result and gradient, whichever the mode returns, are right."""
        allowed = OUR_ROUNDING if "fastblur" in name else THEIR_ROUNDING
        for what, mine, truth in self._pairs(rival, mode, got):
            if mine.dtype != self.workload.dtype or mine.shape[1:] != truth.shape[1:]:
                raise WrongResult(
                    f"{name}, {self.workload}, {mode}: the {what} is {mine.dtype} "
                    f"{list(mine.shape)}, and should be {self.workload.dtype} [N, "
                    f"{', '.join(map(str, truth.shape[1:]))}]"
                )
            unit = torch.finfo(self.workload.dtype).eps * truth.abs().max().item()
            off = (mine[self.images].double() - truth).abs()
            if what == "gradient" and rival.shares_ties:
                off = off.masked_fill(self._tied(), 0)
            error = off.max().item() / unit
            if not error <= allowed:
                raise WrongResult(
                    f"{name}, {self.workload}, {mode}: the {what} is off by {error:.3g} units in "
                    f"the last place of the largest, and {allowed:g} are allowed"
                )

    def _pairs(
        self, rival: Rival, mode: str, got: tuple[Tensor, ...]
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        y, dx = self._judged(rival.border)
        if mode != "backward":
            yield "result", got[0], y
        if mode in ("backward", "full"):
            yield "gradient", got[-1], dx

    def _judged(self, border: str) -> tuple[Tensor, Tensor]:
        if border not in self._results:
            self._results[border] = self.workload.answer(self.x, self.dy, border)
        return self._results[border]

    def _tied(self) -> Tensor:
        """Elements of x that are in a window whose maximum occurs more than once."""
        k, p = self.workload.pool, self.workload.pad
        x = F.pad(self.x, (p, p, p, p), value=-torch.inf)
        m = F.max_pool2d(x, k, 1)
        h, w = m.shape[2:]
        found = torch.zeros_like(m)
        for i in range(k):
            for j in range(k):
                found += x[:, :, i : i + h, j : j + w] == m
        # A window starts at most k - 1 before an element that it holds.
        spread = F.max_pool2d(F.pad((found > 1).double(), (k - 1,) * 4), k, 1)
        return spread[:, :, p : p + self.x.shape[2], p : p + self.x.shape[3]] > 0
