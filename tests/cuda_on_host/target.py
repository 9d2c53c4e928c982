"""The CUDA kernels as a target of the tests in test_values.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fastblur._backends import compiled
from fastblur._geometry import Geometry
from fastblur._geometry.upsampling import Upsampling
from testing.judge import EPS, ROUNDINGS, scale

from . import HostCuda, HostCudaError, Job, Options, Result

# Every call runs in all of these ways, and no bit may change: threads and blocks in either order,
# the rows cut for many multiprocessors or not at all, aligned tensors and others.
WAYS = (
    Options(order="forward"),
    Options(order="reverse", multiprocessors=1),
    Options(order="random", multiprocessors=16, offset=1),
)
# Of two results from each other, relative to the largest possible one.
ROUNDING = {
    torch.float32: 2 * ROUNDINGS * EPS[torch.float32],
    torch.float64: 2 * ROUNDINGS * EPS[torch.float64],
    torch.float16: 2**-10,
    torch.bfloat16: 2**-7,
}


class HostTarget:
    """Called like a :class:`testing.cases.Target`, and differentiable once.

    Also checks that keeping codes changes no bit of y, that apply to the same input repeats
    forward up to the order of summation, and that the codes have the size that Python says.

    Attributes:
        backend: its name only.
        level: None, as for other backends without levels.
        kernels: which have run, in words.
    """

    backend = SimpleNamespace(name="cuda")
    level = None

    def __init__(self, host: HostCuda, channels_last: bool, ways: Sequence[Options] = WAYS) -> None:
        self.host = host
        self.channels_last = channels_last
        self.ways = ways
        self.kernels: set[str] = set()

    def __call__(self, x: Tensor, geometry: Geometry) -> Tensor:
        return _Differentiable.apply(x, self, geometry)

    def upsample(self, x: Tensor, upsampling: Upsampling) -> Tensor:
        size = (*x.shape[:2], *upsampling.output_size(*x.shape[2:]))
        return _Upsampled.apply(upsampling.repeat_edges(x), self, upsampling.blur, size)

    def ways_for(self, job: Job) -> Sequence[Options]:
        """All, or the two that differ most where all would take long."""
        return self.ways if math.prod(job.input_size) < 50_000 else self.ways[::2]

    def run(self, job: Job, name: str, codes: Sequence[Tensor] = ()) -> list[Result]:
        """The results of a job in every way, each with its own codes; `name` must be the same."""
        ways = self.ways_for(job)
        each = codes or [None] * len(ways)
        results = self.host.run(
            [replace(job, options=way, codes=own) for way, own in zip(ways, each, strict=True)]
        )
        for way, result in zip(ways, results, strict=True):
            if result.error:
                raise HostCudaError(f"cudaError_t {result.error}: {job}")
            same(result[name], results[0][name], f"{name} with {way}: {job}")
        self.kernels.add(results[0].specialisation)
        return results


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: HostTarget, geometry: Geometry) -> Tensor:
        n, c, h, w = x.shape
        job = Job("forward", geometry, (n, c, h, w), x.dtype, target.channels_last, x=x)
        results = target.run(job, "y")
        y, codes = results[0]["y"], [result["codes"] for result in results]
        for way, own in zip(target.ways_for(job), codes, strict=True):
            # Bits of elements that do not exist may depend on the alignment.
            if way.offset == target.ways[0].offset:
                same(own, codes[0], f"codes with {way}: {job}")
        if n and not target.host.defines:  # with fewer specialisations they differ
            shape, dtype = compiled.CUDA.codes(geometry, job.input_size, target.channels_last, x)
            assert (tuple(codes[0].shape), codes[0].dtype) == (tuple(shape), dtype), str(job)
        without = target.run(replace(job, need_codes=False), "y")[0]["y"]
        same(without, y, f"y without codes: {job}")
        applied = target.run(replace(job, op="apply"), "applied", codes)[0]["applied"]
        size = max(scale(x, geometry.taps_h, geometry.taps_w), 1.0)
        same(applied, y, f"apply: {job}", ROUNDING[x.dtype] * size)
        ctx.target, ctx.job, ctx.codes = target, replace(job, op="backward", x=None), codes
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.target.run(replace(ctx.job, dy=dy), "dx", ctx.codes)[0]["dx"], None, None


class _Upsampled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: HostTarget, geometry: Geometry, size: tuple[int, int, int, int]
    ) -> Tensor:
        job = Job("backward", geometry, size, x.dtype, target.channels_last, dy=x)
        shape, dtype = compiled.CUDA.codes(geometry, size, target.channels_last, x)
        codes = [torch.empty(shape, dtype=dtype) for _ in target.ways_for(job)]
        ctx.target, ctx.job, ctx.codes = target, replace(job, op="apply", dy=None), codes
        return target.run(job, "dx", codes)[0]["dx"]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        applied = ctx.target.run(replace(ctx.job, x=dy), "applied", ctx.codes)[0]["applied"]
        return applied, None, None, None


def same(ours: Tensor, theirs: Tensor, what: str, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=tolerance, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )
