"""Composer's blur layers, fused: change the import and nothing else.

They do what those of ``composer.algorithms.blurpool`` do in mosaicml 0.32.1, and do not import it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .._geometry import binomial_taps
from ..surgery.filtered_pool import BlurredConv2d, separable_taps
from ..surgery.recognition.known import read_composer_blur, read_composer_conv, read_composer_max
from ._drop_in import DropIn, binomial_filter, call

__all__ = ["BlurConv2d", "BlurMaxPool2d", "BlurPool2d", "blur_2d", "blurmax_pool2d"]

_PACKAGE = "composer.algorithms.blurpool"


class BlurMaxPool2d(DropIn):
    """Composer's ``BlurMaxPool2d``, fused: max, [1, 2, 1] / 4 with zeros around, subsample.

    Arguments, defaults, attributes and numbers are Composer's, and so is the buffer ``filt2d``,
    which is part of the state dict.

    Args:
        kernel_size: size of the max window, int or (h, w), 1 to 15.
        stride: of the blur, int or (h, w). Default: ``kernel_size``.
        padding: of the max, int or (h, w).
        dilation: 1.
        ceil_mode: has no effect, for the max has stride 1.

    Shape:
        - Input: [N, C, H, W]; float32, float64, float16 or bfloat16.
        - Output: [N, C, ceil((H + 2 * padding - kernel_size + 1) / stride), ...].

    Raises:
        ValueError: ``dilation`` is not 1; or, when it is called, the input has no batch.
        RuntimeError: when it is called with what max pools and convolutions refuse.

    Example:
        >>> import torch
        >>> from fastblur.integrations.composer import BlurMaxPool2d
        >>> BlurMaxPool2d(3, 2, 1)(torch.zeros(1, 64, 56, 56)).shape
        torch.Size([1, 64, 28, 28])
    """

    stands_for = f"{_PACKAGE}.BlurMaxPool2d"
    settings = ("kernel_size", "stride", "padding", "dilation", "filt2d")
    read = read_composer_max
    kernel_size: Any = None
    padding: Any = None

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        ceil_mode: bool = False,
    ) -> None:
        _check_dilation(dilation, self.stands_for)
        super().__init__(binomial_filter(3, 3)[None, None], "filt2d")
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode
        self.settle()

    def check(self, input: Tensor) -> None:
        """Raises what the original layer raises and a fused one does not."""
        if input.dim() == 3:  # a max pool takes it
            _check_batch(input)

    @staticmethod
    def from_maxpool2d(module: nn.MaxPool2d, module_index: int) -> BlurMaxPool2d:
        """The layer in place of a max pool; the index is not used."""
        return BlurMaxPool2d(
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.ceil_mode,
        )


class BlurPool2d(DropIn):
    """Composer's ``BlurPool2d``, fused: [1, 2, 1] / 4 with zeros around, and subsample.

    Arguments, defaults, attributes and numbers are Composer's, and so is the buffer
    ``blur_filter``, which is part of the state dict.

    Args:
        channels: number of channels of the input. Default: any.
        stride: of the blur, int or (h, w).
        padding: has no effect, as in Composer.

    Shape:
        - Input: [N, C, H, W], or [C, H, W] if ``channels`` is given; float32, float64, float16 or
          bfloat16.
        - Output: the same with ``ceil(H / stride)`` rows.

    Raises:
        ValueError: when it is called without a batch, if ``channels`` is not given.
        RuntimeError: when it is called with what convolutions refuse.
    """

    stands_for = f"{_PACKAGE}.BlurPool2d"
    settings = ("stride", "blur_filter")
    read = read_composer_blur
    channels: Any = None
    padding: Any = None

    def __init__(
        self,
        channels: int = 0,
        stride: int | tuple[int, int] = 2,
        padding: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__(binomial_filter(3, 3).repeat(max(channels, 1), 1, 1, 1), "blur_filter")
        self.channels = channels
        self.stride = stride
        self.padding = padding
        self.settle()

    def takes_unbatched(self) -> bool:
        """Whether the original layer takes inputs without a batch."""
        return self.channels > 0  # type: ignore[no-any-return]

    def check(self, input: Tensor) -> None:
        """Raises what the original layer raises and a fused one does not."""
        if self.channels < 1:
            _check_batch(input)


class BlurConv2d(DropIn, BlurredConv2d):
    """Composer's ``BlurConv2d``: a convolution with a fused blur in front of it or behind it.

    Arguments, defaults, attributes and numbers are Composer's, and so are the child ``conv`` and
    the buffer ``blur_filter``, which is part of the state dict.

    Args:
        in_channels: of the convolution, as all that follow but the last.
        out_channels: of the convolution.
        kernel_size: of the convolution.
        stride: of the convolution if the blur is in front, else of the blur. Default:
            ``kernel_size`` if the blur is behind.
        padding: of the convolution.
        dilation: of the convolution.
        groups: of the convolution.
        bias: whether the convolution has one.
        blur_first: whether the blur is in front of the convolution.

    Shape:
        - Input and output: those of the two in sequence.

    Raises:
        AssertionError: ``blur_first`` without a ``stride``.
        RuntimeError: when it is called with what convolutions refuse.
    """

    stands_for = f"{_PACKAGE}.BlurConv2d"
    settings = ("blur_first", "blur_stride", "blur_filter")
    read = read_composer_conv

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        blur_first: bool = True,
    ) -> None:
        if blur_first and stride is None:
            raise AssertionError("stride must be given if blur_first, got None")
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride if blur_first and stride is not None else 1,
            padding,
            dilation,
            groups,
            bias,
        )
        conv._already_blurpooled = True  # type: ignore[assignment]  # Composer's own mark
        channels = in_channels if blur_first else out_channels
        filter = binomial_filter(3, 3).repeat(channels, 1, 1, 1)
        super().__init__(filter, "blur_filter", conv=conv, blur_first=blur_first)
        self.blur_stride = 1 if blur_first else (kernel_size if stride is None else stride)
        self.blur_nchannels = channels
        self.settle()

    def takes_unbatched(self) -> bool:
        """Whether the original layer takes inputs without a batch."""
        return True

    @staticmethod
    def from_conv2d(
        module: nn.Conv2d, module_index: int = -1, blur_first: bool = True
    ) -> BlurConv2d:
        """The layer in place of a convolution, with a copy of its weights."""
        blurred = BlurConv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.dilation,  # type: ignore[arg-type]
            module.groups,
            module.bias is not None,
            blur_first,
        )
        blurred.conv.load_state_dict(module.state_dict())
        return blurred


def blur_2d(
    input: Tensor,
    channels: int = -1,
    stride: int | tuple[int, int] = 1,
    filter: Tensor | None = None,
) -> Tensor:
    """Composer's ``blur_2d``, fused: blur with zeros around, and subsample.

    Args:
        input: [N, C, H, W], or [C, H, W] if ``channels`` is given.
        channels: C, which ``filter`` must then be for. Default: any.
        stride: of the blur, int or (h, w).
        filter: [C, 1, f_h, f_w] or [1, 1, f_h, f_w], of odd sizes, separable, without gradient.
            Default: [1, 2, 1] / 4 along both axes.

    Raises:
        IndexError: a size of ``filter`` is even.
        ValueError: ``filter`` is no such tensor, or the input has no batch.
        RuntimeError: what convolutions raise it for, such as another number of channels.
    """
    return _run(input, 1, stride, 0, channels, filter)


def blurmax_pool2d(
    input: Tensor,
    kernel_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] = 2,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
    filter: Tensor | None = None,
) -> Tensor:
    """Composer's ``blurmax_pool2d``, fused; see :class:`BlurMaxPool2d` and :func:`blur_2d`.

    The default of ``kernel_size`` is 2, and that of ``stride`` as well.
    """
    _check_dilation(dilation, f"{_PACKAGE}.blurmax_pool2d")
    size = (2, 2) if kernel_size is None else kernel_size
    return _run(input, size, stride, padding, -1, filter)


def _run(
    input: Tensor, kernel_size: Any, stride: Any, padding: Any, channels: int, filter: Tensor | None
) -> Tensor:
    taps = (binomial_taps(3),) * 2 if filter is None else _taps_of(filter)
    of_filter = 1 if filter is None else filter.shape[0]
    if channels < 1:
        _check_batch(input)
        wanted = of_filter if of_filter > 1 else None
    else:
        wanted = channels
    fits = channels < 1 or (of_filter == channels and input.dim() in (3, 4))
    if not fits or (wanted is not None and input.shape[-3] != wanted):
        raise RuntimeError(
            f"input, filter and channels must agree, got an input of shape {tuple(input.shape)}, a "
            f"filter for {of_filter} channels, and channels={channels}"
        )
    return call(
        input,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        taps=taps,
        blur_padding=tuple(len(row) // 2 for row in taps),
        padding_mode="zeros",
    )


def _taps_of(filter: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if filter.dim() != 4:
        raise ValueError(f"filter must be [C, 1, f_h, f_w], got shape {tuple(filter.shape)}")
    if not all(size % 2 for size in filter.shape[-2:]):
        raise IndexError(f"filter must have odd sizes, got shape {tuple(filter.shape)}")
    if filter.requires_grad:
        raise ValueError("filter must be constant, got a tensor that requires grad")
    return separable_taps(filter)


def _check_dilation(dilation: Any, original: str) -> None:
    if dilation not in (1, (1, 1)):
        raise ValueError(f"dilation must be 1, got {dilation!r}; {original} takes others")


def _check_batch(input: Tensor) -> None:
    if input.dim() != 4:
        raise ValueError(f"input must be [N, C, H, W], got shape {tuple(input.shape)}")
