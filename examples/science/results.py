"""science.json: what the pictures and the page are made from."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

import fastblur

from . import measuring, runs
from .data import CLASSES, MARGIN, Fashion
from .networks import NETWORKS, PLAIN, POOLINGS, SHOWN

SCALARS = ("accuracy", "consistency", "swing", "local", "global", "global_corner")
PICTURED = "ResNet"  # the network of the stability curves
Record = dict[str, Any]


def assemble(
    plan: runs.Plan, jobs: list[runs.Job], fashion: Fashion, cost: Record, command: str
) -> Record:
    """Everything, from the files of all networks."""
    digest = fashion.digest()
    networks = []
    for job in jobs:
        figures = runs.found(job, plan, digest)
        assert figures is not None, job
        networks.append(asdict(job) | figures)
    first = networks[0]
    objects = measuring.one_of_each(*fashion.test).mul(255).int()[:, 0]
    return {
        "run": {
            "command": command,
            "date": datetime.now(UTC).date().isoformat(),
            "seeds": sorted({job.seed for job in jobs}),
            **asdict(plan.recipe),
            **asdict(plan.measures),
            "train_images": len(fashion.train[0]),
            "test_images": len(fashion.test[0]),
            "shift": MARGIN,
            "data": digest,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "fastblur": fastblur.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "networks": [
            {key: n[key] for key in ("network", "pooling", "shifts", "seed")}
            | {key: round(n[key], 6) for key in SCALARS}
            for n in networks
        ],
        "axes": {"shifts": first["axis"], "places": first["places"], "anchor": first["anchor"]},
        "curves": {name: rows_of(networks, PICTURED, name, "curve") for name in POOLINGS},
        "rings": {
            network: {name: ring(networks, network, name) for name in POOLINGS}
            for network in NETWORKS
        },
        "maps": {
            network: {name: rows_of(networks, network, name, "map") for name in (PLAIN, SHOWN)}
            for network in NETWORKS
        },
        "examples": examples(networks, fashion),
        "objects": objects.tolist(),
        "signals": measuring.signals(fashion.test[0][: plan.measures.curves]),
        "cost": cost,
    }


def rows_of(networks: Iterable[Record], network: str, pooling: str, key: str) -> Any:
    """The mean over seeds of one quantity, trained on centred images."""
    chosen = [
        n[key]
        for n in networks
        if (n["network"], n["pooling"], n["shifts"]) == (network, pooling, False)
    ]
    return measuring.rounded(torch.tensor(chosen, dtype=torch.float64).mean(0))


def ring(networks: list[Record], network: str, pooling: str) -> list[list[float]]:
    """The similarity by distance from the anchor: pairs of pixels and mean."""
    heat = torch.tensor(rows_of(networks, network, pooling, "map"))
    places, anchor = torch.tensor(networks[0]["places"]), tuple(networks[0]["anchor"])
    away: Tensor = measuring.distances(places, (anchor[0], anchor[1]))
    return [[r, round(heat[away == r].mean().item(), 4)] for r in away.unique().tolist()]


def examples(networks: list[Record], fashion: Fashion) -> list[Record]:
    """Of four classes, the image that swings most with max pooling and that both classify right."""
    chosen = {
        n["pooling"]: n
        for n in networks
        if n["network"] == PICTURED
        and n["pooling"] in (PLAIN, SHOWN)
        and not n["shifts"]
        and n["seed"] == 0
    }
    curves = {name: torch.tensor(n["curves"]) for name, n in chosen.items()}
    swing = curves[PLAIN].amax(1) - curves[PLAIN].amin(1)
    order = swing.argsort(descending=True, stable=True).tolist()
    images, labels = fashion.test
    first: dict[int, int] = {}  # by class, in the order of the swing
    for i in order:
        if all(n["right"][i] for n in chosen.values()):
            first.setdefault(int(labels[i]), i)
    return [
        {"class": CLASSES[labels[i]], "pixels": images[i, 0].tolist()}
        | {name: measuring.rounded(curve[i]) for name, curve in curves.items()}
        for i in [*first.values()][:4]
    ]


def of(data: Record, network: str, pooling: str, shifts: bool, key: str) -> list[float]:
    """One quantity of the networks of one kind, one value for each seed."""
    return [
        n[key]
        for n in data["networks"]
        if (n["network"], n["pooling"], n["shifts"]) == (network, pooling, shifts)
    ]
