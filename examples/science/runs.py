"""Trains and measures all networks in several processes, and goes on where a run was stopped.

The work folder holds two files for each network: its weights and its figures, each with what made
them. A file that was made differently is made anew.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

import fastblur

from . import data, measuring, networks, training


@dataclass(frozen=True)
class Plan:
    """What all networks of a run share; JSON of it tells whether a file belongs to the run."""

    folder: Path  # of the data
    work: Path  # of the files
    train_images: int | None
    test_images: int | None
    recipe: training.Recipe
    measures: measuring.Measures

    def load(self) -> data.Fashion:
        """The photographs."""
        return data.load(self.folder, self.train_images, self.test_images)


@dataclass(frozen=True)
class Job:
    """One network."""

    network: str
    pooling: str
    shifts: bool
    seed: int

    @property
    def name(self) -> str:
        """The stem of its files."""
        moved = "shifts" if self.shifts else "centred"
        return f"{self.network}-{self.pooling}-{moved}-{self.seed}".lower().replace(" ", "_")

    def build(self) -> nn.Sequential:
        """The untrained network."""
        return networks.build(self.network, self.pooling, self.seed)

    def protocol(self, plan: Plan, digest: str) -> dict[str, Any]:
        """What determines its weights."""
        return {
            **asdict(self),
            **asdict(plan.recipe),
            "train_images": plan.train_images,
            "margin": data.MARGIN,
            "data": digest,
            "layers": layers(self.network, self.pooling),
            "fastblur": fastblur.__version__,
            "torch": str(torch.__version__),
        }


@functools.cache
def layers(network: str, pooling: str) -> int:
    """A checksum of a network's modules."""
    return zlib.crc32(repr(networks.build(network, pooling, 0)).encode())


def jobs(seeds: int) -> list[Job]:
    """All networks, one seed after the other, so that a run that is stopped has whole seeds."""
    order = product(range(seeds), networks.NETWORKS, (False, True), networks.POOLINGS)
    return [Job(network, pooling, shifts, seed) for seed, network, shifts, pooling in order]


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Calls `save` with another path and moves the file here, so that no file is half written."""
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    save(part)
    part.replace(path)


def trained(job: Job, plan: Plan, fashion: data.Fashion, digest: str, tick: Any) -> nn.Sequential:
    """The trained network: from its file, or trained now."""
    path, protocol = plan.work / f"{job.name}.pt", job.protocol(plan, digest)
    net = job.build()
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if saved["protocol"] == protocol:
            net.load_state_dict(saved["weights"])
            return net
    training.train(net, fashion.train, plan.recipe, shifts=job.shifts, seed=job.seed, tick=tick)
    write(path, lambda at: torch.save({"protocol": protocol, "weights": net.state_dict()}, at))
    return net


def wanted(job: Job, plan: Plan, digest: str) -> dict[str, Any]:
    """What determines the figures of a network."""
    more = {"test_images": plan.test_images, **asdict(plan.measures)}
    return job.protocol(plan, digest) | more


def found(job: Job, plan: Plan, digest: str) -> dict[str, Any] | None:
    """The figures of a network, if its file has them and they are of this run's kind."""
    path = plan.work / f"{job.name}.json"
    if not path.exists():
        return None
    saved: dict[str, Any] = json.loads(path.read_text())
    return saved["figures"] if saved["protocol"] == wanted(job, plan, digest) else None


class Worker:
    """One process of the pool: it holds the data, and ends with the process that started it."""

    plan: Plan
    fashion: data.Fashion
    digest: str
    steps: Any  # a counter that all processes share

    @classmethod
    def start(cls, plan: Plan, steps: Any) -> None:
        """Runs once in each process."""
        torch.set_num_threads(1)
        parent = multiprocessing.parent_process()
        assert parent is not None
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
        cls.plan, cls.steps, cls.fashion = plan, steps, plan.load()
        cls.digest = cls.fashion.digest()

    @classmethod
    def run(cls, job: Job) -> None:
        """Trains, measures and writes one network."""
        net = trained(job, cls.plan, cls.fashion, cls.digest, cls.tick)
        figures = measuring.measure(net, cls.fashion.test, cls.plan.measures, job.seed)
        record = {"protocol": wanted(job, cls.plan, cls.digest), "figures": figures}
        text = json.dumps(record, separators=(",", ":"))
        write(cls.plan.work / f"{job.name}.json", lambda at: at.write_text(text + "\n"))

    @classmethod
    def tick(cls) -> None:
        """Counts one training step."""
        with cls.steps.get_lock():
            cls.steps.value += 1


def run_all(plan: Plan, todo: list[Job], fashion: data.Fashion, processes: int) -> None:
    """Makes the figures of all jobs that have none yet."""
    plan.work.mkdir(parents=True, exist_ok=True)
    digest = fashion.digest()
    missing = [job for job in todo if found(job, plan, digest) is None]
    if not missing:
        return
    each = plan.recipe.epochs * (len(fashion.train[0]) // plan.recipe.batch_size)
    spawn = multiprocessing.get_context("spawn")
    steps = spawn.Value("q", 0)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with (
        Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True)) as progress,
        ProcessPoolExecutor(processes, spawn, Worker.start, (plan, steps)) as pool,
    ):
        whole = progress.add_task("Networks", total=len(todo), completed=len(todo) - len(missing))
        bar = progress.add_task("Training steps", total=each * len(missing))
        futures = {pool.submit(Worker.run, job): job for job in missing}
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.5):
                progress.update(bar, completed=steps.value)

        threading.Thread(target=watch, daemon=True).start()
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(whole)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            stop.set()
