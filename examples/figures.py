"""Anti-aliasing on digits: trains a small CNN with each pooling, measures, draws, updates a page.

    python examples/figures.py --out docs/figures --page docs/science.md

writes all measurements to science.json, draws three pictures from that file alone, and writes the
page's table between its two markers. `--redraw` starts from the existing science.json.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastblur
from fastblur import FusedMaxBlurPool, FusedMaxBlurPool1d
from fastblur.metrics import (
    FeatureSimilarity,
    feature_similarity,
    shift_consistency,
    shift_equivariance,
    stability_curve,
)

try:
    from digits import MARGIN, SIZE, Digits, build, load_digits, place, train
    from matplotlib.figure import Figure
    from rich.progress import Progress
except ImportError as error:
    sys.exit(f'The figures need {error.name}, which is missing: pip install "fastblur[demo]"')

PLAIN, SHOWN = "max pooling", "filter 4"
FILTERS = {f"filter {size}": size for size in (2, 3, 4, 5)}
POOLINGS = (PLAIN, *FILTERS)
CROP, CANVAS = (
    SIZE + 2 * MARGIN,
    48,
)  # as in training; and larger, so that a digit can move 20 pixels
FEATURES = "10"  # the layer that feeds the classifier: after global average pooling
PAIRS, STEPS = 5, 16  # pairs of shifts for each digit; largest shift of a signal
# Okabe and Ito's colours, which colour-blind readers can distinguish, and one marker each.
STYLES: dict[str, dict[str, Any]] = {
    PLAIN: {"color": "#D55E00", "marker": "o"},
    "filter 2": {"color": "#E69F00", "marker": "^"},
    "filter 3": {"color": "#56B4E9", "marker": "v"},
    "filter 4": {"color": "#0072B2", "marker": "s"},
    "filter 5": {"color": "#009E73", "marker": "D"},
}
LINE = {"lw": 1.4, "ms": 3.5}
BEGIN, END = "<!-- figures.py: begin -->", "<!-- figures.py: end -->"


def pooling(name: str) -> nn.Module:
    """ReLU and pooling together, because the fused layer includes the ReLU."""
    if name == PLAIN:
        return nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    return FusedMaxBlurPool(filter_size=FILTERS[name], relu=True)


def rounded(values: Tensor) -> Any:
    """Nested lists rounded to four decimals, more than a picture shows."""
    return [rounded(row) for row in values] if values.dim() else round(values.item(), 4)


def study(
    name: str, seed: int, sets: tuple[Digits, Digits], args: Namespace, tick: Callable[[], object]
) -> dict[str, Any]:
    """Trains one network and measures it on the test digits."""
    x, y = sets[1]
    net = build(lambda: pooling(name), seed)
    train(net, sets[0], args.epochs, args.batch_size, seed, tick)
    shiftable = place(x, margin=2 * MARGIN)
    curve = stability_curve(net, shiftable, y, crop=CROP)
    patches = torch.stack(
        [x[y == digit][0] for digit in range(10)]
    )  # the first of each class, not selected
    similarity = feature_similarity(
        net, patches, CANVAS, layer=FEATURES, background=0.0, step=args.step
    )
    return {
        "pooling": name,
        "seed": seed,
        "accuracy": curve.right[:, curve.shifts == 0].double().mean().item(),
        "consistency": float(shift_consistency(net, shiftable, crop=CROP, pairs=PAIRS, seed=seed)),
        "swing": curve.swing,
        "similarity": similarity.mean,
        "shifts": curve.shifts.tolist(),
        "curve": rounded(curve.probability.mean(0)),
        "map": rounded(similarity.similarity.mean(0)),
        "places": similarity.rows.tolist(),
        "anchor": list(similarity.anchor),
        "curves": curve,  # per digit; not written to the file
    }


def examples(networks: list[dict[str, Any]], sets: tuple[Digits, Digits]) -> list[dict[str, Any]]:
    """The four digits that swing most with max pooling, among those both classify correctly."""
    curves = {n["pooling"]: n["curves"] for n in networks if n["pooling"] in (PLAIN, SHOWN)}
    swing = curves[PLAIN].probability.amax(1) - curves[PLAIN].probability.amin(1)
    right = [c.right[:, c.shifts == 0].squeeze(1) for c in curves.values()]
    chosen = [i for i in swing.argsort(descending=True).tolist() if all(r[i] for r in right)][:4]
    (x, y), found = sets[1], []
    for i in chosen:
        found.append({"digit": y[i].item(), "pixels": x[i, 0].mul(255).int().tolist()})
        found[-1] |= {name: rounded(c.probability[i]) for name, c in curves.items()}
    return found


def signals(test_set: Digits) -> dict[str, Any]:
    """The 1-D experiment: Zhang's example through one layer, rows of digits through three."""
    one = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(4)
    layers = {PLAIN: lambda: nn.MaxPool1d(2)} | {
        name: lambda size=size: FusedMaxBlurPool1d(filter_size=size)
        for name, size in FILTERS.items()
    }
    rows = place(test_set[0])[:, :, CROP // 2]  # the middle row of each digit's canvas
    found: dict[str, Any] = {"example": one.tolist(), "responses": {}, "distance": {}}
    for name, layer in layers.items():
        responses = shift_equivariance(layer(), one, [0, 1]).responses
        found["responses"][name] = rounded(responses[:, 0, 0])
        three = nn.Sequential(*(layer() for _ in range(3)))
        found["distance"][name] = rounded(
            shift_equivariance(three, rows, range(STEPS + 1)).distance.mean(1)
        )
    return found


def measure(args: Namespace) -> dict[str, Any]:
    """All measurements for the pictures and the page."""
    networks: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    sizes = (50, 10) if args.quick else (400, 100)
    with Progress() as progress:
        steps = args.epochs * (10 * sizes[0] // args.batch_size)
        task = progress.add_task("Networks", total=args.seeds * len(POOLINGS) * steps)
        for seed in range(args.seeds):
            sets = load_digits(seed, *sizes)
            tick = lambda: progress.advance(task)  # noqa: E731
            networks += [study(name, seed, sets, args, tick) for name in POOLINGS]
            shown = shown or examples(networks, sets)
    for network in networks:
        del network["curves"]
    run = {
        "command": "python examples/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": list(range(args.seeds)),
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "train_digits": 10 * sizes[0],
        "test_digits": 10 * sizes[1],
        "pairs": PAIRS,
        "shift": MARGIN,
        "canvas": CANVAS,
        "threads": torch.get_num_threads(),
        "fastblur": fastblur.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return {
        "run": run,
        "networks": networks,
        "digits": shown,
        "signals": signals(load_digits(0, *sizes)[1]),
    }


def of(data: dict[str, Any], name: str, key: str) -> list[Any]:
    """One quantity of the networks with one pooling, one value per seed."""
    return [n[key] for n in data["networks"] if n["pooling"] == name]


def mean_of(data: dict[str, Any], name: str, key: str) -> Tensor:
    """The mean over seeds."""
    return torch.tensor(of(data, name, key)).mean(0)


def draw_stability(data: dict[str, Any]) -> Figure:
    """The curves of four digits, and the mean of all digits."""
    shifts = data["networks"][0]["shifts"]
    figure = Figure(figsize=(10.5, 4.6), dpi=100, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.45, 1), wspace=0.03)
    left.suptitle("Four digits, first seed", fontsize=11)
    grid = left.subplots(2, 2, sharex=True, sharey=True)
    for axes, shown in zip(grid.flat, data["digits"], strict=False):
        for name in (PLAIN, SHOWN):
            axes.plot(shifts, shown[name], **STYLES[name], **LINE, label=name)
        axes.set(xlim=(-MARGIN - 0.6, MARGIN + 4.2), xticks=shifts[::2], ylim=(-0.04, 1.04))
        axes.grid(alpha=0.3)
        picture = axes.inset_axes((0.79, 0.34, 0.2, 0.32))
        picture.imshow(shown["pixels"], cmap="gray_r")
        picture.set(xticks=[], yticks=[])
        picture.set_title(f"a {shown['digit']}", fontsize=9)
        if not axes.get_subplotspec().is_first_row():
            axes.set_xlabel("shift (pixels, down and right)")
    handles, names = grid[0, 0].get_legend_handles_labels()
    left.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    left.supylabel("probability of the right class", fontsize=10)
    right.suptitle("Mean of all test digits and seeds", fontsize=11)
    axes = right.subplots()
    for name in POOLINGS:
        axes.plot(shifts, mean_of(data, name, "curve"), **STYLES[name], **LINE, label=name)
    axes.set(xlabel="shift (pixels, down and right)", ylabel="probability of the right class")
    axes.grid(alpha=0.3)
    right.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_similarity(data: dict[str, Any]) -> Figure:
    """Two heat maps on one scale, and the similarity by distance."""
    places = torch.tensor(data["networks"][0]["places"])
    anchor = tuple(data["networks"][0]["anchor"])
    maps = {name: mean_of(data, name, "map") for name in POOLINGS}
    lowest = min(maps[name].min().item() for name in (PLAIN, SHOWN))
    figure = Figure(figsize=(10.5, 4), dpi=100, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 1), wspace=0.04)
    heat, axes = left.subplots(1, 2, sharey=True), right.subplots()
    for name, target in zip((PLAIN, SHOWN), heat, strict=True):
        shown = maps[name][None]
        result = FeatureSimilarity(shown, places, places, anchor, shown.mean().item(), lowest)
        result.plot(target, lowest=lowest)
        target.set_title(name, fontsize=11)
    heat[1].set_ylabel("")
    bar = left.colorbar(heat[1].collections[0], ax=heat, location="right", shrink=0.8)
    bar.set_label("cosine similarity to the middle")
    away = (places - anchor[0]).abs()
    ring = torch.maximum(away[:, None], away)  # the larger distance of the two axes
    for name in POOLINGS:
        means = [maps[name][ring == r].mean().item() for r in ring.unique()]
        axes.plot(ring.unique().tolist(), means, **STYLES[name], **LINE, label=name)
    axes.set_title("by distance from the middle", fontsize=11)
    axes.set(xlabel="shift (pixels, the larger of both axes)", ylabel="mean cosine similarity")
    axes.grid(alpha=0.3)
    right.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_signals(data: dict[str, Any]) -> Figure:
    """Zhang's example at both phases, and the distance from equivariance by shift."""
    found = data["signals"]
    signal = torch.tensor(found["example"])
    figure = Figure(figsize=(10.5, 3.7), dpi=100, layout="constrained")
    *panels, axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    for name, target in zip((PLAIN, "filter 3"), panels, strict=True):
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
    for name in POOLINGS:
        axes.plot(found["distance"][name], **STYLES[name], **LINE, label=name)
    axes.set_title("rows of digits, three layers", fontsize=11)
    axes.set(xlabel="shift t (samples)", ylabel="distance from equivariance d(t)")
    axes.set(xticks=range(0, STEPS + 1, 4), ylim=(0, 0.78))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper right", ncols=2)
    return figure


PICTURES = {"stability": draw_stability, "similarity": draw_similarity, "signal": draw_signals}


def spread(values: list[float], scale: float = 1, digits: int = 2, sign: str = "") -> str:
    """Mean and standard deviation, for the table."""
    deviation = f"{scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else "n/a"
    return f"{scale * statistics.fmean(values):{sign}.{digits}f} ± {deviation}"


def table(data: dict[str, Any]) -> str:
    """The generated part of the page: the run and its results."""
    run = data["run"]
    lines = [
        f"`{run['command']}` on {run['date']}: seeds {', '.join(map(str, run['seeds']))}; "
        f"{run['epochs']} epochs in batches of {run['batch_size']}; {run['train_digits']} digits "
        f"to train, {run['test_digits']} others to test; {run['threads']} "
        f"thread{'s' if run['threads'] > 1 else ''} of a CPU; fastblur {run['fastblur']}, torch "
        f"{run['torch']}, Python {run['python']}.",
        "",
        "| pooling | accuracy, % | shift consistency, % | the same, minus max pooling | swing "
        "| feature similarity |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    base = of(data, PLAIN, "consistency")
    for name in POOLINGS:
        gains = [a - b for a, b in zip(of(data, name, "consistency"), base, strict=True)]
        cells = [
            name if name == PLAIN else f"max + blur, {name}",
            spread(of(data, name, "accuracy"), 100),
            spread(of(data, name, "consistency"), 100),
            "" if name == PLAIN else spread(gains, 100, sign="+"),
            spread(of(data, name, "swing"), digits=3),
            spread(of(data, name, "similarity"), digits=4),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Mean ± standard deviation over {len(run['seeds'])} seeds. A seed sets the split, the "
        "initial weights and the order, equally for all poolings; differences are per seed.",
    ]
    return "\n".join(lines)


def fill(page: str, data: dict[str, Any]) -> str:
    """The page with a new table between its markers."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table(data)}\n{END}{after}"


def parse() -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="for the pictures")
    parser.add_argument("--page", type=Path, help="whose table is filled in, if any")
    parser.add_argument("--seeds", type=int, default=3, help="how many; default: 3")
    parser.add_argument("--epochs", type=int, default=8, help="default: 8")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--redraw", action="store_true", help="from the science.json in --out")
    parser.add_argument("--quick", action="store_true", help="one epoch and seed, few digits")
    args = parser.parse_args()
    args.step = 5 if args.quick else 1
    if args.quick:
        args.seeds, args.epochs, args.batch_size = 1, 1, 32
    return args


def main() -> None:
    """Measures or reads, then draws and fills in the page."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "science.json"
    if not args.redraw:
        file.write_text(json.dumps(measure(args), separators=(",", ":")) + "\n")
    data = json.loads(file.read_text())
    for name, draw in PICTURES.items():
        draw(data).savefig(args.out / f"{name}.png", pil_kwargs={"optimize": True})
    if args.page:
        args.page.write_text(fill(args.page.read_text(), data))


if __name__ == "__main__":
    main()
