"""Feature similarity over a canvas (Lee, Yang & Wang 2020, arXiv 2011.04127)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._running import Model, at_least, axes, bar, device_of, evaluating, pair_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class FeatureSimilarity:
    """The result of :func:`feature_similarity`.

    Attributes:
        similarity: float32 [N, rows, columns], the cosine similarity to the features at the
            anchor, for each patch and position.
        rows: int64 [rows], positions of the patch's top edge, in pixels.
        columns: int64 [columns], positions of its left edge, in pixels.
        anchor: (y, x) of the patch's top left corner at the anchor, in pixels.
        mean: mean similarity over patches and positions.
        lowest: lowest similarity over patches and positions.
    """

    similarity: Tensor
    rows: Tensor
    columns: Tensor
    anchor: tuple[int, int]
    mean: float
    lowest: float

    def __str__(self) -> str:
        n, rows, columns = self.similarity.shape
        return (
            f"cosine similarity to the features at {self.anchor}: mean {self.mean:.3f}, lowest "
            f"{self.lowest:.3f}, {rows} x {columns} places, {n} {'patch' if n == 1 else 'patches'}"
        )

    def plot(self, ax: Axes | None = None, *, lowest: float | None = None) -> Axes:
        """Plots the mean over patches as a heat map, a cross at the anchor; needs matplotlib.

        Args:
            ax: axes to draw on; only new axes get a colour bar.
            lowest: the value of the darkest colour; set it to compare maps. The brightest is 1.
                Default: the lowest value of the map.
        """
        target = axes(ax)
        down, right = self.rows - self.anchor[0], self.columns - self.anchor[1]
        edges = [_edges(right), _edges(down)]
        heat = self.similarity.mean(0)
        low = heat.min().item() if lowest is None else lowest
        mesh = target.pcolormesh(*edges, heat.tolist(), vmin=low, vmax=1.0, cmap="viridis")
        target.plot(0, 0, marker="+", color="black", markersize=9, markeredgewidth=1.5)
        target.set(xlabel="shift to the right (pixels)", ylabel="shift down (pixels)", aspect=1)
        target.set_ylim(edges[1][-1], edges[1][0])  # rows go down
        if ax is None:
            target.figure.colorbar(mesh, ax=target, label="cosine similarity")
        return target


def feature_similarity(
    model: Model,
    patch: Tensor,
    canvas_size: int | Sequence[int],
    *,
    layer: str | None = None,
    background: float | Tensor = 1.0,
    anchor: Sequence[int] | None = None,
    step: int = 1,
    batch_size: int = 64,
    progress: bool = False,
) -> FeatureSimilarity:
    r"""How much the features of an object depend on its position on a canvas.

    The patch is placed at every position of the canvas. The features :math:`\phi` at position
    :math:`p` are compared with those at the anchor :math:`a`, each flattened to one vector:

    .. math:: \frac{\langle\phi(p), \phi(a)\rangle}{\lVert\phi(p)\rVert\,\lVert\phi(a)\rVert}

    (Lee, Yang & Wang 2020, arXiv 2011.04127.) Features before global pooling still have a position
    and move with the object. They differ for that reason alone.

    Args:
        model: a module or another callable that takes [B, C, H, W]. The canvas is moved to the
            device of its parameters.
        patch: floating point [C, h, w], or several [N, C, h, w], including their own background.
        canvas_size: in pixels, an int or (height, width), at least the size of the patch.
        layer: name of the submodule whose output [B, ...] is the features (its last output if it
            runs several times). Default: the model's output.
        background: the colour of the canvas, one number or one per channel, [C]. The paper uses
            white: 1 for images in 0..1, or its normalised value.
        anchor: (y, x) of the patch's top left corner in pixels. Default: the middle.
        step: distance between positions, in pixels.
        batch_size: number of canvases per batch.
        progress: draw a progress bar, if rich is installed.

    Returns:
        The map of each patch: see :class:`FeatureSimilarity`.

    Raises:
        ValueError, TypeError: an argument is wrong, the features are not a tensor [B, ...], or
            the layer did not run.

    Example:
        >>> import torch
        >>> from fastblur.metrics import feature_similarity
        >>> patch = torch.rand(3, 8, 8)
        >>> print(feature_similarity(lambda x: x.mean((2, 3)), patch, 16, step=2))
        cosine similarity to the features at (4, 4): mean 1.000, lowest 1.000, 5 x 5 places, 1 patch
    """
    patches = _patches(patch)
    size = pair_of("canvas_size", canvas_size, 1)
    room = size[0] - patches.shape[2], size[1] - patches.shape[3]
    if min(room) < 0:
        shape = tuple(patches.shape[2:])
        raise ValueError(f"canvas_size must be at least the size of the patch, {shape}, got {size}")
    step, batch_size = at_least("step", step, 1), at_least("batch_size", batch_size, 1)
    start = (room[0] // 2, room[1] // 2) if anchor is None else pair_of("anchor", anchor, 0)
    if start[0] > room[0] or start[1] > room[1]:
        raise ValueError(f"anchor must be at most {room}, so that the patch fits, got {start}")
    fill = _fill(background, patches)
    rows, columns = torch.arange(0, room[0] + 1, step), torch.arange(0, room[1] + 1, step)
    places = [(y, x) for y in rows.tolist() for x in columns.tolist()]
    device = device_of(model, patches.device)
    patches, canvas = patches.to(device), fill.expand(1, -1, *size).to(device)

    found = []
    with evaluating(model), _features(model, layer) as features:

        def at(patch: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
            """Features [len(places), D] of one patch [C, h, w]."""
            _, h, w = patch.shape
            drawn = canvas.repeat(len(places), 1, 1, 1)
            for one, (y, x) in zip(drawn, places, strict=True):
                one[:, y : y + h, x : x + w] = patch
            return features(drawn)

        anchored = [at(patch, [start]) for patch in patches]
        steps = list(product(range(len(patches)), range(0, len(places), batch_size)))
        for i, k in bar(steps, progress, "Feature similarity", len(steps)):
            there = at(patches[i], places[k : k + batch_size])
            found.append(F.cosine_similarity(there, anchored[i], dim=1).cpu())
    similarity = torch.cat(found).reshape(len(patches), len(rows), len(columns))
    return FeatureSimilarity(
        similarity=similarity,
        rows=rows,
        columns=columns,
        anchor=start,
        mean=similarity.mean().item(),
        lowest=similarity.min().item(),
    )


@contextlib.contextmanager
def _features(model: Model, layer: str | None) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yields a function from images [B, C, H, W] to float32 features [B, D]."""
    taken: list[Any] = []
    handle = None
    if layer is not None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"layer={layer!r} needs a model that is a module, got {type(model).__name__}"
            )
        modules = dict(model.named_modules())
        if layer not in modules:
            near = [name for name in modules if name]
            raise ValueError(f"layer must be one of {near}, got {layer!r}")

        def take(_module: nn.Module, _input: Any, output: Any) -> None:
            # A copy, because the next layer may work in place, as a ReLU often does.
            taken.append(output.clone() if isinstance(output, Tensor) else output)

        handle = modules[layer].register_forward_hook(take)

    def features(x: Tensor) -> Tensor:
        taken.clear()
        result = model(x)
        if layer is not None and not taken:
            raise ValueError(f"layer must run when the model runs, got {layer!r}, which did not")
        result = result if layer is None else taken[-1]
        if not isinstance(result, Tensor) or result.dim() < 2 or len(result) != len(x):
            got = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"features must be a tensor [{len(x)}, ...] for this batch, got {got}")
        return result.flatten(1).float()

    try:
        yield features
    finally:
        if handle is not None:
            handle.remove()


def _patches(patch: Tensor) -> Tensor:
    if patch.dim() not in (3, 4) or not patch.numel() or not patch.is_floating_point():
        raise ValueError(
            "patch must be floating point [C, h, w] or [N, C, h, w], not empty, "
            f"got {patch.dtype} {list(patch.shape)}"
        )
    return patch if patch.dim() == 4 else patch.unsqueeze(0)


def _fill(background: float | Tensor, patches: Tensor) -> Tensor:
    """The background as [1, C, 1, 1]."""
    fill = torch.as_tensor(background).to(patches)
    if fill.dim() > 1 or (fill.dim() == 1 and len(fill) != patches.shape[1]):
        raise ValueError(
            f"background must be one number or one per channel, [{patches.shape[1]}], "
            f"got {list(fill.shape)}"
        )
    return fill.expand(patches.shape[1]).reshape(1, -1, 1, 1)


def _edges(centres: Tensor) -> list[float]:
    """The edges of cells around evenly spaced centres."""
    width = (centres[1] - centres[0]).item() if len(centres) > 1 else 1.0
    return [*(centres - width / 2).tolist(), centres[-1].item() + width / 2]
