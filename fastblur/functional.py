"""The operation as functions, in the style of ``torch.nn.functional``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import _run
from ._backends import Backend, BackendName
from ._dispatch.autograd import is_tracing
from ._dispatch.plain import is_overridden
from ._geometry import (
    FILTER_SIZE,
    MAX_POOL,
    MAX_TAPS,
    BlurPadding,
    Geometry,
    IntOrPair,
    PaddingMode,
    TapsArgument,
    check_not_empty,
    check_scalar,
    check_stride,
    is_integer,
    is_sequence,
    tap_row,
)
from ._geometry.upsampling import Gain, Operation, UpsamplePadding, Upsampling
from ._signatures import names_its_arguments
from .functional3d import blur_pool3d, max_blur_pool3d

__all__ = [
    "blur_pool1d",
    "blur_pool2d",
    "blur_pool3d",
    "blur_upsample1d",
    "blur_upsample2d",
    "max_blur_pool1d",
    "max_blur_pool2d",
    "max_blur_pool3d",
]


@names_its_arguments
def max_blur_pool2d(
    input: Tensor,
    kernel_size: IntOrPair = 2,
    stride: IntOrPair = 2,
    padding: IntOrPair = 0,
    *,
    filter_size: IntOrPair | None = None,
    taps: TapsArgument | None = None,
    blur_padding: BlurPadding = "same",
    padding_mode: PaddingMode = "reflect",
    relu: bool = False,
    backend: BackendName = "auto",
) -> Tensor:
    r"""Anti-aliased max pooling: max with stride 1, blur, subsample (Zhang 2019, section 3.2).

    .. math::
        m = \mathrm{maxpool}_{k,\,1}(x), \qquad
        y_{ij} = \sum_{a,b} t^h_a\, t^w_b\; \mathrm{pad}(m)_{s i + a,\; s j + b}

    Args:
        input: [N, C, H, W] or [C, H, W]; float32, float64, float16 or bfloat16. Contiguous and
            channels_last layouts are native, and the output has the input's layout.
        kernel_size: size of the max window, int or (h, w), 1 to 15.
        stride: stride of the blur, int or (h, w). Unlike in ``torch.nn.MaxPool2d``, None is not
            allowed. The max itself has stride 1.
        padding: padding of the max with -inf, int or (h, w), at most half of ``kernel_size``.
        filter_size: number of binomial taps, int or (h, w), 1 to 31. Default 4. With ``taps``,
            omit it or pass ``len(taps)``.
        taps: the filter itself, instead of ``filter_size``: one row of numbers, or a pair of rows
            (vertical, horizontal), 1 to 31 each. The blur is a correlation with their outer
            product. A name stands for its row: "haar", "db2" to "db6", "bior2.2" to "bior5.5"
            (Li et al. 2020), "boxcar3", "triang5", "kaiser6" and others of ``docs/filters.md``.
        blur_padding: padding of the pooled map. "same" pads (f - 1) // 2 before and f // 2 after,
            as Zhang does, so the output size is ceil(pooled / stride). Otherwise an int, (h, w),
            or (top, bottom, left, right).
        padding_mode: what ``blur_padding`` pads with: "reflect", "replicate", "zeros" or
            "circular".
        relu: applies a ReLU before the max, at no cost in memory.
        backend: "auto", "cpu", "cuda", "triton" or "reference". :func:`fastblur.explain` reports
            what "auto" selects.

    Returns:
        [N, C, H_out, W_out] or [C, H_out, W_out] in the dtype of the input, with
        ``H_out = (H + 2 * padding - kernel_size + 1 + top + bottom - f) // stride + 1``. 16-bit
        types are summed in float32 and rounded once.

    Raises:
        TypeError: an argument has the wrong type, or the input the wrong dtype or layout.
        ValueError: a value or shape is not allowed.
        RuntimeError: the named backend cannot run this call.

    Under autocast the input is cast as that of ``conv2d``. Gradients are routed as by
    ``max_pool2d``, ties, NaN and infinities included, and are the same in every run.

    Example:
        >>> import torch
        >>> from fastblur.functional import max_blur_pool2d
        >>> max_blur_pool2d(torch.zeros(1, 64, 112, 112), 3, 2, 1, filter_size=3).shape
        torch.Size([1, 64, 56, 56])
    """
    geometry = _resolve(
        kernel_size, stride, padding, filter_size, taps, blur_padding, padding_mode, relu
    )
    return run(input, geometry, backend)


@names_its_arguments
def blur_pool2d(
    input: Tensor,
    filter_size: IntOrPair | None = None,
    stride: IntOrPair = 2,
    *,
    taps: TapsArgument | None = None,
    blur_padding: BlurPadding = "same",
    padding_mode: PaddingMode = "reflect",
    relu: bool = False,
    backend: BackendName = "auto",
) -> Tensor:
    r"""Blur and subsample (Zhang 2019, section 3.2): :func:`max_blur_pool2d` without the max.

    Arguments, result and errors are those of :func:`max_blur_pool2d` with ``kernel_size=1``:

    .. math:: y_{ij} = \sum_{a,b} t^h_a\, t^w_b\; \mathrm{pad}(x)_{s i + a,\; s j + b}
    """
    geometry = _resolve(1, stride, 0, filter_size, taps, blur_padding, padding_mode, relu)
    return run(input, geometry, backend)


@names_its_arguments
def max_blur_pool1d(
    input: Tensor,
    kernel_size: int = 2,
    stride: int = 2,
    padding: int = 0,
    *,
    filter_size: int | None = None,
    taps: TapsArgument | None = None,
    blur_padding: BlurPadding = "same",
    padding_mode: PaddingMode = "reflect",
    relu: bool = False,
    backend: BackendName = "auto",
) -> Tensor:
    """:func:`max_blur_pool2d` along the last axis of [N, C, L] or [C, L].

    Args:
        input: [N, C, L] or [C, L]; float32, float64, float16 or bfloat16.
        kernel_size: size of the max window, 1 to 15.
        stride: stride of the blur, 1 or more.
        padding: padding of the max with -inf, at most half of ``kernel_size``.
        filter_size: number of binomial taps, 1 to 31. Default 4. With ``taps``, omit it or pass
            ``len(taps)``.
        taps: the filter itself, instead of ``filter_size``: one row of 1 to 31 numbers, or a name.
        blur_padding: padding of the pooled map: "same", an int, or (left, right).
        padding_mode: as in 2-D.
        relu: as in 2-D.
        backend: as in 2-D.

    Returns:
        [N, C, L_out] or [C, L_out] in the dtype of the input, with
        ``L_out = (L + 2 * padding - kernel_size + 1 + left + right - f) // stride + 1``.

    Raises:
        TypeError: an argument has the wrong type, or the input the wrong dtype or layout.
        ValueError: a value or shape is not allowed.
        RuntimeError: the named backend cannot run this call.
    """
    geometry = resolve_1d(
        kernel_size, stride, padding, filter_size, taps, blur_padding, padding_mode, relu
    )
    return run_1d(input, geometry, backend)


@names_its_arguments
def blur_pool1d(
    input: Tensor,
    filter_size: int | None = None,
    stride: int = 2,
    *,
    taps: TapsArgument | None = None,
    blur_padding: BlurPadding = "same",
    padding_mode: PaddingMode = "reflect",
    relu: bool = False,
    backend: BackendName = "auto",
) -> Tensor:
    """Blur and subsample in 1-D: :func:`max_blur_pool1d` without the max.

    Arguments, result and errors are those of :func:`max_blur_pool1d` with ``kernel_size=1``.
    """
    geometry = resolve_1d(1, stride, 0, filter_size, taps, blur_padding, padding_mode, relu)
    return run_1d(input, geometry, backend)


@names_its_arguments
def blur_upsample2d(
    input: Tensor,
    filter_size: IntOrPair | None = None,
    stride: IntOrPair = 2,
    *,
    taps: TapsArgument | None = None,
    gain: Gain = "auto",
    padding_mode: UpsamplePadding = "zeros",
    backend: BackendName = "auto",
) -> Tensor:
    r"""Anti-aliased upsampling: zeros between the pixels, then a blur; the other half of BlurPool.

    It is ``conv_transpose2d`` with the same taps, cropped to ``stride`` times the input, and with
    stride 2 the transpose of :func:`blur_pool2d`:

    .. math::
        y_{uv} = g \sum_{i,j} t^h_{u - s i + p_h}\, t^w_{v - s j + p_w}\, x_{ij}, \qquad
        p = \max(0, \lceil (f - s) / 2 \rceil)

    If f - s is even, the filter is centred on the pixel that it enlarges, as in ``interpolate``:
    with stride 2, four taps and "replicate" are ``mode="bilinear"``, two taps ``mode="nearest"``.
    If f - s is odd, the output is half a pixel off. The defaults are StyleGAN2's ``upsample_2d``
    with the filter [1, 3, 3, 1] (Karras et al., CVPR 2020).

    Args:
        input: [N, C, H, W] or [C, H, W]; float32, float64, float16 or bfloat16. Contiguous and
            channels_last layouts are native, and the output has the input's layout.
        filter_size: number of binomial taps, int or (h, w), 1 to 31. Default 4. With ``taps``,
            omit it or pass ``len(taps)``.
        stride: how many times larger the output is, int or (h, w).
        taps: the filter itself, instead of ``filter_size``, as in :func:`max_blur_pool2d`.
        gain: a number that multiplies the output of ``conv_transpose2d``, or "auto": a constant
            stays a constant in the interior. For that, along each axis, the taps that meet in an
            output are divided by their sum. Binomial taps with stride 2 are thus multiplied by 2
            along each axis.
        padding_mode: what lies around the input: "zeros", as in ``conv_transpose2d``, or
            "replicate", which keeps a constant up to the edges.
        backend: as in :func:`max_blur_pool2d`.

    Returns:
        [N, C, stride_h * H, stride_w * W] or [C, stride_h * H, stride_w * W] in the dtype of the
        input. 16-bit types are summed in float32 and rounded once.

    Raises:
        TypeError: an argument has the wrong type, or the input the wrong dtype or layout.
        ValueError: a value or shape is not allowed; or ``gain="auto"`` and taps that meet in an
            output sum to 0, as with a stride longer than the filter.
        RuntimeError: the named backend cannot run this call.

    Nothing is kept for backward. Under autocast the input is cast as that of ``conv2d``.

    Example:
        >>> import torch
        >>> from fastblur.functional import blur_upsample2d
        >>> blur_upsample2d(torch.zeros(1, 64, 28, 28)).shape
        torch.Size([1, 64, 56, 56])
    """
    return run(input, Upsampling.resolve(filter_size, stride, taps, gain, padding_mode), backend)


@names_its_arguments
def blur_upsample1d(
    input: Tensor,
    filter_size: int | None = None,
    stride: int = 2,
    *,
    taps: TapsArgument | None = None,
    gain: Gain = "auto",
    padding_mode: UpsamplePadding = "zeros",
    backend: BackendName = "auto",
) -> Tensor:
    """:func:`blur_upsample2d` along the last axis of [N, C, L] or [C, L].

    Arguments and errors are those of :func:`blur_upsample2d`, with an int where that takes a pair
    and one row of taps. Returns [N, C, stride * L] or [C, stride * L].
    """
    upsampling = resolve_upsampling_1d(filter_size, stride, taps, gain, padding_mode)
    return run_1d(input, upsampling, backend)


def run(input: Tensor, operation: Operation, backend: str) -> Tensor:
    """Runs a call on maps: what functions and modules share."""
    if isinstance(operation, Geometry):
        return _run.run(input, operation, backend, max_blur_pool2d, _pool, 4)
    return _run.run(input, operation, backend, blur_upsample2d, _upsample, 4)


def _pool(backend: Backend, maps: Tensor, geometry: Geometry) -> Tensor:
    return backend.run(maps, geometry)


def _upsample(backend: Backend, maps: Tensor, upsampling: Upsampling) -> Tensor:
    return backend.upsample(maps, upsampling)


def run_1d(input: Tensor, operation: Operation, backend: str) -> Tensor:
    """:func:`run` on [N, C, L] or [C, L]."""
    return run(as_map(input, operation), operation, backend).squeeze(-2)


def as_map(input: Tensor, operation: Operation) -> Tensor:
    """[N, C, L] or [C, L] as a map of height 1."""
    if not isinstance(input, Tensor):
        if is_overridden(input):  # and has no sizes to be checked
            return input.unsqueeze(-2)
        operation.check_input(input)  # raises
    if input.dim() not in (2, 3):
        raise ValueError(f"input must be [N, C, L] or [C, L], got shape {tuple(input.shape)}")
    if not is_tracing():  # a trace has variables for sizes
        check_not_empty(input, 2)  # here, where the message can have the shape that was given
    return input.unsqueeze(-2)


def resolve_1d(
    kernel_size: int,
    stride: int,
    padding: int,
    filter_size: int | None,
    taps: TapsArgument | None,
    blur_padding: BlurPadding,
    padding_mode: str,
    relu: bool,
) -> Geometry:
    """The geometry of a 1-D call: a map of height 1, with nothing to do along it."""
    check_scalar("kernel_size", kernel_size, 1, MAX_POOL)
    check_stride(stride)
    check_scalar("stride", stride, 1)
    check_scalar("padding", padding, 0)
    if filter_size is None and taps is None:
        filter_size = FILTER_SIZE
    if filter_size is not None:
        check_scalar("filter_size", filter_size, 1, MAX_TAPS)
    if taps is not None:
        taps = ((1.0,), tap_row("taps", taps))
    if is_sequence(blur_padding):
        known = len(blur_padding) == 2  # type: ignore[arg-type]
        if not (known and all(map(is_integer, blur_padding))):  # type: ignore[arg-type]
            raise (TypeError if known else ValueError)(
                f"blur_padding must be 'same', an int or (left, right), got {blur_padding!r}"
            )
        blur_padding = (0, 0, *blur_padding)  # type: ignore[misc]
    elif not isinstance(blur_padding, str):
        if not is_integer(blur_padding):
            raise TypeError(
                f"blur_padding must be 'same', an int or (left, right), got {blur_padding!r}"
            )
        blur_padding = (0, blur_padding)  # type: ignore[assignment]
    return _resolve(
        (1, kernel_size),
        (1, stride),
        (0, padding),
        None if filter_size is None else (1, filter_size),
        taps,
        blur_padding,
        padding_mode,
        relu,
    )


def resolve_upsampling_1d(
    filter_size: int | None, stride: int, taps: TapsArgument | None, gain: Gain, padding_mode: str
) -> Upsampling:
    """The arguments of a 1-D call: a map of height 1, with nothing to do along it."""
    g = resolve_1d(1, stride, 0, filter_size, taps, "same", "zeros", False)
    return Upsampling.resolve(None, g.stride, (g.taps_h, g.taps_w), gain, padding_mode)


def _resolve(*arguments: Any) -> Geometry:
    """Geometry.resolve, cached for immutable arguments of plain type."""
    if not torch.compiler.is_compiling() and all(map(_is_plain, arguments)):
        return _resolve_plain(*arguments)
    return Geometry.resolve(*arguments)


_resolve_plain = lru_cache(maxsize=256, typed=True)(Geometry.resolve)


def _is_plain(argument: Any) -> bool:
    # Tensors are hashable, but by identity. Equal keys must also be equally valid: (1, 1) equals
    # (True, True) and (1.0, 1.0), so only tuples of ints are plain.
    if type(argument) is tuple:
        return all(type(entry) is int for entry in argument)
    return argument is None or type(argument) in (int, bool, str)
