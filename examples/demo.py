"""Three small CNNs on real digits: max pooling, anti-aliased pooling, and the same pooling fused.

All three start from the same weights and see the same batches; only the pooling differs. The demo
takes a minute or two on two cores, prints one table, draws one picture, and fails if fused and
unfused training diverge.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastblur import FusedMaxBlurPool
from fastblur.metrics import StabilityCurve, shift_consistency, stability_curve

try:
    from digits import MARGIN, SIZE, STAGES, Digits, build, load_digits, place, train, training_step
    from matplotlib.figure import Figure, SubFigure
    from rich.progress import Progress
    from rich.table import Column, Table
except ImportError as error:
    sys.exit(f'The demo needs {error.name}, which is missing: pip install "fastblur[demo]"')

SHIFT_PAIRS, TIMED_STEPS = 3, 15
CHECKED_STEPS, TOLERANCE = 10, 1e-3  # fused and unfused losses: these first steps, relative

# ReLU and pooling together, because the fused layer includes the ReLU; the blur has 4 x 4 taps.
POOLS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    "anti-aliased, unfused": lambda: FusedMaxBlurPool(relu=True, backend="reference"),
    "anti-aliased, fused": lambda: FusedMaxBlurPool(relu=True),
}
PLAIN, UNFUSED, FUSED = POOLS
LINES: dict[str, dict[str, Any]] = {
    PLAIN: {"color": "tab:orange", "lw": 1.2},
    UNFUSED: {"color": "lightskyblue", "lw": 3.5},
    FUSED: {"color": "navy", "lw": 1.2, "ls": (0, (4, 2))},
}


@dataclass
class Result:
    """Measurements of one network."""

    net: nn.Module
    losses: list[float]  # of each training step
    curve: StabilityCurve  # of the test digits
    right: Tensor  # [tests]: whether it classifies the unshifted digit correctly
    accuracy: float
    consistency: float
    saved_bytes: int
    pools_saved_bytes: int
    step_ms: float = float("nan")


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for a module's backward: each storage once, without weights."""
    kept: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module.train()(x)
    weights = {w.untyped_storage().data_ptr() for w in module.state_dict().values()}
    return sum(kept[address].nbytes() for address in kept.keys() - weights)


def pools_saved_bytes(name: str, batch: int) -> int:
    """The same for the network's ReLU and pooling layers, each run alone on its input shape."""
    size, total = SIZE + 2 * MARGIN, 0
    for _, channels in STAGES:
        x = torch.randn(batch, channels, size, size, requires_grad=True)
        total, size = total + saved_bytes(POOLS[name](), x), size // 2
    return total


def time_steps(results: list[Result], x: Tensor, y: Tensor) -> None:
    """Records the median ms per training step, in alternation; changes the weights."""
    runs = [(r.net, torch.optim.SGD(r.net.parameters(), 1e-4), list[float]()) for r in results]
    for _ in range(2 + TIMED_STEPS):  # two to warm up
        for net, optimizer, times in runs:
            start = time.perf_counter()
            training_step(net, optimizer, x, y)
            times.append(1e3 * (time.perf_counter() - start))
    for r, (_, _, times) in zip(results, runs, strict=True):
        r.step_ms = torch.tensor(times[2:]).median().item()


