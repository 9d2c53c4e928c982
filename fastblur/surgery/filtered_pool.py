"""A fused layer that keeps the original layer's filter as a buffer, so that checkpoints load."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from .._backends import BackendName
from .._dispatch.autograd import is_tracing
from .._dispatch.plain import is_overridden
from .._geometry import (
    MAX_TAPS,
    BlurPadding,
    Geometry,
    IntOrPair,
    PaddingMode,
    TapsArgument,
    check_scalar,
)
from ..functional import as_map
from ..modules import Pool

_LEAST = torch.finfo(torch.float32).eps


def is_drop_in(kind: type) -> bool:
    """Whether a class is one of :mod:`fastblur.integrations`, and not one derived from it."""
    return "stands_for" in vars(kind)


def channels_of(filter: Tensor) -> int | None:
    """The number of channels that a depthwise filter is for, or None for any number."""
    one_tap = filter.shape[-1] == 1 and (filter.dim() == 3 or filter.shape[-2] == 1)
    return filter.shape[0] if filter.dim() > 2 and filter.shape[0] > 1 and not one_tap else None


def separable_taps(
    filter: Tensor, precision: float | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The two rows of taps whose outer product is the filter, in every channel.

    Args:
        filter: [f_h, f_w], or the weight of a depthwise convolution: [C, 1, f_h, f_w], [C, 1, f_w].
        precision: relative precision of its entries. Default: that of its dtype, or of float32,
            from which most filters come.

    Raises:
        ValueError: the channels differ, or no two rows give the filter within its precision.
    """
    planes = filter.detach().reshape(-1, *filter.shape[-2:])
    if not torch.isfinite(planes).all():  # first, for a NaN would differ from itself
        raise ValueError("the filter is not finite")
    if not torch.equal(planes, planes[:1].expand_as(planes)):
        raise ValueError("the filter differs between channels")
    exact = planes[0].to("cpu", torch.float64)
    # Of a rank-1 matrix, the sums of its rows and of its columns are multiples of the two factors.
    # A filter that sums to nothing is cut through its largest entry instead.
    total = exact.sum()
    if total.abs() > 1e-3 * exact.abs().sum():
        taps_h, taps_w = exact.sum(1), exact.sum(0) / total
    else:
        row, column = divmod(int(exact.abs().argmax()), exact.shape[1])
        largest = exact[row, column]
        taps_h, taps_w = exact[:, column], exact[row] / (largest if largest != 0 else 1)
    precision = max(torch.finfo(filter.dtype).eps, _LEAST) if precision is None else precision
    tolerance = 4 * precision * exact.abs().max()
    if not torch.allclose(torch.outer(taps_h, taps_w), exact, rtol=0, atol=float(tolerance)):
        raise ValueError(
            "the filter is not separable: it is not an outer product of two rows of taps"
        )
    return tuple(taps_h.tolist()), tuple(taps_w.tolist())


