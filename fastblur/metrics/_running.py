"""Shared by the metrics: running a model without side effects, and reading arguments."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Model: TypeAlias = Callable[[Tensor], Any]
"""A module or another callable that takes a batch of images."""

Images: TypeAlias = Tensor | Iterable[Any]
"""Images [N, C, H, W], or batches of them, like those of a DataLoader."""


@contextlib.contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Eval mode and ``torch.inference_mode``; restores every submodule's training flag."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [module.training for module in modules]
    try:
        if isinstance(model, nn.Module):
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        # Not with train(): models override it, for example to keep batch norms frozen.
        for module, training in zip(modules, before, strict=True):
            module.training = training


def device_of(model: Model, otherwise: torch.device) -> torch.device:
    """The device of the model's first parameter or buffer, or ``otherwise``."""
    if isinstance(model, nn.Module):
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            return tensor.device
    return otherwise


def classify(model: Model, x: Tensor) -> Tensor:
    """The model's scores [B, classes] for a batch [B, C, H, W]."""
    scores = model(x.to(device_of(model, x.device)))
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(x):
        got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"model must return a tensor [{len(x)}, classes] for this batch, got {got}"
        )
    return scores


def batches(
    images: Images, labels: Tensor | None, batch_size: int, progress: bool, what: str
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields batches of images, with labels if there are any.

    Args:
        images: [N, C, H, W], which is split, or an iterable of batches: tensors, or tuples or
            lists that start with the images and optionally the labels.
        labels: [N], only with a tensor of images.
        batch_size: images per batch, only with a tensor of images.
        progress: whether to draw a progress bar.
        what: title of the bar.
    """
    batch_size = at_least("batch_size", batch_size, 1)
    if isinstance(images, Tensor):
        check_images(images)
        if labels is not None and labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must have shape [{len(images)}], one per image, got {list(labels.shape)}"
            )
        starts = range(0, len(images), batch_size)
        for start in bar(starts, progress, what, len(starts)):
            part = slice(start, start + batch_size)
            yield images[part], None if labels is None else labels[part]
        return
    if labels is not None:
        raise ValueError("labels must be omitted if images yields batches, which have their own")
    if not (hasattr(images, "__iter__") or hasattr(images, "__getitem__")):
        raise TypeError(
            f"images must be a tensor [N, C, H, W] or an iterable of batches, got "
            f"{type(images).__name__}"
        )
    total = len(images) if isinstance(images, Sized) else None
    for batch in bar(images, progress, what, total):
        first, second = batch, None
        if isinstance(batch, (tuple, list)) and batch:
            first, second = batch[0], batch[1] if len(batch) > 1 else None
        check_images(first, "a batch of images")
        yield first, second if isinstance(second, Tensor) else None


def check_images(images: object, name: str = "images") -> None:
    """Raises if it is not a tensor [N, C, H, W]."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a tensor [N, C, H, W], got {type(images).__name__}")
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise ValueError(f"{name} must be [N, C, H, W], only N may be 0, got {list(images.shape)}")


def bar(steps: Iterable[Any], progress: bool, what: str, total: int | None) -> Iterable[Any]:
    """The steps, with a progress bar if requested and rich is installed."""
    if not progress:
        return steps
    try:
        from rich.progress import track
    except ImportError:
        return steps
    return track(steps, description=what, total=total)


def at_least(name: str, value: int, least: int) -> int:
    """The value as an int; raises if it is less than `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return number


def pair_of(name: str, value: int | Sequence[int], least: int) -> tuple[int, int]:
    """Reads an int for both axes, or (height, width); raises if one is less than `least`."""
    both = (value, value) if not isinstance(value, Sequence) else tuple(value)
    if len(both) != 2:
        raise ValueError(f"{name} must be an int or a pair (height, width), got {value!r}")
    return at_least(name, both[0], least), at_least(name, both[1], least)


def axes(ax: Axes | None) -> Axes:
    """The given axes, or new ones."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'plot needs matplotlib, which is not installed: pip install "fastblur[plot]"'
        ) from error
    return plt.subplots(layout="constrained")[1]
