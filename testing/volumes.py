"""The 3-D case list, and its judge: max_pool3d, pad, conv3d, nothing of fastblur."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastblur._geometry import Geometry
from fastblur._geometry.volume import Volume
from fastblur.functional3d import in_turn

from .cases import fill
from .judge import Answer, binomial

Run = Callable[[Tensor, Geometry], Tensor]
Triple = tuple[int, int, int]
Rows = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
Sides = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class Case3d:
    pool: Triple = (2, 2, 2)
    stride: Triple = (2, 2, 2)
    pad: Triple = (0, 0, 0)
    taps: Rows = (tuple(binomial(3)),) * 3
    blur_pad: Sides = (1, 1, 1, 1, 1, 1)
    mode: str = "reflect"
    relu: bool = False
    shape: tuple[int, int, int, int, int] = (2, 3, 6, 9, 10)

    def volume(self) -> Volume:
        return Volume.resolve(
            self.pool,
            self.stride,
            self.pad,
            taps=self.taps,
            blur_padding=self.blur_pad,
            padding_mode=self.mode,
            relu=self.relu,
        )

    def __str__(self) -> str:
        k, s, p, f, size = (
            "x".join(map(str, entries))
            for entries in (self.pool, self.stride, self.pad, map(len, self.taps), self.shape)
        )
        b = ",".join(map(str, self.blur_pad))
        return f"k{k}-s{s}-p{p}-f{f}-b{b}-{self.mode}{'-relu' if self.relu else ''}-{size}"


def zhang3d(pool: int, f: int, **rest: object) -> Case3d:
    """A case that is equal along all axes, with Zhang's blur padding."""
    b = ((f - 1) // 2, f // 2) * 3
    return Case3d((pool,) * 3, taps=(tuple(binomial(f)),) * 3, blur_pad=b, **rest)  # type: ignore[arg-type]


SKEW: Rows = ((0.7, -0.2, 1.5), (-0.4, 0.0, 0.3, 2.0), (0.5, 0.1))

CASES_3D: list[Case3d] = [
    *(zhang3d(k, f, relu=(k + f) % 2 == 0) for k in (1, 2, 3) for f in (1, 2, 3, 4)),
    *(zhang3d(k, 3, pad=(k // 2,) * 3, relu=k == 2) for k in (2, 3, 4)),
    # One and two axes with a max: of every choice of calls.
    *(
        zhang3d(1, 3, relu=relu, stride=(2, 1, 2))
        if pool == (1, 1, 1)
        else Case3d(pool, (1, 2, 2), tuple(k // 2 for k in pool), relu=relu)  # type: ignore[arg-type]
        for pool in ((1, 1, 1), (1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 3, 3), (3, 1, 3), (3, 3, 1))
        for relu in (False, True)
    ),
    # Every border, nothing equal along two axes, and taps that do not sum to 1.
    *(
        Case3d((3, 2, 4), (1, 3, 2), (1, 0, 2), SKEW, (1, 2, 0, 3, 2, 0), mode)
        for mode in ("reflect", "replicate", "zeros", "circular")
    ),
    Case3d((1, 2, 3), (2, 1, 1), (0, 1, 0), SKEW, (2, 0, 1, 1, 0, 1), "zeros", True),
    Case3d((2, 3, 1), (2, 2, 1), (1, 1, 0), (*SKEW[:2], (1.0,)), (1, 1, 2, 1, 0, 0)),
    Case3d((2, 1, 2), (1, 1, 2), (0, 0, 1), ((2.0,), (1.0,), SKEW[0]), (0, 0, 0, 0, 1, 1)),
    Case3d((2, 2, 2), (1, 1, 1), taps=((1.0,),) * 3, blur_pad=(0,) * 6),
    # Sizes of one, where layouts are not told apart; one channel; an empty batch.
    Case3d((3, 3, 3), (2, 2, 2), (1, 1, 1), mode="replicate", shape=(2, 3, 1, 1, 9)),
    Case3d((3, 3, 3), (2, 2, 2), (1, 1, 1), mode="replicate", shape=(1, 4, 1, 7, 1)),
    Case3d((3, 3, 3), (2, 2, 2), (1, 1, 1), mode="zeros", shape=(2, 2, 5, 1, 1)),
    Case3d((1, 3, 3), (1, 2, 2), (0, 1, 1), mode="zeros", shape=(2, 1, 1, 5, 6)),
    zhang3d(3, 3, pad=(1, 1, 1), shape=(3, 1, 5, 6, 7)),
    zhang3d(3, 3, pad=(1, 1, 1), shape=(0, 2, 5, 6, 7)),
    # Whole vectors of channels and columns, and enough for several threads.
    zhang3d(3, 3, pad=(1, 1, 1), shape=(2, 16, 8, 16, 32)),
    zhang3d(2, 4, shape=(1, 16, 9, 20, 17), relu=True),
]


def pooled(x: Tensor, case: Case3d) -> Tensor:
    x = torch.relu(x) if case.relu else x
    return F.max_pool3d(x, case.pool, stride=1, padding=case.pad)


def blur(m: Tensor, case: Case3d, taps: Rows) -> Tensor:
    front, back, top, bottom, left, right = case.blur_pad
    mode = "constant" if case.mode == "zeros" else case.mode
    m = F.pad(m, (left, right, top, bottom, front, back), mode)
    deep, high, wide = taps
    products = [[[a * b * c for c in wide] for b in high] for a in deep]
    weight = torch.tensor(products, dtype=torch.float64).to(m)
    weight = weight.expand(m.shape[1], 1, -1, -1, -1)
    return F.conv3d(m, weight, stride=case.stride, groups=m.shape[1])


def judge3d(x: Tensor, case: Case3d) -> Tensor:
    return blur(pooled(x, case), case, case.taps)


def answer3d(x: Tensor, dy: Tensor, case: Case3d) -> Answer:
    """What y and dx should be, in float64."""
    leaf = x.detach().double().contiguous().clone().requires_grad_()
    up = dy.detach().double().contiguous()
    m = pooled(leaf, case)
    sizes: Rows = tuple(tuple(map(abs, row)) for row in case.taps)  # type: ignore[assignment]
    y = blur(m, case, case.taps)
    (dx,) = torch.autograd.grad(y, leaf, up, retain_graph=True)
    (dx_size,) = torch.autograd.grad(blur(m, case, sizes), leaf, up.abs())
    finite = m.detach().nan_to_num(0.0, 0.0, 0.0).abs()
    return Answer(y.detach(), dx, blur(finite, case, sizes), dx_size)


def in_format_3d(x: Tensor, channels_last: bool) -> Tensor:
    return x.to(memory_format=torch.channels_last_3d) if channels_last else x


def gradient_for(case: Case3d, dtype: torch.dtype) -> Tensor:
    size = case.volume().output_size(*case.shape[2:])
    return fill((*case.shape[:2], *size), "normal", dtype, seed=1)


def run3d(target: Run, case: Case3d, x: Tensor, dy: Tensor) -> list[Tensor]:
    """y and dx, by the 2-D calls of a target."""
    leaf = x.clone().requires_grad_()
    y = in_turn(leaf, case.volume(), target)
    (dx,) = torch.autograd.grad(y, leaf, dy)
    return [y.detach(), dx]
