"""Fashion-MNIST: 70,000 photographs of clothes, 28 x 28 pixels, in ten classes.

It was published by Zalando Research under the MIT licence. The files hold the photographs in
negative, so the white background is 0. The canvas around them is 0 too: white.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 28  # height and width of a photograph, in pixels
MARGIN = 6  # background around a photograph on its canvas: shifts up to this size crop nothing
CANVAS = SIZE + 2 * MARGIN
CLASSES = (
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
IMAGES, LABELS = "images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"
# Where torchvision's FashionMNIST("data", download=True) and Debian's dataset-fashion-mnist put it.
PLACES = (Path("data"), Path("/usr/share/datasets/fashion-mnist"))
HOW = (
    "Fashion-MNIST is four files, {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz. Get them with "
    "torchvision.datasets.FashionMNIST('data', download=True), or with Debian's package "
    "dataset-fashion-mnist, or name their folder with --data."
)


@dataclass(frozen=True)
class Fashion:
    """Photographs uint8 [N, 1, 28, 28] and classes int64 [N], to train and to test."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def digest(self) -> str:
        """Identifies the data, so that results of other data do not mix with these."""
        found = hashlib.sha256()
        for part in (*self.train, *self.test):
            found.update(part.numpy().tobytes())
        return found.hexdigest()[:12]


def find(folder: Path | None = None) -> Path:
    """The folder that has the four files: this one, or torchvision's inside it, or a known place.

    Raises:
        FileNotFoundError: none has all four.
    """
    names = [f"{part}-{kind}" for part in ("train", "t10k") for kind in (IMAGES, LABELS)]
    tried = []
    for place in PLACES if folder is None else (folder,):
        for at in (place / "FashionMNIST" / "raw", place):
            missing = [name for name in names if not (at / name).is_file()]
            if not missing:
                return at
            if at.is_dir():
                tried.append(f"{at} lacks {', '.join(missing)}.")
            elif at == place:
                tried.append(f"{at} is not a folder.")
    raise FileNotFoundError(" ".join([*tried, HOW]))


def load(folder: Path, train_images: int | None = None, test_images: int | None = None) -> Fashion:
    """The first photographs of each part; all by default.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or is not what it should be.
    """
    return Fashion(_part(folder, "train", train_images), _part(folder, "t10k", test_images))


def centred(images: Tensor, margin: int = MARGIN) -> Tensor:
    """float32 [N, 1, 28 + 2 * margin, the same], in 0..1: photographs amid their background."""
    return F.pad(images, (margin,) * 4).float().div(255)


def _part(folder: Path, part: str, count: int | None) -> tuple[Tensor, Tensor]:
    images = _idx(folder / f"{part}-{IMAGES}", 3)
    labels = _idx(folder / f"{part}-{LABELS}", 1)
    if images.shape[1:] != (SIZE, SIZE):
        raise ValueError(
            f"{folder / f'{part}-{IMAGES}'} has images of {images.shape[1]} x {images.shape[2]} "
            f"pixels, not {SIZE} x {SIZE}"
        )
    if len(images) != len(labels):
        raise ValueError(f"{folder} has {len(images)} {part} images, but {len(labels)} labels")
    if len(labels) and labels.max() >= len(CLASSES):
        raise ValueError(
            f"{folder / f'{part}-{LABELS}'} has the class {labels.max()}, of {len(CLASSES)} from 0"
        )
    return images[:count, None], labels[:count].long()


def _idx(path: Path, dimensions: int) -> Tensor:
    """Reads a gzipped idx file of bytes.

    Layout, big-endian: 0, 0, the type (8 is uint8), the number of dimensions; four bytes for each
    dimension; the values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. {HOW}")
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}. Download it again") from error
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        raise ValueError(
            f"{path} must start with the bytes {magic.hex(' ')}, an idx file of uint8 with "
            f"{dimensions} dimension{'s' if dimensions > 1 else ''}, got {content[:4].hex(' ')}"
        )
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path} must have {start + math.prod(shape)} bytes unpacked, as its header says, got "
            f"{len(content)}. Download it again"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)
