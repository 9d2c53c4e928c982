"""Training steps of whole networks: plain, anti-aliased, and anti-aliased with ``fuse_``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastblur import fuse_
from testing.measure import peak_bytes, saved_bytes, storages

from .conftest import Recorder, chosen_device
from .timing import Clock, Race

VARIANTS = ("fused", "unfused", "plain")
NETWORKS = ("resnet18", "resnet50", "vgg11_bn")


@dataclass(frozen=True)
class Load:
    """What a training step is of; 16-bit types run by autocast."""

    batch: int
    pixels: int
    dtype: torch.dtype


# A step that keeps a few cores, or a GPU, busy, in the type that people use there.
LOADS = {"cpu": Load(8, 160, torch.float32), "cuda": Load(64, 224, torch.bfloat16)}


def networks(name: str) -> dict[str, nn.Module]:
    """Torchvision's network, and timm's or antialiased_cnns' with the same weights twice."""
    torchvision = pytest.importorskip("torchvision")
    if name.startswith("resnet"):
        timm = pytest.importorskip("timm")
        unfused, fused = (timm.create_model(name.replace("net", "netblur")) for _ in range(2))
    else:
        aa = pytest.importorskip("antialiased_cnns")
        unfused, fused = (getattr(aa, name)() for _ in range(2))
    fused.load_state_dict(unfused.state_dict())
    fuse_(fused)
    return {"fused": fused, "unfused": unfused, "plain": getattr(torchvision.models, name)()}


class Steps:
    """Training steps of one network's variants, checked and weighed.

    Attributes:
        calls: the steps, by variant.
        facts: bytes of each.
        missing: of the variants that cannot run, why.
    """

    def __init__(self, name: str, channels_last: bool, device: torch.device) -> None:
        torch.manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.device, self.load = device, LOADS[device.type]
        batch, pixels = self.load.batch, self.load.pixels
        self.x = torch.randn(batch, 3, pixels, pixels, device=device).to(memory_format=layout)
        self.target = torch.randint(1000, (batch,), device=device)
        self.calls: dict[str, Callable[[], object]] = {}
        self.facts: dict[str, dict[str, int]] = {}
        self.missing: dict[str, str] = {}
        nets = networks(name)
        for net in nets.values():
            net.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        losses: dict[str, torch.Tensor] = {}
        for variant in VARIANTS:
            try:
                losses[variant] = self._add(variant, nets[variant].train())
            except RuntimeError as error:
                self.missing[variant] = f"raises: {str(error).splitlines()[0]}"
        if {"fused", "unfused"} <= losses.keys():  # they have the same weights
            off = 1e-3 if self.load.dtype == torch.float32 else 3e-2
            torch.testing.assert_close(losses["fused"], losses["unfused"], rtol=off, atol=off)

    def _add(self, variant: str, net: nn.Module) -> torch.Tensor:
        optimiser = torch.optim.SGD(net.parameters(), lr=1e-4)

        dtype = self.load.dtype

        def loss() -> torch.Tensor:
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                return F.cross_entropy(net(self.x), self.target)

        def step() -> None:
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()

        first = loss().detach()
        step()
        optimiser.zero_grad()
        self.facts[variant] = {
            "saved_bytes": saved_bytes(loss, without=storages(net)),
            "parameter_bytes": sum(p.nbytes for p in net.parameters()),
            "peak_bytes": peak_bytes(step, self.device),
        }
        self.calls[variant] = step
        return first


class Races:
    """The latest network's steps and their race, so that the tests of its variants share them."""

    def __init__(self, clock: Clock, limits: Callable[[], dict[str, Any]]) -> None:
        self.clock, self.limits = clock, limits
        self.key: tuple[str, bool] | None = None
        self.steps: Steps | None = None
        self.race: Race | None = None

    def of(self, name: str, channels_last: bool) -> tuple[Steps, Race]:
        if self.steps is None or self.race is None or self.key != (name, channels_last):
            self.steps = self.race = None  # first: there may be no room for two
            self.steps = Steps(name, channels_last, self.clock.device)
            # One step after the other leaves in the caches what the next one finds in training too.
            self.race = Race(self.clock, self.steps.calls, cold=False)
            self.race.run(**self.limits(), warm_up=1)
            self.key = name, channels_last
        return self.steps, self.race


@pytest.fixture(scope="session")
def races(clock: Clock, limits: Callable[[], dict[str, Any]]) -> Races:
    return Races(clock, limits)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    networks = 2 if chosen_device(metafunc.config).type == "cuda" else 1
    names = NETWORKS if metafunc.config.getoption("--full") else NETWORKS[:networks]
    cases = list(itertools.product(names, (False, True), VARIANTS))
    layouts = {False: "NCHW", True: "NHWC"}
    ids = [f"{name}-{layouts[last]}-{variant}" for name, last, variant in cases]
    metafunc.parametrize(("name", "channels_last", "variant"), cases, ids=ids)


def test_training_step(
    name: str, channels_last: bool, variant: str, races: Races, record: Recorder
) -> None:
    steps, race = races.of(name, channels_last)
    if variant in steps.missing:
        pytest.skip(f"{name}, {variant}: {steps.missing[variant]}")
    layout = "NHWC" if channels_last else "NCHW"
    facts = {
        "kind": "model",
        "label": f"{name} {layout}",
        "layer": name,
        "dtype": str(steps.load.dtype).removeprefix("torch."),
        "layout": layout,
        "mode": "training step",
        "rival": variant,
        "device": steps.device.type,
        "threads": torch.get_num_threads(),
        "batch": steps.load.batch,
        "pixels": steps.load.pixels,
    }
    record(race, variant, facts | steps.facts[variant])
