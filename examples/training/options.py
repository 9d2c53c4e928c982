"""The command line."""

from __future__ import annotations

import difflib
import os
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

try:
    import timm
except ImportError:
    timm = None

DIGITS = "digits"  # as --data
TIMM = "timm/"  # in front of the name of a timm model
# Arguments that a resumed run may change, because they do not affect results.
FREE = {"resume", "out", "data", "workers", "log_every", "checkpoint_every", "device"}


def number(
    kind: Callable[[str], float], low: float, high: float = float("inf"), open_low: bool = False
) -> Callable[[str], float]:
    """An argparse type: a number from `low` (excluded if `open_low`) to `high`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise ArgumentTypeError(f"must be a number ({kind.__name__}), got {text!r}") from None
        if not (low < value if open_low else low <= value) or not value <= high:
            least = f"more than {low}" if open_low else f"{low} or more"
            most = f", at most {high}" if high != float("inf") else ""
            raise ArgumentTypeError(f"must be {least}{most}, got {text}")
        return value

    return parse


def known_arch(text: str) -> str:
    """An argparse type: a torchvision classifier, or `timm/` and a timm model."""
    names = torchvision.models.list_models(module=torchvision.models)
    if timm is not None:
        names += [TIMM + name for name in timm.list_models()]
    elif text.startswith(TIMM):
        raise ArgumentTypeError(f"{text!r} needs timm, which is missing: pip install timm")
    if text in names:
        return text
    near = difflib.get_close_matches(text, names, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "names: torchvision's, timm/ and timm's"
    raise ArgumentTypeError(f"no architecture is called {text!r}; {hint}")


def make_parser() -> ArgumentParser:
    """The command line and its defaults."""
    parser = ArgumentParser(
        description="Trains an image classifier, anti-aliased and fused on request.",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    count, more = number(int, 1), number(int, 0)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        required=True,
        help=f"folder with train/ and val/, one folder per class; or {DIGITS}",
    )
    group.add_argument("--size", type=count, help="pixels of a crop (default: 224, digits: 32)")
    group.add_argument(
        "--workers",
        type=more,
        default=min(4, os.cpu_count() or 1),
        help="processes that load images",
    )
    group.add_argument(
        "--limit", type=count, metavar="N", help="use N images of each part, for a trial"
    )

    group = parser.add_argument_group("model")
    group.add_argument(
        "--arch", type=known_arch, default="resnet18", help="a torchvision model, or timm/NAME"
    )
    group.add_argument(
        "--antialias",
        type=number(int, 1, 31),
        nargs="?",
        const=4,
        metavar="FILTER_SIZE",
        help="anti-alias with this many taps (4 if no number follows)",
    )
    group.add_argument("--fuse", action="store_true", help="fuse the anti-aliasing layers")
    group.add_argument("--channels-last", action="store_true")
    group.add_argument("--compile", action="store_true", help="torch.compile the model")
    group.add_argument("--amp", choices=["bfloat16", "float16"], help="mixed precision")

    group = parser.add_argument_group("optimisation")
    group.add_argument("--epochs", type=count, default=90)
    group.add_argument(
        "--batch-size", type=count, default=256, help="images per step, over all processes"
    )
    group.add_argument(
        "--lr",
        type=number(float, 0, open_low=True),
        default=0.1,
        help="learning rate after the warm-up",
    )
    group.add_argument("--warmup-epochs", type=number(float, 0), default=5, metavar="EPOCHS")
    group.add_argument("--momentum", type=number(float, 0, 1), default=0.9)
    group.add_argument("--weight-decay", type=number(float, 0), default=1e-4)
    group.add_argument("--label-smoothing", type=number(float, 0, 1), default=0.0)

    group = parser.add_argument_group("run")
    group.add_argument(
        "--out", type=Path, default=Path("runs/train"), help="folder for log and checkpoints"
    )
    group.add_argument("--resume", action="store_true", help="continue from the checkpoint in OUT")
    group.add_argument(
        "--checkpoint-every", type=more, default=500, help="steps; 0: only after epochs"
    )
    group.add_argument("--log-every", type=count, default=20, metavar="STEPS")
    group.add_argument("--seed", type=more, default=0)
    group.add_argument("--deterministic", action="store_true", help="same result in every run")
    group.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if available")
    return parser


def parse(parser: ArgumentParser, arguments: list[str] | None = None) -> Namespace:
    """Parses, checks combinations, and fills in dependent defaults."""
    args = parser.parse_args(arguments)
    if args.data != DIGITS:
        for part in ("train", "val"):
            if not (Path(args.data) / part).is_dir():
                parser.error(
                    f"argument --data: {args.data!r} has no folder {part}/ (it must hold train/ "
                    f"and val/, with a folder for each class; or give {DIGITS!r})"
                )
    if args.size is None:
        args.size = 32 if args.data == DIGITS else 224
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: 'cuda' is not available to this torch")
    if args.device is None:
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.warmup_epochs >= args.epochs:
        parser.error(
            f"argument --warmup-epochs: must be less than --epochs {args.epochs}, "
            f"got {args.warmup_epochs:g}"
        )
    last = args.out / "last.pt"
    if last.exists() and not args.resume:
        parser.error(f"argument --out: {last} exists; pass --resume to continue, or choose another")
    return args
