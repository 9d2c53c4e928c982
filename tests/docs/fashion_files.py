"""Files like those of Fashion-MNIST, with generated images, for tests and for CI."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
from torch import Tensor

NAMES = {"train": 600, "t10k": 200}


def pack(values: Tensor) -> bytes:
    """An idx file of uint8: 0, 0, 8, the number of dimensions, four bytes for each, the values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.dim()]) + sizes + values.to(torch.uint8).numpy().tobytes()


def photographs(labels: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 [N, 28, 28]: a class is a box of its own height and width, with noise inside."""
    images = torch.zeros(len(labels), 28, 28)
    for image, label in zip(images, labels.tolist(), strict=True):
        height, width = 6 + 4 * (label % 5), 8 + 12 * (label // 5)
        box = 100 + 100 * torch.rand(height, width, generator=generator)
        image[14 - height // 2 :, 14 - width // 2 :][:height, :width] = box
    return images


def write(folder: Path) -> Path:
    """Writes the four files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for part, count in NAMES.items():
        labels = torch.arange(count) % 10
        for kind, values in (
            ("images-idx3", photographs(labels, generator)),
            ("labels-idx1", labels),
        ):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(pack(values), 1))
    return folder
