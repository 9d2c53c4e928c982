"""A fused layer with the filter of the layer it stands for, so that checkpoints still fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from .._backends import BackendName
from .._geometry import Geometry, IntOrPair, PaddingMode
from ..functional import run, run_1d
from ..modules import Pool


def separable_taps(filter: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The two rows of taps whose outer product the filter is, in each of its channels.

    Args:
        filter: [f_h, f_w], or as depthwise convolutions take it: [C, 1, f_h, f_w], [C, 1, f_w].

    Raises:
        ValueError: the channels differ, or no two rows give the filter to its own precision.
    """
    planes = filter.detach().reshape(-1, *filter.shape[-2:])
    if not torch.equal(planes, planes[:1].expand_as(planes)):
        raise ValueError("the filter differs between channels")
    exact = planes[0].to("cpu", torch.float64)
    if not torch.isfinite(exact).all():
        raise ValueError("the filter is not finite")
    # Of a rank-1 matrix, the sums of its rows and of its columns are multiples of the two factors.
    # A filter that sums to nothing is cut through its largest entry instead.
    total = exact.sum()
    if total.abs() > 1e-3 * exact.abs().sum():
        taps_h, taps_w = exact.sum(1), exact.sum(0) / total
    else:
        row, column = divmod(int(exact.abs().argmax()), exact.shape[1])
        largest = exact[row, column]
        taps_h, taps_w = exact[:, column], exact[row] / (largest if largest != 0 else 1)
    tolerance = 4 * torch.finfo(filter.dtype).eps * exact.abs().max()
    if not torch.allclose(torch.outer(taps_h, taps_w), exact, rtol=0, atol=float(tolerance)):
        raise ValueError("the filter is not separable: it is no outer product of two rows of taps")
    return tuple(taps_h.tolist()), tuple(taps_w.tolist())


class FilteredPool(Pool):
    """A fused layer with the filter of the unfused layer as a buffer.

    The taps are read from the buffer, also after ``load_state_dict``; while it is on the meta
    device, they are the geometry's.

    Args:
        geometry: of the layer.
        filter: [C, 1, f_h, f_w], [1, 1, f_h, f_w] or [f_h, f_w], kept as it is; or [C, 1, f_w] for
            a one-dimensional layer.
        name: of the buffer.
        persistent: whether the buffer is part of the state dict.
        backend: as for :class:`fastblur.FusedMaxBlurPool`.

    Shape:
        - Input: [N, C, H, W] or [C, H, W], one-dimensional [N, C, L] or [C, L]; a filter of more
          than one channel fixes C.
        - Output: that of :func:`fastblur.functional.max_blur_pool2d`.

    Raises:
        ValueError: the filter is not separable, or its channels differ.
    """

    def __init__(
        self,
        geometry: Geometry,
        filter: Tensor,
        *,
        name: str = "filt",
        persistent: bool = True,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(geometry, backend, {})
        self.filter_name = name
        self.register_buffer(name, filter, persistent=persistent)
        self._read_taps()

    @classmethod
    def zhang(
        cls,
        channels: int,
        filter_size: IntOrPair = 4,
        stride: IntOrPair = 2,
        padding_mode: PaddingMode = "reflect",
        backend: BackendName = "auto",
    ) -> FilteredPool:
        """Zhang's BlurPool of so many channels: binomial taps, a persistent buffer ``filt``."""
        geometry = Geometry.resolve(1, stride, 0, filter_size, None, "same", padding_mode)
        plane = torch.outer(torch.tensor(geometry.taps_h), torch.tensor(geometry.taps_w))
        return cls(geometry, plane.repeat(channels, 1, 1, 1), backend=backend)

    @property
    def filter(self) -> Tensor:
        """The buffer."""
        return self.get_buffer(self.filter_name)

    @property
    def channels(self) -> int | None:
        """That the filter is for, or None where it serves any number."""
        filter = self.filter
        return filter.shape[0] if filter.dim() > 2 and filter.shape[0] > 1 else None

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layer."""
        one_dimensional = self.filter.dim() == 3
        axis = -2 if one_dimensional else -3
        channels = self.channels
        if channels is not None and input.dim() >= -axis and input.shape[axis] != channels:
            raise ValueError(
                f"input must have {channels} channels, as the filter {self.filter_name!r} has, "
                f"got shape {tuple(input.shape)}"
            )
        return (run_1d if one_dimensional else run)(input, self.geometry, self.backend)

    def extra_repr(self) -> str:
        """What the geometry says, the taps by their number."""
        g = self.geometry
        parts = {
            "kernel_size": g.kernel_size,
            "stride": g.stride,
            "padding": g.padding,
            "filter_size": (len(g.taps_h), len(g.taps_w)),
            "blur_padding": g.blur_padding,
            "padding_mode": g.padding_mode,
            "relu": g.relu,
        }
        usual = {"kernel_size": (1, 1), "padding": (0, 0), "relu": False}
        shown = [f"{key}={v!r}" for key, v in parts.items() if v != usual.get(key)]
        return ", ".join([*([] if self.channels is None else [str(self.channels)]), *shown])

    def _read_taps(self) -> None:
        if not self.filter.is_meta:
            taps_h, taps_w = separable_taps(self.filter)
            self.geometry = dataclasses.replace(self.geometry, taps_h=taps_h, taps_w=taps_w)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        key = prefix + self.filter_name
        loaded = state_dict.get(key)
        if isinstance(loaded, Tensor) and loaded.shape == self.filter.shape and not loaded.is_meta:
            try:
                separable_taps(loaded)
            except ValueError as error:
                raise ValueError(
                    f"{key} of the state dict does not fit a fused layer: {error}; call "
                    f"fastblur.unfuse_ on the model first"
                ) from None
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._read_taps()


class BlurredConv2d(FilteredPool):
    """A convolution with a blur in front of it or behind it: Composer's and ffcv's layers.

    Args:
        geometry: of the blur.
        filter: of the blur.
        conv: the convolution, which keeps its stride; child ``conv`` of this module.
        blur_first: whether the blur comes first.
        **rest: of :class:`FilteredPool`.

    Shape:
        - Input and output: those of the two in turn.
    """

    def __init__(
        self,
        geometry: Geometry,
        filter: Tensor,
        conv: nn.Module,
        *,
        blur_first: bool = True,
        **rest: Any,
    ) -> None:
        super().__init__(geometry, filter, **rest)
        self.conv = conv
        self.blur_first = blur_first

    def forward(self, input: Tensor) -> Tensor:
        """Applies the two."""
        if self.blur_first:
            result: Tensor = self.conv(super().forward(input))
            return result
        return super().forward(self.conv(input))
