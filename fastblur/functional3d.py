"""The 3-D operation as functions: on video and volumes, by calls of the 2-D one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import _backends, _run
from ._backends import Backend, BackendName, reference
from ._dispatch.autograd import is_mapped
from ._dispatch.operators import is_channels_last, memory_format
from ._geometry import BlurPadding, Geometry, PaddingMode, TapsArgument
from ._geometry.volume import IntOrTriple, Pass, Volume
from ._signatures import names_its_arguments


@names_its_arguments
def max_blur_pool3d(
    input: Tensor,
    kernel_size: IntOrTriple = 2,
    stride: IntOrTriple = 2,
    padding: IntOrTriple = 0,
    *,
    filter_size: IntOrTriple | None = None,
    taps: TapsArgument | None = None,
    blur_padding: BlurPadding = "same",
    padding_mode: PaddingMode = "reflect",
    relu: bool = False,
    backend: BackendName = "auto",
) -> Tensor:
    """:func:`~fastblur.functional.max_blur_pool2d` in three dimensions, for video and volumes.

    It is made of up to three calls of the fused 2-D operation, which pass tensors of the size of
    the input between them: see ``docs/volumes.md`` for what that costs. Values and gradients are
    those of ``max_pool3d``, ``pad`` and ``conv3d``, ties and NaN included.

    Args:
        input: [N, C, D, H, W] or [C, D, H, W]; float32, float64, float16 or bfloat16. Contiguous
            and channels_last_3d layouts are native, and the output has the input's layout.
        kernel_size: size of the max window, int or (d, h, w), 1 to 15.
        stride: stride of the blur, int or (d, h, w). The max itself has stride 1.
        padding: padding of the max with -inf, int or (d, h, w), at most half of ``kernel_size``.
        filter_size: number of binomial taps, int or (d, h, w), 1 to 31. Default 4.
        taps: the filter itself: one row of numbers, the name of a filter, or a triple of these
            (depth, height, width).
        blur_padding: padding of the pooled map: "same", an int, (d, h, w), or (front, back, top,
            bottom, left, right).
        padding_mode: as in 2-D.
        relu: as in 2-D.
        backend: as in 2-D. "reference" is ``max_pool3d``, ``pad`` and ``conv3d``.

    Returns:
        [N, C, D_out, H_out, W_out] or [C, D_out, H_out, W_out] in the dtype of the input; along
        each axis ``size_out = (size + 2 * padding - kernel_size + 1 + before + after - f) // stride
        + 1``. 16-bit types are summed in float32 and rounded after each call, so twice.

    Raises:
        TypeError: an argument has the wrong type, or the input the wrong dtype or layout.
        ValueError: a value or shape is not allowed.
        RuntimeError: the named backend cannot run this call.

    Example:
        >>> import torch
        >>> from fastblur.functional import max_blur_pool3d
        >>> max_blur_pool3d(torch.zeros(1, 8, 16, 56, 56), 3, 2, 1).shape
        torch.Size([1, 8, 8, 28, 28])
    """
    volume = Volume.resolve(
        kernel_size, stride, padding, filter_size, taps, blur_padding, padding_mode, relu
    )
    return run_3d(input, volume, backend)


@names_its_arguments
def blur_pool3d(
    input: Tensor,
    filter_size: IntOrTriple | None = None,
    stride: IntOrTriple = 2,
    *,
    taps: TapsArgument | None = None,
    blur_padding: BlurPadding = "same",
    padding_mode: PaddingMode = "reflect",
    relu: bool = False,
    backend: BackendName = "auto",
) -> Tensor:
    """Blur and subsample in 3-D: :func:`max_blur_pool3d` without the max.

    Arguments, result and errors are those of :func:`max_blur_pool3d` with ``kernel_size=1``.
    """
    volume = Volume.resolve(1, stride, 0, filter_size, taps, blur_padding, padding_mode, relu)
    return run_3d(input, volume, backend)


def run_3d(input: Tensor, volume: Volume, backend: str) -> Tensor:
    """Runs a call on volumes: what functions and modules share."""
    return _run.run(input, volume, backend, max_blur_pool3d, _pool, 5)


def _pool(backend: Backend, volumes: Tensor, volume: Volume) -> Tensor:
    if backend is _backends.REFERENCE:
        return reference.max_blur_pool3d(volumes, volume)
    return in_turn(volumes, volume, backend.run)


def in_turn(x: Tensor, volume: Volume, run: Callable[[Tensor, Geometry], Tensor]) -> Tensor:
    """The calls of the 2-D operation that make the 3-D one, by ``run``, on [N, C, D, H, W]."""
    mapped = not torch.compiler.is_compiling() and is_mapped(x)
    channels_last = not mapped and is_channels_last(x)
    layout = torch.contiguous_format if mapped else memory_format(channels_last, 5)
    x = x.contiguous(memory_format=layout)
    for call in volume.passes:
        x = _apply(x, call, run, channels_last)
    return x.contiguous(memory_format=layout)


def _apply(
    x: Tensor, call: Pass, run: Callable[[Tensor, Geometry], Tensor], channels_last: bool
) -> Tensor:
    """One call of the 2-D operation: views of x and y that are maps in a native layout."""
    axes, geometry = call
    n, c, d, h, w = x.shape
    if axes == "width":
        return torch.unflatten(run(x.flatten(2, 3), geometry), 2, (d, h))
    if axes == "depth":
        return torch.unflatten(run(x.flatten(3, 4), geometry), 3, (h, w))
    if axes == "height, width":
        if channels_last:  # [N D, C, H, W], channels_last
            y = run(x.transpose(1, 2).flatten(0, 1), geometry)
            return torch.unflatten(y, 0, (n, d)).transpose(1, 2)
        return torch.unflatten(run(x.flatten(1, 2), geometry), 1, (c, d))
    if channels_last:  # [N, W C, D, H], channels_last
        y = run(x.permute(0, 4, 1, 2, 3).flatten(1, 2), geometry)
        return torch.unflatten(y, 1, (w, c)).permute(0, 2, 3, 4, 1)
    # [N C, W, D, H], channels_last: the columns of a volume are the channels of a map.
    y = run(x.flatten(0, 1).permute(0, 3, 1, 2), geometry)
    return torch.unflatten(y.permute(0, 2, 3, 1), 0, (n, c))
