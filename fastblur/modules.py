"""The operation as modules, in the style of ``torch.nn``, without parameters and buffers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._backends import BackendName
from ._geometry import (
    BlurPadding,
    Geometry,
    IntOrPair,
    PaddingMode,
    Pair,
    TapsArgument,
)
from ._geometry.upsampling import Gain, UpsamplePadding, Upsampling
from ._layer import Layer, not_default, shown_filter, unusual
from ._signatures import names_its_arguments
from .functional import as_map, resolve_1d, resolve_upsampling_1d

__all__ = [
    "FusedBlurPool",
    "FusedBlurPool1d",
    "FusedBlurUpsample",
    "FusedBlurUpsample1d",
    "FusedMaxBlurPool",
    "FusedMaxBlurPool1d",
]


class Pool(Layer):
    """Base of the pooling layers: a checked geometry."""

    geometry: Geometry
    only_pools = True  # whether a call does only what the geometry says
    _together: tuple[Any, ...] | None = None  # of surgery/joins: the modules in front that joined

    def __init__(self, geometry: Geometry, backend: BackendName, shown: dict[str, Any]) -> None:
        super().__init__(backend, shown)
        self.geometry = geometry

    @property
    def kernel_size(self) -> Pair:
        """Size of the max window, (height, width)."""
        return self.geometry.kernel_size

    @property
    def stride(self) -> Pair:
        """Stride of the blur, (height, width)."""
        return self.geometry.stride

    @property
    def padding(self) -> Pair:
        """Padding of the max with -inf, (height, width)."""
        return self.geometry.padding

    @property
    def taps(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Taps of the blur, (vertical, horizontal)."""
        return self.geometry.taps_h, self.geometry.taps_w

    @property
    def blur_padding(self) -> tuple[int, int, int, int]:
        """Padding of the pooled map, (top, bottom, left, right)."""
        return self.geometry.blur_padding

    @property
    def padding_mode(self) -> str:
        """How the blur pads: "reflect", "replicate", "zeros" or "circular"."""
        return self.geometry.padding_mode

    @property
    def relu(self) -> bool:
        """Whether a ReLU runs before the max."""
        return self.geometry.relu

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layer."""
        return self.compute(input, self.geometry)


class FusedMaxBlurPool(Pool):
    """Anti-aliased max pooling (Zhang 2019, section 3.2): max with stride 1, blur, subsample.

    Replaces ``nn.MaxPool2d(kernel_size, stride, padding)``. The default stride is 2, not
    ``kernel_size``. Arguments, result and errors are those of
    :func:`fastblur.functional.max_blur_pool2d`; wrong arguments raise when the layer is created.

    Shape:
        - Input: [N, C, H, W] or [C, H, W]; float32, float64, float16 or bfloat16.
        - Output: [N, C, H_out, W_out] or [C, H_out, W_out] in the input's dtype; with
          ``blur_padding="same"``, ``H_out = ceil((H + 2 * padding - kernel_size + 1) / stride)``.

    Example:
        >>> import torch
        >>> from fastblur import FusedMaxBlurPool
        >>> FusedMaxBlurPool(3, 2, 1)(torch.zeros(1, 64, 112, 112)).shape
        torch.Size([1, 64, 56, 56])
    """

    @names_its_arguments
    def __init__(
        self,
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
    ) -> None:
        geometry = Geometry.resolve(
            kernel_size, stride, padding, filter_size, taps, blur_padding, padding_mode, relu
        )
        shown = dict(kernel_size=kernel_size, stride=stride, padding=padding)
        shown |= shown_filter(filter_size, taps)
        shown |= unusual(blur_padding, padding_mode, relu, backend)
        super().__init__(geometry, backend, shown)


class FusedBlurPool(Pool):
    """Blur and subsample: the BlurPool of Zhang 2019, section 3.2.

    Arguments, result and errors are those of :func:`fastblur.functional.blur_pool2d`; wrong
    arguments raise when the layer is created.

    Shape:
        - Input: [N, C, H, W] or [C, H, W]; float32, float64, float16 or bfloat16.
        - Output: [N, C, H_out, W_out] or [C, H_out, W_out] in the input's dtype; with
          ``blur_padding="same"``, ``H_out = ceil(H / stride)``.
    """

    @names_its_arguments
    def __init__(
        self,
        filter_size: IntOrPair | None = None,
        stride: IntOrPair = 2,
        *,
        taps: TapsArgument | None = None,
        blur_padding: BlurPadding = "same",
        padding_mode: PaddingMode = "reflect",
        relu: bool = False,
        backend: BackendName = "auto",
    ) -> None:
        geometry = Geometry.resolve(
            1, stride, 0, filter_size, taps, blur_padding, padding_mode, relu
        )
        shown = shown_filter(filter_size, taps) | dict(stride=stride)
        shown |= unusual(blur_padding, padding_mode, relu, backend)
        super().__init__(geometry, backend, shown)


class _Pool1d(Pool):
    @property
    def one_dimensional(self) -> bool:
        """Whether the layer is 1-D: inputs are [N, C, L] or [C, L]."""
        return True

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layer."""
        return self.compute(as_map(input, self.geometry), self.geometry).squeeze(-2)


