"""Draws product.svg: the layer as a product of four sparse matrices, each along one axis.

    python docs/figures/product.py

The matrices are those of a max of 2 and 4 taps with stride 2 along an axis of 12, the winners
those of a random row: nothing in the picture is drawn by hand.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from fastblur._geometry import Geometry

SIZE = 12
BLUE, ORANGE, INK, GRID = "#1f6f8b", "#d9822b", "#22313a", "#dfe5e8"


def select(row: np.ndarray, kernel: int) -> np.ndarray:
    """S: each position of the pooled row takes the first of the largest in its window."""
    matrix = np.zeros((len(row) - kernel + 1, len(row)))
    for i in range(len(matrix)):
        matrix[i, i + np.argmax(row[i : i + kernel])] = 1
    return matrix


def blur(size: int, geometry: Geometry) -> np.ndarray:
    """B: taps at a stride, with the border's taps folded back by reflection."""
    before, after = geometry.blur_padding[2:]
    places = np.pad(np.arange(size), (before, after), mode="reflect")
    taps, stride = geometry.taps_w, geometry.stride[1]
    matrix = np.zeros(((len(places) - len(taps)) // stride + 1, size))
    for i in range(len(matrix)):
        for a, tap in enumerate(taps):
            matrix[i, places[stride * i + a]] += tap
    return matrix


def draw(
    ax: plt.Axes, matrix: np.ndarray, left: float, colour: str, title: str, note: str
) -> float:
    """One matrix, centred on the line; returns where it ends."""
    rows, columns = matrix.shape
    top = -rows / 2
    ax.add_patch(
        Rectangle((left, top), columns, rows, fc="white", ec=INK, lw=1.1, zorder=3, fill=False)
    )
    for i in range(rows):
        for j in range(columns):
            weight = matrix[i, j] / matrix.max()
            ax.add_patch(
                Rectangle((left + j, top + i), 1, 1, fc=colour, alpha=weight, ec="none")
                if weight
                else Rectangle((left + j, top + i), 1, 1, fc="none", ec=GRID, lw=0.5)
            )
    middle = left + columns / 2
    ax.text(middle, -SIZE / 2 - 1.0, title, ha="center", va="bottom", fontsize=15, color=INK)
    ax.text(middle, SIZE / 2 + 0.8, note, ha="center", va="top", fontsize=9.5, color=INK)
    return left + columns


def main() -> None:
    mpl.rcParams.update({"svg.hashsalt": "fastblur", "font.family": "DejaVu Sans"})
    generator = np.random.default_rng(3)
    geometry = Geometry.resolve()
    pool = geometry.kernel_size[1]
    s_h, s_v = (select(generator.normal(size=SIZE), pool) for _ in range(2))
    b = blur(SIZE - pool + 1, geometry)
    fig, ax = plt.subplots(figsize=(11, 3.7))
    ax.text(-0.8, 0, "$y\\;=$", ha="right", va="center", fontsize=18, color=INK)
    at = 0.0
    kept = "which is kept for backward:\none bit for each result"
    parts = (
        (b, BLUE, "$B_h$", "blur, every 2nd\nalong the row"),
        (b, BLUE, "$B_v$", "blur, every 2nd\ndown the rows"),
        (s_v, ORANGE, "$S_v$", f"larger of 2, down the rows;\n{kept}"),
        (s_h, ORANGE, "$S_h$", f"larger of 2, along the row;\n{kept}"),
    )
    for matrix, colour, title, note in parts:
        at = draw(ax, matrix, at, colour, title, note) + 3.4
    ax.text(at - 2.2, 0, "$x$", ha="left", va="center", fontsize=18, color=INK)
    ax.set(xlim=(-5, at + 1), ylim=(SIZE / 2 + 4.2, -SIZE / 2 - 3.2), aspect="equal")
    ax.axis("off")
    out = Path(__file__).with_suffix(".svg")
    fig.savefig(out, bbox_inches="tight", facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
