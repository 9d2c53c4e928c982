"""The case list: what every backend must compute like the unfused chain.

A case is a geometry and the shape of an input. Which values fill it, in which dtype and layout, is
up to the test. A backend that cannot run a case says so in UNSUPPORTED, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastblur._backends import BACKENDS, Backend, compiled
from fastblur._geometry import Geometry
from fastblur._geometry.upsampling import Upsampling

from .judge import binomial


@dataclass(frozen=True)
class Case:
    pool: tuple[int, int] = (2, 2)
    stride: tuple[int, int] = (2, 2)
    pad: tuple[int, int] = (0, 0)
    taps_h: tuple[float, ...] = tuple(binomial(4))
    taps_w: tuple[float, ...] = tuple(binomial(4))
    blur_pad: tuple[int, int, int, int] = (1, 2, 1, 2)
    mode: str = "reflect"
    relu: bool = False
    shape: tuple[int, int, int, int] = (2, 5, 13, 18)
    note: str = field(default="", compare=False)

    def chain(self) -> tuple[object, ...]:
        """The arguments of judge()."""
        return (
            self.pool,
            self.stride,
            self.pad,
            self.taps_h,
            self.taps_w,
            self.blur_pad,
            self.mode,
            self.relu,
        )

    def geometry(self) -> Geometry:
        return Geometry.resolve(
            self.pool,
            self.stride,
            self.pad,
            taps=(self.taps_h, self.taps_w),
            blur_padding=self.blur_pad,
            padding_mode=self.mode,
            relu=self.relu,
        )

    def __str__(self) -> str:
        k, s, p = ("x".join(map(str, pair)) for pair in (self.pool, self.stride, self.pad))
        b = ",".join(map(str, self.blur_pad))
        size = "x".join(map(str, self.shape))
        relu = "-relu" if self.relu else ""
        taps = f"{len(self.taps_h)}x{len(self.taps_w)}"
        return (
            f"k{k}-s{s}-p{p}-f{taps}-b{b}-{self.mode}{relu}-{size}{self.note and '-' + self.note}"
        )


def zhang(pool: int, f: int, **rest: object) -> Case:
    """A square case with Zhang's blur padding, as FusedMaxBlurPool(pool, filter_size=f) is."""
    taps = tuple(binomial(f))
    b = ((f - 1) // 2, f // 2) * 2
    return Case(pool=(pool, pool), taps_h=taps, taps_w=taps, blur_pad=b, **rest)  # type: ignore[arg-type]


def short(pool: int, pad: int, f: int, after: int) -> Case:
    """As zhang, with less padding after the map, whose rows are whole vectors in both formats."""
    taps, before = tuple(binomial(f)), (f - 1) // 2
    b = (before, after) * 2
    return Case((pool,) * 2, (2, 2), (pad,) * 2, taps, taps, b, shape=(2, 16, 24, 16))


MODES = ("reflect", "replicate", "zeros", "circular")
SKEW_H, SKEW_W = (0.7, -0.2, 1.5), (-0.4, 0.0, 0.3, 2.0, 0.1)

CASES: list[Case] = [
    # Pool 1 to 4 by taps 1 to 7, as people use them.
    *(zhang(k, f, relu=(k + f) % 3 == 0) for k in (1, 2, 3, 4) for f in range(1, 8)),
    *(zhang(k, f, pad=(k // 2, k // 2)) for k in (2, 3, 4) for f in (2, 3, 4)),
    # Stride 1 to 4, alone and per axis.
    *(zhang(2, 4, stride=(s, s)) for s in (1, 3, 4)),
    *(zhang(1, 3, stride=(s, t)) for s, t in ((1, 2), (2, 1), (3, 1), (1, 4), (2, 3))),
    # Modes, with asymmetric and wide paddings.
    *(zhang(k, 5, mode=mode, pad=(k // 2,) * 2) for k in (1, 2, 3) for mode in MODES),
    *(Case(mode=mode, blur_pad=(3, 0, 5, 1), pool=(3, 2)) for mode in MODES),
    *(Case(mode=mode, blur_pad=(0, 4, 0, 3), taps_h=SKEW_H, taps_w=SKEW_W) for mode in MODES),
    Case(mode="replicate", blur_pad=(40, 30, 50, 20), note="wider than the map"),
    Case(mode="zeros", blur_pad=(40, 30, 50, 20), note="wider than the map"),
    Case(mode="circular", blur_pad=(12, 12, 17, 17), note="as wide as the map"),
    # So much less padding after the map that its last output is missing; and not quite.
    *(short(1, 0, f, 0) for f in (2, 4, 5)),
    *(short(2, 0, f, after) for f, after in ((2, 0), (3, 0), (4, 0), (4, 1), (5, 1))),
    *(short(3, pad, f, 0) for pad, f in ((0, 4), (1, 3), (1, 4), (1, 5))),
    # Nothing square, filters that are not symmetric, sum to no round number, and have zero taps.
    Case((1, 3), (2, 1), (0, 1), SKEW_H, SKEW_W, (1, 0, 2, 2), "zeros"),
    Case((3, 1), (1, 2), (1, 0), SKEW_W, SKEW_H, (0, 3, 1, 1), "circular", True),
    Case((2, 4), (3, 2), (1, 2), (1.0,), SKEW_W, (0, 0, 2, 1), "reflect", True),
    Case((4, 2), (4, 4), (0, 1), SKEW_H, (2.0,), (1, 1, 0, 0), "replicate"),
    Case((5, 7), (2, 2), (2, 3), SKEW_H, SKEW_H, (1, 1, 1, 1), "reflect", note="large pool"),
    Case((15, 15), (2, 2), (7, 7), shape=(1, 2, 17, 19), relu=True, note="largest pool"),
    Case(
        (3, 8),
        (2, 2),
        (1, 4),
        mode="replicate",
        shape=(1, 9, 5, 1),
        note="windows past all columns",
    ),
    Case(taps_h=(1.0 / 31,) * 31, taps_w=(1.0,), blur_pad=(11, 10, 0, 0), note="longest taps"),
    Case(stride=(5, 9), blur_pad=(0, 0, 0, 0), note="stride beyond the taps"),
    # Small maps, single rows and columns, and an empty batch.
    zhang(2, 3, shape=(2, 3, 3, 3)),
    zhang(1, 4, shape=(1, 3, 3, 3), mode="zeros"),
    zhang(2, 4, shape=(1, 1, 2, 2), mode="replicate", note="a pooled map of one"),
    zhang(3, 3, pad=(1, 1), shape=(2, 4, 1, 1), mode="replicate"),
    Case((1, 2), pad=(0, 1), taps_h=(1.0,), blur_pad=(0, 0, 1, 2), shape=(3, 2, 1, 33)),
    Case((2, 1), pad=(1, 0), taps_w=(1.0,), blur_pad=(1, 2, 0, 0), shape=(3, 2, 33, 1)),
    zhang(3, 3, pad=(1, 1), shape=(0, 3, 9, 9), note="empty batch"),
    # Widths and channel counts around the vectors, and enough of both for several threads.
    *(zhang(2, 4, shape=(1, 3, 9, w)) for w in (15, 16, 17, 31, 32, 33, 34, 65)),
    *(zhang(3, 3, pad=(1, 1), shape=(2, c, 9, 11)) for c in (1, 7, 8, 15, 16, 17, 24, 33)),
    zhang(3, 3, pad=(1, 1), shape=(3, 32, 56, 57), note="threads"),
    zhang(2, 4, shape=(1, 16, 56, 56), relu=True, note="threads"),
    # The ends of a row, in rows of whole vectors of channels that are high enough for a fast loop.
    *(zhang(2, 4, shape=(1, 16, 12, w), mode="zeros") for w in (29, 30, 31)),
    *(zhang(2, 4, shape=(1, 16, 12, w), mode="replicate") for w in (29, 30, 31)),
    *(zhang(3, 3, pad=(1, 1), shape=(1, 16, 12, w), mode="zeros") for w in (29, 30, 31)),
    zhang(3, 4, pad=(1, 1), shape=(1, 16, 12, 29)),
    zhang(3, 5, shape=(1, 16, 12, 30), mode="replicate"),
]


@dataclass(frozen=True)
class UpsampleCase:
    """Of blur_upsample2d: what every backend must compute as the judge does."""

    stride: tuple[int, int] = (2, 2)
    taps_h: tuple[float, ...] = tuple(binomial(4))
    taps_w: tuple[float, ...] = tuple(binomial(4))
    mode: str = "zeros"
    shape: tuple[int, int, int, int] = (2, 5, 7, 9)

    def upsampling(self) -> Upsampling:
        taps = self.taps_h, self.taps_w
        return Upsampling.resolve(None, self.stride, taps, 1.0, self.mode)

    def chain(self) -> tuple[object, ...]:
        """The arguments of judge.upsample()."""
        return self.stride, self.taps_h, self.taps_w, self.mode

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.shape[:2], *(n * s for n, s in zip(self.shape[2:], self.stride, strict=True)))

    def __str__(self) -> str:
        taps = f"{len(self.taps_h)}x{len(self.taps_w)}"
        size = "x".join(map(str, self.shape))
        return f"up{self.stride[0]}x{self.stride[1]}-f{taps}-{self.mode}-{size}"


def upsampling(f: int, s: int, **rest: object) -> UpsampleCase:
    """A square case."""
    taps = tuple(binomial(f))
    return UpsampleCase((s, s), taps, taps, **rest)  # type: ignore[arg-type]


UPSAMPLE_MODES = ("zeros", "replicate")
UPSAMPLES: list[UpsampleCase] = [
    *(upsampling(f, 2, mode=mode) for f in range(1, 8) for mode in UPSAMPLE_MODES),
    *(upsampling(f, s, mode=mode) for f in (2, 4) for s in (1, 3) for mode in UPSAMPLE_MODES),
    # Filters that are not symmetric or square; a stride beyond the taps.
    *(UpsampleCase((2, 2), SKEW_H, SKEW_W, mode) for mode in UPSAMPLE_MODES),
    *(UpsampleCase((2, 2), (0.1, 0.4, 0.3, 0.2), mode=mode) for mode in UPSAMPLE_MODES),
    *(UpsampleCase((3, 1), SKEW_W, (2.0,), mode) for mode in UPSAMPLE_MODES),
    UpsampleCase((1, 2), (1.0,), tuple(binomial(4)), "replicate"),
    UpsampleCase((5, 4), (1.0, 2.0), SKEW_H),
    UpsampleCase((2, 2), (1.0 / 31,) * 31, mode="replicate"),
    # Small maps, an empty batch, whole vectors, and enough for several threads.
    *(upsampling(4, 2, mode=mode, shape=(2, 3, 1, 1)) for mode in UPSAMPLE_MODES),
    *(upsampling(5, 2, mode=mode, shape=(1, 1, 1, 2)) for mode in UPSAMPLE_MODES),
    upsampling(4, 2, shape=(0, 3, 4, 4)),
    *(upsampling(f, 2, shape=(1, 16, 8, 16)) for f in (2, 3, 4, 5)),
    upsampling(4, 2, shape=(2, 32, 28, 29)),
    upsampling(4, 2, mode="replicate", shape=(1, 33, 17, 28)),
]

# (backend, reason), by what a backend cannot do. Empty: each runs every case.
UNSUPPORTED: dict[str, dict[Case, str]] = {}


@dataclass(frozen=True)
class Target:
    """A backend, and for the CPU the instruction-set level to run it at.

    Tensors come from the CPU, where the judge is, and go back there.
    """

    backend: Backend
    level: str | None = None

    def __call__(self, x: Tensor, geometry: Geometry) -> Tensor:
        return self._on_it(x, self.backend.run, geometry)

    def upsample(self, x: Tensor, upsampling: Upsampling) -> Tensor:
        return self._on_it(x, self.backend.upsample, upsampling)

    def _on_it(self, x: Tensor, run: Callable[..., Tensor], what: object) -> Tensor:
        if self.level is not None:
            assert compiled.C is not None
            compiled.C.cpu.set_target(self.level)
        return run(x.to(self.backend.device_type), what).to(x.device)

    def __str__(self) -> str:
        return f"{self.backend.name}-{self.level}" if self.level else self.backend.name


def targets() -> list[Target]:
    """Every usable backend; the best CPU target comes first of its levels."""
    found = []
    for backend in BACKENDS:
        there = backend.device_type == "cpu" or torch.cuda.is_available()
        if there and backend.why_not(torch.device(backend.device_type)) is None:
            levels = compiled.C.cpu.targets() if backend.name == "cpu" else [None]
            found += [Target(backend, level) for level in levels]
    return found


def fill(shape: tuple[int, ...], kind: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Inputs: "normal", "ties" (few distinct values, half of them 0), "nan", "inf"."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind != "normal":
        x = x.clamp(-1, 2).round().relu() + 0 * x
    where = torch.rand(shape, generator=generator)
    if kind == "nan":
        x[where < 0.02] = torch.nan
    if kind == "inf":
        x[where < 0.05] = torch.inf
        x[where > 0.5] = -torch.inf
    return x.to(dtype)


def in_format(x: Tensor, channels_last: bool) -> Tensor:
    return x.to(memory_format=torch.channels_last) if channels_last else x
