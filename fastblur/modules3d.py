"""The 3-D operation as modules, in the style of ``torch.nn``, without parameters and buffers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._backends import BackendName
from ._geometry import BlurPadding, PaddingMode, TapsArgument
from ._geometry.filters import Row
from ._geometry.volume import IntOrTriple, Triple, Volume
from ._layer import Layer, shown_filter, unusual
from ._signatures import names_its_arguments
from .functional3d import run_3d


class Pool3d(Layer):
    """Base of the two layers: a checked geometry."""

    def __init__(self, volume: Volume, backend: BackendName, shown: dict[str, Any]) -> None:
        super().__init__(backend, shown)
        self.volume = volume

    @property
    def kernel_size(self) -> Triple:
        """Size of the max window, (depth, height, width)."""
        return self.volume.kernel_size

    @property
    def stride(self) -> Triple:
        """Stride of the blur, (depth, height, width)."""
        return self.volume.stride

    @property
    def padding(self) -> Triple:
        """Padding of the max with -inf, (depth, height, width)."""
        return self.volume.padding

    @property
    def taps(self) -> tuple[Row, Row, Row]:
        """Taps of the blur, (depth, height, width)."""
        return self.volume.taps

    @property
    def blur_padding(self) -> tuple[int, int, int, int, int, int]:
        """Padding of the pooled map, (front, back, top, bottom, left, right)."""
        return self.volume.blur_padding

    @property
    def padding_mode(self) -> str:
        """How the blur pads: "reflect", "replicate", "zeros" or "circular"."""
        return self.volume.padding_mode

    @property
    def relu(self) -> bool:
        """Whether a ReLU runs before the max."""
        return self.volume.relu

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layer."""
        return run_3d(input, self.volume, self.backend)


class FusedMaxBlurPool3d(Pool3d):
    """:class:`~fastblur.FusedMaxBlurPool` on video and volumes, [N, C, D, H, W] or [C, D, H, W].

    Replaces ``nn.MaxPool3d(kernel_size, stride, padding)``. The default stride is 2, not
    ``kernel_size``. Arguments, result and errors are those of
    :func:`fastblur.functional.max_blur_pool3d`; wrong arguments raise when the layer is created.

    Example:
        >>> import torch
        >>> from fastblur import FusedMaxBlurPool3d
        >>> FusedMaxBlurPool3d(3, (1, 2, 2), 1)(torch.zeros(1, 8, 16, 56, 56)).shape
        torch.Size([1, 8, 16, 28, 28])
    """

    @names_its_arguments
    def __init__(
        self,
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
    ) -> None:
        volume = Volume.resolve(
            kernel_size, stride, padding, filter_size, taps, blur_padding, padding_mode, relu
        )
        shown = dict(kernel_size=kernel_size, stride=stride, padding=padding)
        shown |= shown_filter(filter_size, taps)
        shown |= unusual(blur_padding, padding_mode, relu, backend)
        super().__init__(volume, backend, shown)


class FusedBlurPool3d(Pool3d):
    """:class:`~fastblur.FusedBlurPool` on video and volumes, [N, C, D, H, W] or [C, D, H, W].

    Arguments, result and errors are those of :func:`fastblur.functional.blur_pool3d`; wrong
    arguments raise when the layer is created.
    """

    @names_its_arguments
    def __init__(
        self,
        filter_size: IntOrTriple | None = None,
        stride: IntOrTriple = 2,
        *,
        taps: TapsArgument | None = None,
        blur_padding: BlurPadding = "same",
        padding_mode: PaddingMode = "reflect",
        relu: bool = False,
        backend: BackendName = "auto",
    ) -> None:
        volume = Volume.resolve(1, stride, 0, filter_size, taps, blur_padding, padding_mode, relu)
        shown = shown_filter(filter_size, taps) | dict(stride=stride)
        shown |= unusual(blur_padding, padding_mode, relu, backend)
        super().__init__(volume, backend, shown)
