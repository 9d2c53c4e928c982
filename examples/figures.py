"""Anti-aliasing on Fashion-MNIST: trains small networks with each pooling, measures, draws.

    python -m examples.figures --out docs/figures --page docs/science.md

Each network's weights and figures go to a work folder as they come; started again, a run goes on.
When all are there, speed and memory are measured, and everything goes to science.json. The pictures
and the page's tables are made from that file alone: `--redraw` starts from it.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from itertools import product
from pathlib import Path

try:
    import torch
    from rich.progress import Progress

    import fastblur

    from .science import cost, data, results, runs
    from .science.drawing import PICTURES
    from .science.measuring import Measures
    from .science.networks import NETWORKS, POOLINGS
    from .science.page import fill
    from .science.training import Recipe
except ImportError as error:
    if error.name and error.name.startswith(("examples", "fastblur")):
        raise
    sys.exit(f'The figures need {error.name}, which is missing: pip install "fastblur[demo]"')


def parse() -> Namespace:
    """The command line."""
    parser = ArgumentParser(prog="python -m examples.figures", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's four files")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="for the pictures")
    parser.add_argument("--page", type=Path, help="whose tables are filled in, if any")
    parser.add_argument(
        "--work", type=Path, default=Path("build/figures"), help="what a stopped run goes on from"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many; default: 3")
    parser.add_argument("--epochs", type=int, default=3, help="default: 3")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--train-images", type=int, help="default: all 60,000")
    parser.add_argument("--test-images", type=int, help="default: all 10,000")
    parser.add_argument(
        "--processes", type=int, default=2, help="of one thread each, to train; default: 2"
    )
    parser.add_argument("--redraw", action="store_true", help="from the science.json in --out")
    parser.add_argument("--quick", action="store_true", help="one seed, few images; minutes")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs, args.batch_size = 1, 1, 32
        args.train_images, args.test_images = 512, 200
    return args


def cost_of(plan: runs.Plan, timing: cost.Timing) -> results.Record:
    """Speed and memory: from the work folder, or measured now."""
    path = plan.work / "cost.json"
    protocol = {
        **asdict(plan.recipe),
        **asdict(timing),
        "layers": [runs.layers(*kind) for kind in product(NETWORKS, POOLINGS)],
        "fastblur": fastblur.__version__,
        "torch": str(torch.__version__),
    }
    if path.exists():
        saved = json.loads(path.read_text())
        if saved["protocol"] == protocol:
            return saved["cost"]
    with Progress() as progress:
        task = progress.add_task("Speed and memory", total=cost.count(timing))
        found = cost.measure(plan.recipe, timing, lambda: progress.advance(task))
    text = json.dumps({"protocol": protocol, "cost": found})
    runs.write(path, lambda at: at.write_text(text + "\n"))
    return found


def measured(args: Namespace) -> results.Record:
    """All figures: those that are missing in the work folder are made now."""
    plan = runs.Plan(
        folder=data.find(args.data),
        work=args.work,
        train_images=args.train_images,
        test_images=args.test_images,
        recipe=Recipe(args.epochs, args.batch_size),
        measures=Measures(curves=50, step=5, near=5) if args.quick else Measures(),
    )
    fashion, todo = plan.load(), runs.jobs(args.seeds)
    runs.run_all(plan, todo, fashion, args.processes)
    spent = cost_of(plan, cost.Timing(rounds=2, steps=1) if args.quick else cost.Timing())
    command = " ".join(["python -m examples.figures", *sys.argv[1:]])
    return results.assemble(plan, todo, fashion, spent, command)


def main() -> None:
    """Measures or reads, then draws and fills in the page."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "science.json"
    if not args.redraw:
        try:
            found = measured(args)
        except (FileNotFoundError, ValueError) as error:
            sys.exit(f"python -m examples.figures: {error}")
        file.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    found = json.loads(file.read_text())
    for name, draw in PICTURES.items():
        draw(found).savefig(args.out / f"{name}.png", pil_kwargs={"optimize": True})
    if args.page:
        args.page.write_text(fill(args.page.read_text(), found))


if __name__ == "__main__":
    main()
