"""kornia's blur pools, fused: change the import and nothing else.

They do what those of ``kornia.filters`` do in kornia 0.9.0, and do not import kornia. Errors are of
kornia's classes if the program has imported kornia, and otherwise of the Python classes that those
derive from. ``EdgeAwareBlurPool2D`` is not here: most of its work is no blur.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any, ClassVar

from torch import Tensor

from ..surgery.recognition.known import read_kornia
from ._drop_in import DropIn, binomial_filter, call

__all__ = ["BlurPool2D", "MaxBlurPool2D", "blur_pool2d", "max_blur_pool2d"]


class _Blur(DropIn):
    settings: ClassVar[tuple[str, ...]] = ("stride", "kernel")
    read = read_kornia
    kernel_size: Any = None

    def __init__(self, kernel_size: tuple[int, int] | int, stride: int) -> None:
        height, width = _pair(kernel_size)
        filter = binomial_filter(max(height, 1), max(width, 1))
        super().__init__(filter, "kernel", persistent=False)
        self.kernel_size = kernel_size
        self.stride = stride
        self._least = min(height, width)
        self.settle()

    def check(self, input: Tensor) -> None:
        """Raises what the original layer raises and a fused one does not."""
        height, width = self.filter.shape
        _check(input, type(self).__name__, height, width, self._least)


class BlurPool2D(_Blur):
    """``kornia.filters.BlurPool2D``, fused: blur with zeros around, and subsample.

    Arguments, defaults, attributes, numbers and errors are kornia's, and so is the buffer
    ``kernel``, which is not part of the state dict.

    Args:
        kernel_size: number of binomial taps, 1 to 31; a pair must be of equal numbers.
        stride: of the blur.

    Shape:
        - Input: [N, C, H, W]; float32, float64, float16 or bfloat16.
        - Output: [N, C, ceil(H / stride), ceil(W / stride)].

    Raises:
        TypeError: when it is called with integers; also kornia's ``TypeCheckError``.
        ValueError: ``kernel_size`` is more than 31.
        RuntimeError: when it is called with what convolutions refuse.

    A ``kernel_size`` that is no square raises kornia's ``BaseError`` when the layer is called, and
    a ValueError if the program has not imported kornia.

    Example:
        >>> import torch
        >>> from fastblur.integrations.kornia import BlurPool2D
        >>> BlurPool2D(3)(torch.zeros(1, 64, 56, 56)).shape
        torch.Size([1, 64, 28, 28])
    """

    stands_for = "kornia.filters.BlurPool2D"

    def __init__(self, kernel_size: tuple[int, int] | int, stride: int = 2) -> None:
        super().__init__(kernel_size, stride)


class MaxBlurPool2D(_Blur):
    """``kornia.filters.MaxBlurPool2D``, fused: max, blur with zeros around, subsample.

    Arguments, defaults, attributes, numbers and errors are kornia's, and so is the buffer
    ``kernel``, which is not part of the state dict.

    Args:
        kernel_size: number of binomial taps, 1 to 31; a pair must be of equal numbers.
        stride: of the blur.
        max_pool_size: size of the max window, 1 to 15.
        ceil_mode: has no effect, and warns, as in kornia.

    Shape:
        - Input: [N, C, H, W]; float32, float64, float16 or bfloat16.
        - Output: [N, C, ceil((H - max_pool_size + 1) / stride), ...].

    Raises:
        As :class:`BlurPool2D`.
    """

    stands_for = "kornia.filters.MaxBlurPool2D"
    settings = ("stride", "kernel", "max_pool_size")

    def __init__(
        self,
        kernel_size: tuple[int, int] | int,
        stride: int = 2,
        max_pool_size: int = 2,
        ceil_mode: bool | None = None,
    ) -> None:
        _warn_of_ceil_mode(ceil_mode)
        super().__init__(kernel_size, stride)
        self.max_pool_size = max_pool_size
        self.ceil_mode = bool(ceil_mode)


def blur_pool2d(input: Tensor, kernel_size: tuple[int, int] | int, stride: int = 2) -> Tensor:
    """``kornia.filters.blur_pool2d``, fused; see :class:`BlurPool2D`."""
    return _run(input, "blur_pool2d", kernel_size, stride, 1)


def max_blur_pool2d(
    input: Tensor,
    kernel_size: tuple[int, int] | int,
    stride: int = 2,
    max_pool_size: int = 2,
    ceil_mode: bool | None = None,
) -> Tensor:
    """``kornia.filters.max_blur_pool2d``, fused; see :class:`MaxBlurPool2D`."""
    _warn_of_ceil_mode(ceil_mode)
    if input.dim() != 4:
        raise _kind("ShapeError", ValueError)(
            f"input must be [N, C, H, W], got shape {tuple(input.shape)}"
        )
    return _run(input, "max_blur_pool2d", kernel_size, stride, max_pool_size)


def _run(input: Tensor, name: str, kernel_size: Any, stride: Any, max_pool_size: Any) -> Tensor:
    height, width = _pair(kernel_size)
    _check(input, name, height, width, min(height, width))
    if input.dim() != 4:
        raise RuntimeError(f"input must be [N, C, H, W], got shape {tuple(input.shape)}")
    return call(
        input,
        kernel_size=max_pool_size,
        stride=stride,
        filter_size=(height, width),
        padding_mode="zeros",
    )


def _pair(kernel_size: Any) -> tuple[int, int]:
    """The height and the width of a filter, as kornia reads them."""
    if isinstance(kernel_size, int):
        return int(kernel_size), int(kernel_size)
    if len(kernel_size) != 2:
        raise _kind("BaseError", ValueError)(
            f"kernel_size must be an int or a pair of ints, got {kernel_size!r}"
        )
    height, width = kernel_size
    return int(height), int(width)


def _check(input: Tensor, name: str, height: int, width: int, least: int) -> None:
    if not input.is_floating_point():
        raise _kind("TypeCheckError", TypeError)(
            f"input of {name} must be floating point, got {input.dtype}; convert it first, for "
            f"example with input.float()"
        )
    if input.dim() < 2:
        raise IndexError(f"input must be [N, C, H, W], got shape {tuple(input.shape)}")
    if height != width:
        raise _kind("BaseError", ValueError)(
            f"kernel_size must be as high as wide, got {(height, width)}"
        )
    if least < 1:
        raise RuntimeError(f"kernel_size must be 1 or more, got {least}")


def _kind(name: str, otherwise: type[Exception]) -> type[Exception]:
    """A class of kornia's errors, if there is anybody who could catch it."""
    kind: type[Exception] = getattr(sys.modules.get("kornia.core.exceptions"), name, otherwise)
    return kind


def _warn_of_ceil_mode(ceil_mode: bool | None) -> None:
    if ceil_mode is not None:
        warnings.warn(
            "ceil_mode is deprecated in kornia and has no effect, for the max has stride 1",
            DeprecationWarning,
            stacklevel=3,
        )