class FusedMaxBlurPool1d(_Pool1d):
    """:class:`FusedMaxBlurPool` along the last axis of [N, C, L] or [C, L].

    Arguments, result and errors are those of :func:`fastblur.functional.max_blur_pool1d`; wrong
    arguments raise when the layer is created.
    """

    @names_its_arguments
    def __init__(
        self,
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
    ) -> None:
        geometry = resolve_1d(
            kernel_size, stride, padding, filter_size, taps, blur_padding, padding_mode, relu
        )
        shown = dict(kernel_size=kernel_size, stride=stride, padding=padding)
        shown |= shown_filter(filter_size, taps)
        shown |= unusual(blur_padding, padding_mode, relu, backend)
        super().__init__(geometry, backend, shown)


class FusedBlurPool1d(_Pool1d):
    """:class:`FusedBlurPool` along the last axis of [N, C, L] or [C, L].

    Arguments, result and errors are those of :func:`fastblur.functional.blur_pool1d`; wrong
    arguments raise when the layer is created.
    """

    @names_its_arguments
    def __init__(
        self,
        filter_size: int | None = None,
        stride: int = 2,
        *,
        taps: TapsArgument | None = None,
        blur_padding: BlurPadding = "same",
        padding_mode: PaddingMode = "reflect",
        relu: bool = False,
        backend: BackendName = "auto",
    ) -> None:
        geometry = resolve_1d(1, stride, 0, filter_size, taps, blur_padding, padding_mode, relu)
        shown = shown_filter(filter_size, taps) | dict(stride=stride)
        shown |= unusual(blur_padding, padding_mode, relu, backend)
        super().__init__(geometry, backend, shown)


class Upsample(Layer):
    """Base of the upsampling layers: checked arguments, which are those of a transposed blur."""

    def __init__(self, upsampling: Upsampling, backend: BackendName, shown: dict[str, Any]) -> None:
        super().__init__(backend, shown)
        self.upsampling = upsampling

    @property
    def stride(self) -> Pair:
        """How many times larger the output is, (vertical, horizontal)."""
        return self.upsampling.stride

    @property
    def taps(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Taps, (vertical, horizontal), multiplied by the gain."""
        return self.upsampling.blur.taps_h, self.upsampling.blur.taps_w

    @property
    def padding_mode(self) -> str:
        """What lies around the input: "zeros" or "replicate"."""
        return self.upsampling.padding_mode


class FusedBlurUpsample(Upsample):
    """Anti-aliased upsampling by an integer factor: the transpose of :class:`FusedBlurPool`.

    For decoders, U-Nets and generators, in the place of ``nn.Upsample`` or of a
    ``nn.ConvTranspose2d`` with a fixed filter. Arguments, result and errors are those of
    :func:`fastblur.functional.blur_upsample2d`; wrong arguments raise when the layer is created.

    Shape:
        - Input: [N, C, H, W] or [C, H, W]; float32, float64, float16 or bfloat16.
        - Output: [N, C, stride_h * H, stride_w * W] or [C, stride_h * H, stride_w * W] in the
          input's dtype.

    Example:
        >>> import torch
        >>> from fastblur import FusedBlurUpsample
        >>> FusedBlurUpsample(padding_mode="replicate")(torch.ones(1, 1, 2, 1)).flatten()
        tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    @names_its_arguments
    def __init__(
        self,
        filter_size: IntOrPair | None = None,
        stride: IntOrPair = 2,
        *,
        taps: TapsArgument | None = None,
        gain: Gain = "auto",
        padding_mode: UpsamplePadding = "zeros",
        backend: BackendName = "auto",
    ) -> None:
        upsampling = Upsampling.resolve(filter_size, stride, taps, gain, padding_mode)
        shown = shown_filter(filter_size, taps) | dict(stride=stride)
        shown |= _unusual_upsampling(gain, padding_mode, backend)
        super().__init__(upsampling, backend, shown)

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layer."""
        return self.compute(input, self.upsampling)


class FusedBlurUpsample1d(Upsample):
    """:class:`FusedBlurUpsample` along the last axis of [N, C, L] or [C, L].

    Arguments, result and errors are those of :func:`fastblur.functional.blur_upsample1d`; wrong
    arguments raise when the layer is created.
    """

    @names_its_arguments
    def __init__(
        self,
        filter_size: int | None = None,
        stride: int = 2,
        *,
        taps: TapsArgument | None = None,
        gain: Gain = "auto",
        padding_mode: UpsamplePadding = "zeros",
        backend: BackendName = "auto",
    ) -> None:
        upsampling = resolve_upsampling_1d(filter_size, stride, taps, gain, padding_mode)
        shown = shown_filter(filter_size, taps) | dict(stride=stride)
        shown |= _unusual_upsampling(gain, padding_mode, backend)
        super().__init__(upsampling, backend, shown)

    @property
    def one_dimensional(self) -> bool:
        """Whether the layer is 1-D: inputs are [N, C, L] or [C, L]."""
        return True

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layer."""
        return self.compute(as_map(input, self.upsampling), self.upsampling).squeeze(-2)


def _unusual_upsampling(gain: Any, padding_mode: str, backend: str) -> dict[str, Any]:
    return not_default(
        gain=(gain, "auto"), padding_mode=(padding_mode, "zeros"), backend=(backend, "auto")
    )