class FilteredPool(Pool):
    """A fused layer that holds its filter as a buffer, like the unfused layer.

    The layer reads its taps from the buffer, and again whenever the buffer changes. While the
    buffer is on the meta device, the taps of the geometry apply. The layer does not notice changes
    inside compiled or transformed code, or through ``.data``.

    Args:
        geometry: the geometry of the layer.
        filter: floating point [C, 1, f_h, f_w], [1, 1, f_h, f_w] or [f_h, f_w], or [C, 1, f_w] for
            a 1-D layer; kept unchanged.
        name: the name of the buffer.
        persistent: whether the buffer is part of the state dict.
        backend: as for :class:`fastblur.FusedMaxBlurPool`.

    Shape:
        - Input: [N, C, H, W] or [C, H, W]; in 1-D [N, C, L] or [C, L]. A filter of more than one
          channel fixes C.
        - Output: that of :func:`fastblur.functional.max_blur_pool2d`.

    Raises:
        TypeError: the filter is not a floating point tensor.
        ValueError: the filter has another shape, is not separable, or differs between channels.
    """

    _way_out = "Call fastblur.unfuse_ on the model first."  # for a filter that cannot be fused

    def __init__(
        self,
        geometry: Geometry,
        filter: Tensor,
        *,
        name: str = "filt",
        persistent: bool = True,
        backend: BackendName = "auto",
    ) -> None:
        _check_filter(filter)
        super().__init__(geometry, backend, {})
        self.filter_name = name
        self.register_buffer(name, filter, persistent=persistent)
        self._precision = _LEAST
        self._stamp: tuple[int, int, int] | None = None
        self._read_taps()

    @classmethod
    def zhang(
        cls,
        channels: int,
        filter_size: IntOrPair | None = None,
        stride: IntOrPair = 2,
        padding_mode: PaddingMode = "reflect",
        backend: BackendName = "auto",
        blur_padding: BlurPadding = "same",
        taps: TapsArgument | None = None,
    ) -> FilteredPool:
        """Zhang's BlurPool for [N, channels, H, W], with a persistent buffer ``filt``.

        The taps are binomial, 4 unless ``filter_size`` says otherwise, or those that are given.
        """
        check_scalar("channels", channels, 1)
        geometry = Geometry.resolve(1, stride, 0, filter_size, taps, blur_padding, padding_mode)
        plane = torch.outer(torch.tensor(geometry.taps_h), torch.tensor(geometry.taps_w))
        return cls(geometry, plane.repeat(channels, 1, 1, 1), backend=backend)

    @property
    def filter(self) -> Tensor:
        """The buffer with the filter."""
        filter = self._buffers[self.filter_name]  # get_buffer would cost more than a small call
        assert filter is not None
        return filter

    @property
    def channels(self) -> int | None:
        """The number of channels that the filter is for, or None for any number."""
        return channels_of(self.filter)

    @property
    def one_dimensional(self) -> bool:
        """Whether the layer is 1-D: inputs are [N, C, L] or [C, L]."""
        return self.filter.dim() == 3

    def forward(self, input: Tensor) -> Tensor:
        """Applies the layer."""
        self._refresh_taps()
        return self._run(input, self.geometry)

    def compute(self, input: Tensor, geometry: Geometry) -> Tensor:
        """Applies the layer with a geometry that includes the modules that joined it."""
        if self._refresh_taps():
            taps_h, taps_w = self.taps
            geometry = dataclasses.replace(geometry, taps_h=taps_h, taps_w=taps_w)
        return self._run(input, geometry)

    def _refresh_taps(self) -> bool:
        """Reads the taps again if the filter has changed; returns whether it has."""
        changed = not torch.compiler.is_compiling() and self._is_changed(self.filter)
        if changed:
            self._read_taps()
        return changed

    def _run(self, input: Tensor, geometry: Geometry) -> Tensor:
        if is_tracing():
            # The check of the channels reads sizes, which makes the tracer warn needlessly.
            with warnings.catch_warnings(action="ignore", category=TracerWarning):
                return self._checked(input, geometry)
        return self._checked(input, geometry)

    def _checked(self, input: Tensor, geometry: Geometry) -> Tensor:
        filter = self.filter
        one_dimensional = filter.dim() == 3
        axis, channels = -2 if one_dimensional else -3, channels_of(filter)
        known = isinstance(input, Tensor)
        if not known and not is_overridden(input):
            self.geometry.check_input(input)  # raises
        if (
            known
            and channels is not None
            and input.dim() >= -axis
            and input.shape[axis] != channels
        ):
            raise ValueError(
                f"input must have {channels} channels, as the filter {self.filter_name!r} has, "
                f"got shape {tuple(input.shape)}"
            )
        if one_dimensional:
            return super().compute(as_map(input, geometry), geometry).squeeze(-2)
        return super().compute(input, geometry)

    def _is_changed(self, filter: Tensor) -> bool:
        """Whether the filter is readable and differs from the one last read."""
        known = self._stamp
        unchanged = known is not None and known[0] == id(filter) and known == _stamp(filter)
        return not unchanged and _has_values(filter)

    def extra_repr(self) -> str:
        """The fields of the geometry, with the number of taps instead of the taps."""
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
        filter = self.filter
        if type(filter) is not Tensor or filter.is_meta:  # nothing to read, or nobody to read it
            self._stamp = None
            return
        self._stamp = _stamp(filter)
        # Numbers that were of fewer digits once have no more of them now.
        self._precision = max(self._precision, torch.finfo(filter.dtype).eps)
        try:
            taps_h, taps_w = separable_taps(filter, self._precision)
        except ValueError as error:
            raise ValueError(f"the buffer {self.filter_name!r} cannot be fused: {error}") from None
        self.geometry = dataclasses.replace(self.geometry, taps_h=taps_h, taps_w=taps_w)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        try:
            self._read_taps()
        except ValueError:
            # To an empty buffer, say, that is loaded next; else the next call tells.
            self._stamp = None
        return result

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: Any,
        unexpected_keys: Any,
        error_msgs: list[str],
    ) -> None:
        key = prefix + self.filter_name
        loaded = state_dict.get(key)
        if isinstance(loaded, Tensor) and loaded.shape == self.filter.shape and not loaded.is_meta:
            precision = max(self._precision, torch.finfo(loaded.dtype).eps)
            try:
                separable_taps(loaded, precision)
            except ValueError as error:
                error_msgs.append(f"{key} does not fit a fused layer: {error}. {self._way_out}")
                return
            self._precision = precision
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._read_taps()


def _check_filter(filter: Any) -> None:
    if not isinstance(filter, Tensor) or not filter.is_floating_point():
        what = filter.dtype if isinstance(filter, Tensor) else type(filter).__name__
        raise TypeError(f"filter must be a floating point tensor, got {what}")
    if filter.dim() not in (2, 3, 4) or filter.numel() == 0:
        raise ValueError(
            f"filter must be [C, 1, h, w], [h, w] or [C, 1, w], got shape {tuple(filter.shape)}"
        )
    if max(filter.shape[-2:]) > MAX_TAPS:
        raise ValueError(
            f"filter must have 1 to {MAX_TAPS} taps along an axis, got shape {tuple(filter.shape)}"
        )


def _has_values(filter: Tensor) -> bool:
    """Whether its values are readable: neither traced nor transformed."""
    return (
        type(filter) is Tensor
        and not filter.is_meta
        and not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def _stamp(filter: Tensor) -> tuple[int, int, int]:
    """Changes if the tensor is another one, or was written to."""
    version = 0 if filter.is_inference() else filter._version
    return id(filter), filter.data_ptr(), version


class BlurredConv2d(FilteredPool):
    """A convolution with a blur before or after it, like Composer's and ffcv's layers.

    Args:
        geometry: the geometry of the blur.
        filter: the filter of the blur.
        conv: the convolution, which keeps its stride; it becomes the child ``conv``.
        blur_first: whether the blur runs before the convolution.
        **rest: other arguments of :class:`FilteredPool`.

    Shape:
        - Input and output: those of the two layers in sequence.
    """

    only_pools = False

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
        """Applies both layers."""
        if self.blur_first:
            result: Tensor = self.conv(super().forward(input))
            return result
        return super().forward(self.conv(input))

    def compute(self, input: Tensor, geometry: Geometry) -> Tensor:
        """Applies both, the blur first, with a geometry that includes the modules that joined."""
        result: Tensor = self.conv(super().compute(input, geometry))
        return result
