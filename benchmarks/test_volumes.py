"""One 3-D layer, made of fused 2-D calls, against max_pool3d, pad and conv3d."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fastblur import FusedMaxBlurPool3d
from testing.judge import binomial
from testing.measure import saved_bytes
from testing.volumes import Case3d, Triple, answer3d, judge3d

from .baselines import MODES, OURS, UNFUSED, Rival
from .conftest import Recorder, chosen_device
from .timing import LIMIT, Clock, Race, limit
from .workloads import Traffic


@dataclass(frozen=True)
class VolumeWorkload:
    """A MaxBlurPool with Zhang's padding and 3 taps along the axes that it subsamples."""

    shape: tuple[int, int, int, int, int]
    pool: Triple
    stride: Triple
    channels_last: bool = False

    @property
    def case(self) -> Case3d:
        deep, high, wide = (tuple(binomial(3 if s > 1 else 1)) for s in self.stride)
        front, top, left = (int(s > 1) for s in self.stride)
        pad = tuple(k // 2 for k in self.pool)
        sides = front, front, top, top, left, left
        return Case3d(
            self.pool, self.stride, pad, (deep, high, wide), sides, shape=self.shape  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def layout(self) -> str:
        return "NDHWC" if self.channels_last else "NCDHW"

    def __str__(self) -> str:
        shape, pool, stride = (
            "x".join(map(str, sizes)) for sizes in (self.shape, self.pool, self.stride)
        )
        return f"{shape} max{pool} stride{stride} {self.layout}"

    def tensor(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        layout = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        return torch.randn(shape, device=device).to(memory_format=layout)

    def rivals(self) -> dict[str, Rival]:
        case, v = self.case, self.case.volume()
        ours = FusedMaxBlurPool3d(
            v.kernel_size, v.stride, v.padding, taps=v.taps, blur_padding=v.blur_padding
        )
        return {OURS: Rival(ours), UNFUSED: Rival(lambda x: judge3d(x, case))}

    def traffic(self, mode: str) -> Traffic:
        """What one fused kernel would read and write, with codes of as many bits as ours."""
        case = self.case
        n, c, *size = self.shape
        pooled = [d + 2 * p - k + 1 for d, p, k in zip(size, case.pad, case.pool, strict=True)]
        bits = sum(math.ceil(math.log2(k)) for k in case.pool)
        x, y = (4 * n * c * math.prod(s) for s in (size, case.volume().output_size(*size)))
        codes = n * c * math.prod(pooled) * bits // 8
        forward, backward = Traffic(x, y + codes), Traffic(y + codes, x)
        return {
            "forward": Traffic(x, y),
            "backward": backward,
            "full": Traffic(forward.read + backward.read, forward.written + backward.written),
        }[mode]


WORKLOADS = [
    VolumeWorkload((2, 64, 16, 56, 56), pool, stride, last)
    for pool, stride in (((3, 3, 3), (2, 2, 2)), ((1, 3, 3), (1, 2, 2)))
    for last in (False, True)
]


class Races:
    """The latest race, so that both rivals share it."""

    def __init__(self, clock: Clock, limits: Callable[[], dict[str, Any]]) -> None:
        self.clock, self.limits = clock, limits
        self.key: tuple[VolumeWorkload, str] | None = None
        self.race: Race | None = None
        self.saved: dict[str, int] = {}

    def of(self, workload: VolumeWorkload, mode: str) -> Race:
        if self.race is None or self.key != (workload, mode):
            self.race = None  # first: there may be no room for two
            device = self.clock.device
            torch.manual_seed(0)
            x = workload.tensor(workload.shape, device)
            size = workload.case.volume().output_size(*workload.shape[2:])
            dy = workload.tensor((*workload.shape[:2], *size), device)
            self._check(workload, x[:1, :2], dy[:1, :2])
            rivals = workload.rivals()
            leaf = x.detach().requires_grad_()
            self.saved = {
                name: saved_bytes(lambda rival=rival: rival.layer(leaf))
                for name, rival in rivals.items()
            }
            calls: dict[str, Any] = {n: MODES[mode](rival, x, dy) for n, rival in rivals.items()}
            calls[LIMIT] = limit(workload.traffic(mode), device)
            self.race, self.key = Race(self.clock, calls), (workload, mode)
            self.race.run(**self.limits())
        return self.race

    @staticmethod
    def _check(workload: VolumeWorkload, x: Tensor, dy: Tensor) -> None:
        for name, rival in workload.rivals().items():
            leaf = x.detach().requires_grad_()
            y = rival.layer(leaf)
            (dx,) = torch.autograd.grad(y, leaf, dy)
            answer3d(x.cpu(), dy.cpu(), workload.case).check(name, y.cpu(), dx.cpu())


@pytest.fixture(scope="session")
def volume_races(clock: Clock, limits: Callable[[], dict[str, Any]]) -> Races:
    return Races(clock, limits)


@pytest.mark.parametrize("name", [OURS, UNFUSED])
@pytest.mark.parametrize("mode", ["forward", "backward", "full"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_volume(
    workload: VolumeWorkload,
    mode: str,
    name: str,
    volume_races: Races,
    record: Recorder,
    pytestconfig: pytest.Config,
) -> None:
    race = volume_races.of(workload, mode)
    mine, copy = (race.times[key].median for key in (name, LIMIT))
    facts = {
        "kind": "volume",
        "label": str(workload),
        "layer": str(workload).removesuffix(f" {workload.layout}"),
        "dtype": "float32",
        "layout": workload.layout,
        "mode": mode,
        "rival": name,
        "device": chosen_device(pytestconfig).type,
        "threads": torch.get_num_threads(),
        "input_bytes": 4 * math.prod(workload.shape),
        "saved_bytes": volume_races.saved[name],
        "bytes": workload.traffic(mode).total,
        "limit_ms": copy,
        "fraction_of_limit": copy / mine,
    }
    record(race, name, facts)
