"""Images, whose order and random augmentation depend only on seed, epoch and image.

They do not depend on earlier random draws, the number of processes, or interruptions.
"""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from .options import DIGITS
from .processes import Processes, leave_signals_to_parent

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GREY = {"mean": (0.1307,) * 3, "std": (0.3081,) * 3}  # MNIST's
VALIDATION_SCALE = 256 / 224  # validation images to their crops

Key = tuple[int, int]  # epoch and image


class Augmented(Dataset[tuple[Tensor, int]]):
    """The augmented images of all epochs; the same key always gives the same tensor."""

    def __init__(self, images: Sequence[tuple[Any, int]], transform: v2.Compose, seed: int) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        epoch, index = key
        image, label = self.images[index]
        name = hashlib.blake2b(f"{self.seed}/{epoch}/{index}".encode(), digest_size=8)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(name.digest(), "little") >> 1)
            return self.transform(image), label


class Batches:
    """The keys of each training step of this process, as a DataLoader's batch_sampler.

    Together, the batches of all processes are the batch of a single process.
    """

    def __init__(self, length: int, batch_size: int, processes: Processes, seed: int) -> None:
        self._sampler = DistributedSampler(
            range(length),  # type: ignore[arg-type]
            processes.count,
            processes.rank,
            seed=seed,
            drop_last=True,
        )
        self._batches = BatchSampler(self._sampler, batch_size // processes.count, drop_last=True)
        self._epoch, self._start = 0, 0

    def begin(self, epoch: int, start: int) -> None:
        """Selects the next iteration: an epoch, from a step on."""
        self._epoch, self._start = epoch, start
        self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Key]]:
        for indices in islice(self._batches, self._start, None):
            yield [(self._epoch, index) for index in indices]

    def __len__(self) -> int:
        """Number of steps in an epoch."""
        return len(self._batches)


class Data:
    """Loaders for training and validation; images [N, 3, size, size], float32, normalised.

    Validation images are larger by VALIDATION_SCALE, which leaves room for shifts; their third item
    is the number of the image.

    Raises:
        ValueError: there are too few images, or validation and training have different classes.
    """

    def __init__(self, args: Namespace, processes: Processes) -> None:
        *parts, self.classes = load(args)
        training, validation = (limited(part, args) for part in parts)
        self.images = len(training)
        if args.batch_size > self.images:
            raise ValueError(
                f"argument --batch-size: {args.batch_size} is more than the {self.images} images"
            )
        if args.batch_size % processes.count:
            raise ValueError(
                f"argument --batch-size: {args.batch_size} is not a multiple of the number of "
                f"processes, {processes.count}"
            )
        train_transform, val_transform = transforms(args)
        self.batches = Batches(self.images, args.batch_size, processes, args.seed)
        shared: dict[str, Any] = {
            "num_workers": args.workers,
            "pin_memory": args.device == "cuda",
            "worker_init_fn": leave_signals_to_parent,
            # Its own generator: a loader draws a number each time, which would shift other draws.
            "generator": torch.Generator().manual_seed(args.seed),
        }
        self.training = DataLoader(
            Augmented(training, train_transform, args.seed), batch_sampler=self.batches, **shared
        )
        mine = range(processes.rank, len(validation), processes.count)
        self.validation = DataLoader(
            Numbered(validation, val_transform, mine),
            max(args.batch_size // processes.count, 1),
            **shared,
        )


class Numbered(Dataset[tuple[Tensor, int, int]]):
    """A part of the validation images, each with its number among all of them."""

    def __init__(
        self, images: Sequence[tuple[Any, int]], transform: v2.Compose, numbers: range
    ) -> None:
        self.images, self.transform, self.numbers = images, transform, numbers

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image, label = self.images[self.numbers[index]]
        return self.transform(image), label, self.numbers[index]

    def __len__(self) -> int:
        return len(self.numbers)


def load(args: Namespace) -> tuple[Any, Any, list[str]]:
    """Images for training and validation, as (image, label), and the names of the classes."""
    if args.data == DIGITS:
        try:
            from digits import load_digits
        except ImportError as error:
            raise ValueError(
                f"argument --data: {DIGITS!r} needs {error.name}, which is missing: "
                f"pip install {error.name}"
            ) from error
        parts = load_digits(args.seed, 400, 100)
        training, validation = (
            [(image.expand(3, -1, -1), int(label)) for image, label in zip(*part, strict=True)]
            for part in parts
        )
        return training, validation, [str(digit) for digit in range(10)]
    try:
        folders = [ImageFolder(f"{args.data}/{part}") for part in ("train", "val")]
    except FileNotFoundError as error:
        raise ValueError(f"argument --data: {str(error).splitlines()[0]}") from error
    if folders[0].classes != folders[1].classes:
        differ = sorted(set(folders[0].classes) ^ set(folders[1].classes))
        raise ValueError(
            f"argument --data: train/ and val/ have different classes: {', '.join(differ[:5])}"
        )
    return *folders, folders[0].classes


def limited(images: Any, args: Namespace) -> Any:
    """A random part of the images if there is a limit; the same part for the same seed."""
    if args.limit is None:
        return images
    generator = torch.Generator().manual_seed(args.seed)
    return Subset(images, torch.randperm(len(images), generator=generator)[: args.limit].tolist())


def transforms(args: Namespace) -> tuple[v2.Compose, v2.Compose]:
    """Transforms of training and validation images."""
    room = round(args.size * VALIDATION_SCALE)
    if args.data == DIGITS:
        # Digits are not mirrored, and not cropped to small parts.
        crops: list[Any] = [v2.RandomResizedCrop(args.size, (0.6, 1), antialias=True)]
    else:
        crops = [v2.RandomResizedCrop(args.size, antialias=True), v2.RandomHorizontalFlip()]
    end = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(**(GREY if args.data == DIGITS else IMAGENET)),
    ]
    centre = [v2.Resize(room, antialias=True), v2.CenterCrop(room)]
    return v2.Compose([*crops, *end]), v2.Compose([*centre, *end])
