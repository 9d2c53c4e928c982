"""Anti-aliasing on Fashion-MNIST: trains small networks with each pooling, measures, draws.

    python -m examples.figures --out docs/figures --page docs/science.md

Each network's weights and figures go to a work folder as they come; started again, a run goes on.
When all are there, speed and memory are measured, and everything goes to science.json. The pictures
and the page's tables are made from that file alone: `--redraw` starts from it.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

try:
    from .science import data, runs
    from .science.measuring import Measures
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
    parser.add_argument("--epochs", type=int, default=2, help="default: 2")
    parser.add_argument("--batch-size", type=int, default=128, help="default: 128")
    parser.add_argument("--train-images", type=int, help="default: all 60,000")
    parser.add_argument("--test-images", type=int, help="default: all 10,000")
    parser.add_argument(
        "--processes", type=int, default=2, help="of one thread each, to train; default: 2"
    )
    parser.add_argument("--redraw", action="store_true", help="from the science.json in --out")
    parser.add_argument("--quick", action="store_true", help="one seed, few images; minutes")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.train_images, args.test_images, args.batch_size = 1, 512, 200, 32
    return args


def main() -> None:
    """Measures or reads, then draws and fills in the page."""
    args = parse()
    plan = runs.Plan(
        folder=data.find(args.data),
        work=args.work,
        train_images=args.train_images,
        test_images=args.test_images,
        recipe=Recipe(args.epochs, args.batch_size),
        measures=Measures(curves=50, step=5) if args.quick else Measures(),
    )
    fashion = plan.load()
    runs.run_all(plan, runs.jobs(args.seeds), fashion.digest(), args.processes)


if __name__ == "__main__":
    main()
