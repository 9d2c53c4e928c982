"""The layers that are timed, and the bytes that each must move."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from testing.judge import binomial, judge_with_gradient, upsampling_answer


class Traffic(NamedTuple):
    """Bytes that a call cannot do without, each counted once."""

    read: int
    written: int

    @property
    def total(self) -> int:
        return self.read + self.written


@dataclass(frozen=True)
class Workload:
    """One layer on one input: (Max)BlurPool with Zhang's padding, reflected, and stride 2."""

    shape: tuple[int, int, int, int]
    pool: int
    pad: int
    filter_size: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def layer(self) -> str:
        size = "x".join(map(str, self.shape))
        maximum = f"max{self.pool} p{self.pad}" if self.pool > 1 else "blur"
        return f"{size} {maximum} f{self.filter_size}"

    @property
    def kind(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def layout(self) -> str:
        return "NHWC" if self.channels_last else "NCHW"

    def __str__(self) -> str:
        return f"{self.layer} {self.kind} {self.layout}"

    @property
    def taps(self) -> list[float]:
        return binomial(self.filter_size)

    @property
    def blur_padding(self) -> tuple[int, int]:
        """Before and after, the same along both axes."""
        return (self.filter_size - 1) // 2, self.filter_size // 2

    @property
    def pooled_shape(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.shape
        grown = 2 * self.pad - self.pool + 1
        return n, c, h + grown, w + grown

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.pooled_shape
        return n, c, (h + 1) // 2, (w + 1) // 2

    def input(self, device: torch.device) -> Tensor:
        return self._normal(self.shape, device)

    def output_gradient(self, device: torch.device) -> Tensor:
        return self._normal(self.output_shape, device)

    def _normal(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        t = torch.empty(shape, dtype=self.dtype, device=device, memory_format=self.memory_format)
        return t.normal_()

    def answer(self, x: Tensor, dy: Tensor, border: str) -> tuple[Tensor, Tensor]:
        """What y and the gradient of x are, for some images in float64."""
        k, p, pad = (self.pool,) * 2, (self.pad,) * 2, self.blur_padding * 2
        return judge_with_gradient(x, dy, k, (2, 2), p, self.taps, self.taps, pad, border)

    def traffic(self, mode: str) -> Traffic:
        """What a fused kernel must read and write, whoever makes the call.

        The codes name the winner of each element of the pooled map: ceil(log2(pool)) bits for its
        column and as many for its row. Forward alone, without grad, keeps none.
        """
        x, y = (math.prod(s) * self.dtype.itemsize for s in (self.shape, self.output_shape))
        bits = 2 * math.ceil(math.log2(self.pool))
        codes = math.ceil(math.prod(self.pooled_shape) * bits / 8)
        forward, backward = Traffic(x, y + codes), Traffic(y + codes, x)
        return {
            "forward": Traffic(x, y),
            "training forward": forward,
            "backward": backward,
            "full": Traffic(forward.read + backward.read, forward.written + backward.written),
        }[mode]


@dataclass(frozen=True)
class Upsampling(Workload):
    """The other half: a blur's transpose to twice the size, with zeros or edges around."""

    pool: int = 1
    pad: int = 0
    filter_size: int = 4

    @property
    def layer(self) -> str:
        return f"{'x'.join(map(str, self.shape))} f{self.filter_size}"

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.shape
        return n, c, 2 * h, 2 * w

    @property
    def taps(self) -> list[float]:
        """With the gain that keeps a constant."""
        return [2 * tap for tap in binomial(self.filter_size)]

    def answer(self, x: Tensor, dy: Tensor, border: str) -> tuple[Tensor, Tensor]:
        found = upsampling_answer(x, dy, (2, 2), self.taps, self.taps, border)
        return found.y, found.dx


HEADLINE = [  # the most telling first
    Workload((8, 64, 112, 112), 3, 1, 3),
    Workload((8, 64, 112, 112), 2, 0, 4),
    Workload((4, 512, 28, 28), 2, 0, 4),
    Workload((64, 64, 14, 14), 2, 0, 4),
    Workload((8, 67, 56, 56), 3, 1, 3),  # channels that fill no vector
    Workload((1, 64, 112, 112), 3, 1, 3),
    Workload((8, 256, 56, 56), 1, 0, 4),
]
MORE = [Workload((64, 64, 10, 10), 2, 0, 4), Workload((8, 128, 28, 28), 1, 0, 3)]
GPU = [
    Workload((256, 64, 112, 112), 2, 0, 4),
    Workload((256, 64, 112, 112), 3, 1, 3),
    Workload((64, 256, 56, 56), 1, 0, 4),
    *HEADLINE[:3],
]
UPSAMPLINGS = [  # decoders, and the last layers of generators
    Upsampling((8, 64, 56, 56)),
    Upsampling((8, 256, 14, 14)),
    Upsampling((2, 32, 128, 128)),
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEVELS = Workload((2, 64, 56, 56), 2, 0, 4)  # shows the levels of the CPU kernels
OVERHEAD = Workload((1, 4, 8, 8), 3, 1, 3)  # next to nothing to compute


def compiled_too(device_type: str) -> list[Workload]:
    """The workloads of a short run with torch.compile, which takes half a minute for each."""
    first = chosen(device_type, full=False)[0]
    most_used = replace(first, dtype=torch.bfloat16, channels_last=True)
    return [first, most_used] if device_type == "cuda" else [first]


def both_layouts(workload: Workload) -> list[Workload]:
    return [workload, replace(workload, channels_last=True)]


def chosen(device_type: str, full: bool) -> list[Workload]:
    """The workloads of a run: float32 everywhere, 16 bits in the first three layers; or all."""
    layers = GPU if device_type == "cuda" else HEADLINE
    if full:
        workloads = [
            replace(workload, dtype=dtype) for workload in [*layers, *MORE] for dtype in DTYPES
        ]
    else:
        workloads = layers + [
            replace(workload, dtype=dtype) for dtype in DTYPES[1:] for workload in layers[:3]
        ]
    return [either for workload in workloads for either in both_layouts(workload)]


def upsamplings() -> list[Workload]:
    """Both layouts of each in float32, and of the first in bfloat16."""
    half = replace(UPSAMPLINGS[0], dtype=torch.bfloat16)
    return [either for workload in (*UPSAMPLINGS, half) for either in both_layouts(workload)]