def study(name: str, sets: tuple[Digits, Digits], args: Namespace, progress: Progress) -> Result:
    """Trains and measures one network."""
    train_set, (x, y) = sets
    net = build(POOLS[name], args.seed)
    task = progress.add_task(name, total=args.epochs * (len(train_set[0]) // args.batch_size))
    losses = train(
        net, train_set, args.epochs, args.batch_size, args.seed, lambda: progress.advance(task)
    )
    # With twice the margin, a crop of the canvas size shows the shifted digit on its canvas.
    shiftable, crop = place(x, margin=2 * MARGIN), SIZE + 2 * MARGIN
    curve = stability_curve(net, shiftable, y, crop=crop)
    right = curve.right[:, curve.shifts == 0].squeeze(1)
    return Result(
        net=net,
        losses=losses,
        curve=curve,
        right=right,
        accuracy=right.float().mean().item(),
        consistency=float(
            shift_consistency(net, shiftable, crop=crop, pairs=SHIFT_PAIRS, seed=args.seed)
        ),
        saved_bytes=saved_bytes(net, place(train_set[0][: args.batch_size])),
        pools_saved_bytes=pools_saved_bytes(name, args.batch_size),
    )


def make_table(results: dict[str, Result], args: Namespace, tested: int) -> Table:
    """The table, with a caption that explains its columns."""
    caption = (
        f"Consistency: same class at two random shifts of up to {MARGIN} px, {SHIFT_PAIRS} pairs "
        f"for each of {tested} test digits. Step: forward, backward and update at batch "
        f"{args.batch_size}, median of {TIMED_STEPS} in turn, {torch.get_num_threads()} threads. "
        "Saved: kept by autograd for backward, without weights; by pools: for ReLU and pooling."
    )
    headers = "test\naccuracy", "shift\nconsistency", "ms\nper step", "MB\nsaved", "by\npools"
    columns = [Column("\npooling", no_wrap=True), *(Column(h, justify="right") for h in headers)]
    table = Table(*columns, title="Three poolings", caption=caption, caption_justify="left")
    for name, r in results.items():
        saved = f"{r.saved_bytes / 1e6:.1f}", f"{r.pools_saved_bytes / 1e6:.1f}"
        table.add_row(name, f"{r.accuracy:.1%}", f"{r.consistency:.1%}", f"{r.step_ms:.1f}", *saved)
    return table


def draw_losses(figure: SubFigure, results: dict[str, Result], apart: list[float]) -> None:
    """The three losses, and the difference between fused and unfused."""
    figure.suptitle("Training: same initial weights, same batches", fontsize=11)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for name, result in results.items():
        top.plot(result.losses, label=name, **LINES[name])
    top.set(ylabel="training loss", ylim=(0, None))
    bottom.plot([max(d, 1e-8) for d in apart], color="navy", lw=1, label="fused against unfused")
    bottom.plot([TOLERANCE] * CHECKED_STEPS, color="tab:red", lw=2.5, label="limit at the start")
    bottom.set(xlabel="training step", ylabel="relative difference\n(0 as 1e-8)", yscale="log")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)


def draw_curves(figure: SubFigure, results: dict[str, Result], digits: Tensor, y: Tensor) -> None:
    """The probability of the right class against the shift, for the four digits that swing most."""
    shown = {name: results[name] for name in (PLAIN, FUSED)}
    curves = {name: r.curve.probability for name, r in shown.items()}
    swing = {name: c.amax(1) - c.amin(1) for name, c in curves.items()}
    shifts = results[PLAIN].curve.shifts.tolist()
    order = swing[PLAIN].argsort(descending=True).tolist()
    chosen = [i for i in order if all(r.right[i] for r in shown.values())][:4]
    figure.suptitle("Probability of the right class as a digit moves diagonally", fontsize=11)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, i in zip(grid.flat, chosen, strict=False):  # short training may leave fewer
        for name, c in curves.items():
            axes.plot(shifts, c[i], **LINES[name] | {"ls": "-", "marker": "."}, label=name)
        axes.set(xlim=(-6.6, 9.8), xticks=shifts[::2], ylim=(-0.04, 1.04))
        axes.grid(alpha=0.3)
        picture = axes.inset_axes((0.81, 0.35, 0.18, 0.3))
        picture.imshow(digits[i, 0], cmap="gray_r")
        picture.set(xticks=[], yticks=[], title=f"a {y[i]}")
    grid[0, 0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, frameon=False)
    means = "; ".join(f"{name} {s.mean():.2f}" for name, s in swing.items())
    figure.supxlabel(
        "shift (pixels, down and right)\n\nShown: the four test digits whose curve has the largest "
        "max - min with plain pooling,\nof those that both networks get right unshifted. "
        f"Mean max - min of all {len(y)} test digits:\n{means}."
    ).set_fontsize(9)


def parse() -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8, help="default: 8")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo.png"), help="file for the picture")
    parser.add_argument("--json", type=Path, help="file for the figures of the table")
    parser.add_argument(
        "--quick", action="store_true", help="1 epoch in batches of 32, with few digits"
    )
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.batch_size = 1, 32
    return args


def main() -> int:
    """Trains, measures, prints and draws; returns 1 if fused and unfused training diverge."""
    args = parse()
    sets = load_digits(args.seed, *((200, 20) if args.quick else (400, 100)))
    with Progress() as progress:
        results = {name: study(name, sets, args, progress) for name in POOLS}
    (x, y), test_set = sets
    time_steps([*results.values()], place(x[: args.batch_size]), y[: args.batch_size])
    progress.console.print(make_table(results, args, len(test_set[0])))
    pairs = zip(results[FUSED].losses, results[UNFUSED].losses, strict=True)
    apart = [abs(fused - unfused) / abs(unfused) for fused, unfused in pairs]
    figure = Figure(figsize=(13, 6.5), dpi=120, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3), wspace=0.03)
    draw_losses(left, results, apart)
    draw_curves(right, results, *test_set)
    figure.savefig(args.out)
    head = apart[:CHECKED_STEPS]
    agree = all(d <= TOLERANCE for d in head)
    progress.console.print(
        f"Fused and unfused losses differ by at most {max(head):.1e} (relative) in the first "
        f"{len(head)} steps, {'within' if agree else 'BEYOND'} the limit of {TOLERANCE:.0e}; by "
        f"{max(apart):.1e} in all {len(apart)}, as training amplifies rounding. Picture: {args.out}"
    )
    if args.json:
        report: dict[str, Any] = {"loss_difference": max(head)}
        for name, r in results.items():
            report[name] = {k: v for k, v in vars(r).items() if isinstance(v, (int, float))}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
