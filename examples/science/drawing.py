"""The pictures of docs/science.md, drawn from science.json alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastblur.metrics import FeatureSimilarity

from .data import MARGIN
from .networks import FIRST, NETWORKS, PLAIN, POOLINGS, SHOWN
from .results import PICTURED, Record, of

# Okabe and Ito's colours, which colour-blind readers can distinguish, and one marker each.
STYLES: dict[str, dict[str, Any]] = {
    PLAIN: {"color": "#D55E00", "marker": "o"},
    "blur 2": {"color": "#E69F00", "marker": "^"},
    "blur 3": {"color": "#56B4E9", "marker": "v"},
    "blur 4": {"color": "#0072B2", "marker": "s"},
    "blur 5": {"color": "#009E73", "marker": "D"},
    FIRST: {"color": "#CC79A7", "marker": "P"},
}
LINE = {"lw": 1.4, "ms": 3.5}
BOTH = "accuracy", "consistency"


def draw_consistency(data: Record) -> Figure:
    """Consistency against accuracy: one panel for each network, up and to the right is better."""
    figure = Figure(figsize=(10.5, 4.4), dpi=100, layout="constrained")
    for target, network in zip(figure.subplots(1, 2), NETWORKS, strict=True):
        for name in POOLINGS:
            for shifts in (False, True):
                values = [of(data, network, name, shifts, key) for key in BOTH]
                x, y = (100 * statistics.fmean(v) for v in values)
                xerr, yerr = (100 * statistics.stdev(v) if len(v) > 1 else 0 for v in values)
                fill = {"mfc": STYLES[name]["color"] if shifts else "white"}
                style = STYLES[name] | fill | {"ms": 8, "elinewidth": 0.8, "ls": "none"}
                target.errorbar(x, y, yerr, xerr, **style, label=name if shifts else None)
        target.set_title(network, fontsize=11)
        target.set(xlabel="accuracy, %", ylabel="shift consistency, %")
        target.grid(alpha=0.3)
    handles, names = target.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.suptitle("hollow: trained on centred images; filled: on shifted ones", fontsize=10)
    return figure


def draw_stability(data: Record) -> Figure:
    """The curves of four photographs, and the mean of many."""
    shifts = data["axes"]["shifts"]
    figure = Figure(figsize=(10.5, 4.6), dpi=100, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.45, 1), wspace=0.03)
    left.suptitle(f"{PICTURED}: four photographs, first seed", fontsize=11)
    grid = left.subplots(2, 2, sharex=True, sharey=True)
    for axes, shown in zip(grid.flat, data["examples"], strict=False):
        for name in (PLAIN, SHOWN):
            axes.plot(shifts, shown[name], **STYLES[name], **LINE, label=name)
        axes.set(xlim=(-MARGIN - 0.6, MARGIN + 6.2), xticks=shifts[::2], ylim=(-0.04, 1.04))
        axes.grid(alpha=0.3)
        picture = axes.inset_axes((0.74, 0.3, 0.22, 0.4))
        picture.imshow(shown["pixels"], cmap="gray_r")
        picture.set(xticks=[], yticks=[])
        picture.set_title(shown["class"], fontsize=9)
        if not axes.get_subplotspec().is_first_row():
            axes.set_xlabel("shift (pixels, down and right)")
    handles, names = grid[0, 0].get_legend_handles_labels()
    left.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    left.supylabel("probability of the right class", fontsize=10)
    right.suptitle(
        f"{PICTURED}: mean of {data['run']['curves']} photographs, all seeds", fontsize=11
    )
    axes = right.subplots()
    for name in POOLINGS:
        axes.plot(shifts, data["curves"][name], **STYLES[name], **LINE, label=name)
    axes.set(xlabel="shift (pixels, down and right)", ylabel="probability of the right class")
    axes.grid(alpha=0.3)
    right.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_similarity(data: Record) -> Figure:
    """For each network: an object, two heat maps on one scale, and the similarity by distance."""
    figure = Figure(figsize=(10.5, 5.6), dpi=90, layout="constrained")
    places = {"in the middle": data["axes"]["anchor"], "in a corner": (0, 0)}
    rows = zip(figure.subfigures(2, 1), NETWORKS, places.items(), strict=True)
    for part, network, (where, corner) in rows:
        left, right = part.subfigures(1, 2, width_ratios=(2.6, 1), wspace=0.03)
        lowest = min(min(map(min, heat)) for heat in data["maps"][network].values())
        canvas, *panels = left.subplots(1, 3)
        draw_object(data, canvas, corner)
        canvas.set_title(f"an object {where}", fontsize=10)
        for name, axes in zip((PLAIN, SHOWN), panels, strict=True):
            heat_map(data, network, name, lowest, axes)
        panels[1].set_ylabel("")
        bar = left.colorbar(panels[1].collections[0], ax=panels, location="right", shrink=0.7)
        bar.set_label("cosine similarity")
        target = right.subplots()
        profile(data, network, target)
    handles, names = target.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def draw_object(data: Record, axes: Axes, corner: tuple[int, int]) -> None:
    """One of the objects on the canvas, its top left corner here."""
    pixels = torch.tensor(data["objects"][-1])
    canvas = torch.zeros(data["run"]["canvas"], data["run"]["canvas"])
    (y, x), (height, width) = corner, pixels.shape
    canvas[y : y + height, x : x + width] = pixels
    axes.imshow(canvas, cmap="gray_r")
    axes.set(xticks=[], yticks=[])


def heat_map(data: Record, network: str, name: str, lowest: float, axes: Axes) -> None:
    """The similarity to the middle, at each place of the canvas."""
    places, anchor = torch.tensor(data["axes"]["places"]), tuple(data["axes"]["anchor"])
    shown = torch.tensor(data["maps"][network][name])[None]
    found = FeatureSimilarity(
        shown, places, places, (anchor[0], anchor[1]), shown.mean().item(), shown.min().item()
    )
    found.plot(axes, lowest=lowest)
    axes.set_title(f"{network}, {name}", fontsize=11)


def profile(data: Record, network: str, axes: Axes) -> None:
    """The mean similarity at each distance."""
    for name in POOLINGS:
        pixels, means = zip(*data["rings"][network][name], strict=True)
        axes.plot(pixels, means, **STYLES[name], **LINE, label=name)
    axes.set_title(f"{network}, by distance", fontsize=11)
    axes.set(xlabel="shift (pixels)", ylabel="mean cosine similarity")
    axes.grid(alpha=0.3)


def draw_signals(data: Record) -> Figure:
    """Zhang's example at both phases, and the distance from equivariance by shift."""
    found = data["signals"]
    signal = torch.tensor(found["example"])
    figure = Figure(figsize=(10.5, 3.7), dpi=100, layout="constrained")
    *panels, axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    for name, target in zip((PLAIN, "blur 3"), panels, strict=True):
        target.step(range(len(signal)), signal, where="mid", color="0.7", lw=4, label="signal")
        for shift, marker in ((0, "o"), (1, "s")):
            response = found["responses"][name][shift]
            # The position of a response sample in the unshifted signal.
            where = (2 * torch.arange(len(response)) - shift) % len(signal)
            order = where.argsort()
            style = STYLES[name] | {"marker": marker, "mfc": "white"}
            style |= {"ls": ("-", "--")[shift], "lw": 1.4, "ms": 7}
            label = f"response, shifted by {shift}"
            target.plot(where[order], torch.tensor(response)[order], **style, label=label)
        target.set(xlabel="place in the signal (samples)", ylim=(-0.08, 1.45))
        target.set_title(f"{name}, one layer", fontsize=11)
        target.legend(fontsize=8, loc="upper center", ncols=1, frameon=False)
        target.set_yticks([0, 0.5, 1])
        target.grid(alpha=0.3)
    panels[0].set_ylabel("value")
    for name, distance in found["distance"].items():
        axes.plot(distance, **STYLES[name], **LINE, label=name)
    axes.set_title("rows of photographs, three layers", fontsize=11)
    axes.set(xlabel="shift t (samples)", ylabel="distance from equivariance d(t)")
    most = max(map(max, found["distance"].values()))
    axes.set(xticks=range(0, len(distance), 4), ylim=(0, 1.3 * most))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", ncols=3)
    return figure


PICTURES: dict[str, Callable[[Record], Figure]] = {
    "consistency": draw_consistency,
    "stability": draw_stability,
    "similarity": draw_similarity,
    "signal": draw_signals,
}
