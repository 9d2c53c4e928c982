"""Data-parallel training: two processes end with the weights of one on the joined batch."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastblur import FusedBlurPool, FusedMaxBlurPool

STEPS, BATCH = 3, 8


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        FusedMaxBlurPool(3, 2, 1, relu=True),
        nn.Conv2d(8, 8, 3, padding=1),
        FusedBlurPool(relu=True),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 5),
    ).double()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 3, 16, 16, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (BATCH,), generator=generator)


def train(model: nn.Module, part: slice) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        x, target = batch(step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[part]), target[part]).backward()
        optimiser.step()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = DistributedDataParallel(net())
    half = BATCH // 2
    train(model, slice(rank * half, (rank + 1) * half))
    torch.save(model.module.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = net()
    start = copy.deepcopy(alone.state_dict())
    train(alone, slice(None))
    for name, weight in alone.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight, rtol=1e-10, atol=1e-12)
        assert not torch.equal(weight, start[name])
