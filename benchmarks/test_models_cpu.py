"""Training steps of whole networks on the CPU: plain, anti-aliased, and anti-aliased with fuse_."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastblur import fuse_
from tests.measure import peak_bytes, saved_bytes, storages

from .conftest import Race

torchvision = pytest.importorskip("torchvision")
aa = pytest.importorskip("antialiased_cnns")
timm = pytest.importorskip("timm")

BATCH, SIZE = 8, 160
MIB = 2**20
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "resnet18": (torchvision.models.resnet18, lambda: timm.create_model("resnetblur18")),
    "resnet50": (torchvision.models.resnet50, lambda: timm.create_model("resnetblur50")),
    "vgg11_bn": (torchvision.models.vgg11_bn, aa.vgg11_bn),
}


def networks(name: str) -> dict[str, nn.Module]:
    plain, anti_aliased = PAIRS[name]
    found = {"fused": anti_aliased(), "unfused": anti_aliased(), "plain": plain()}
    found["fused"].load_state_dict(found["unfused"].state_dict())
    fuse_(found["fused"])
    return found


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", PAIRS)
def test_training_step(name: str, channels_last: bool, race: Race) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=memory_format)
    target = torch.randint(1000, (BATCH,))
    steps: dict[str, Callable[[], object]] = {}
    facts: dict[str, object] = {}
    for key, net in networks(name).items():
        net.to(memory_format=memory_format).train()
        optimiser = torch.optim.SGD(net.parameters(), lr=1e-4)

        def loss(net: nn.Module = net) -> torch.Tensor:
            return F.cross_entropy(net(x), target)

        def step(
            loss: Callable[[], torch.Tensor] = loss, optimiser: torch.optim.Optimizer = optimiser
        ) -> None:
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()

        try:
            step()
        except RuntimeError as error:
            facts[key] = f"raises: {str(error).splitlines()[0]}"
            continue
        optimiser.zero_grad()
        facts[key] = {
            "saved_mib": saved_bytes(loss, without=storages(net)) / MIB,
            "parameters_mib": sum(p.nbytes for p in net.parameters()) / MIB,
            "peak_mib": peak_bytes(step) / MIB,
        }
        steps[key] = step
    race.benchmark.extra_info["memory"] = facts
    race(f"{name} {'NHWC' if channels_last else 'NCHW'}", steps, rounds=4, evict=False)
    for key, fact in facts.items():
        race.rows.append([f"  {key}", str(fact)])
