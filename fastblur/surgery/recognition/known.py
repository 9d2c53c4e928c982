"""The layers that are recognised, by class: how to tell one, and how to read its geometry.

This imports none of the packages that the layers are from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..._backends import BackendName
from ..._geometry import Geometry
from ...modules import FusedBlurPool, FusedMaxBlurPool, Pool
from ..filtered_pool import BlurredConv2d, FilteredPool, channels_of


class CannotFuse(Exception):
    """A layer looks like one that blurs, and is left alone for this reason."""


@dataclass(frozen=True)
class Layer:
    """What a module that blurs computes.

    Attributes:
        geometry: of the fused layer that computes the same.
        filter_name: of the buffer with the filter; None where it has none, like an average pool.
        conv: the name of its convolution, if it blurs in front of or behind one.
        blur_first: whether the convolution comes after the blur.
        unfused: whether it is no layer of fastblur.
    """

    geometry: Geometry
    filter_name: str | None
    conv: str | None = None
    blur_first: bool = True
    unfused: bool = True

    @property
    def gains_alone(self) -> bool:
        """Whether fusing it pays without anything in front: not if it is fused, or an average."""
        return self.unfused and self.filter_name is not None

    def takes(self, relu: bool) -> bool:
        """Whether a ReLU, or else a max, in front can join it."""
        return self.blur_first and (not self.geometry.relu if relu else self.geometry.linear)

    def channels(self, module: nn.Module) -> int | None:
        """That the blur's input must have, or None for any number."""
        if self.filter_name is None or not self.blur_first:
            return None
        return channels_of(filter_of(module, self.filter_name))

    def fused(self, module: nn.Module, geometry: Geometry, backend: BackendName) -> nn.Module:
        """The layer that does what ``module`` does, or all of ``geometry``, with its filter."""
        if self.filter_name is None:
            return _without_buffer(geometry, backend)
        filter = filter_of(module, self.filter_name)
        kwargs: dict[str, Any] = dict(
            name=self.filter_name,
            persistent=self.filter_name not in module._non_persistent_buffers_set,
            backend=backend,
        )
        if self.conv is not None:
            conv = getattr(module, self.conv)
            return BlurredConv2d(geometry, filter, conv, blur_first=self.blur_first, **kwargs)
        return FilteredPool(geometry, filter, **kwargs)


def filter_of(module: nn.Module, name: str) -> Tensor:
    """The buffer of this name."""
    filter = module._buffers[name]
    assert filter is not None
    return filter


def _without_buffer(g: Geometry, backend: BackendName) -> Pool:
    kwargs: dict[str, Any] = dict(
        taps=(g.taps_h, g.taps_w),
        blur_padding=g.blur_padding,
        padding_mode=g.padding_mode,
        relu=g.relu,
        backend=backend,
    )
    if g.kernel_size == (1, 1):
        return FusedBlurPool(stride=g.stride, **kwargs)
    return FusedMaxBlurPool(g.kernel_size, g.stride, g.padding, **kwargs)


def geometry_of(**arguments: Any) -> Geometry:
    """A geometry; CannotFuse where there is none."""
    try:
        return Geometry.resolve(**arguments)
    except (TypeError, ValueError) as error:
        raise CannotFuse(str(error)) from None


# The modes of torch.nn.functional.pad.
_MODES_OF_PAD = {
    "constant": "zeros",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}
PADS: dict[type[nn.Module], str] = {
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "replicate",
    nn.ZeroPad2d: "zeros",
    nn.CircularPad2d: "circular",
    nn.ReflectionPad1d: "reflect",
    nn.ReplicationPad1d: "replicate",
    nn.ZeroPad1d: "zeros",
    nn.CircularPad1d: "circular",
}


def read_antialiased_cnns(module: Any) -> Layer:
    """antialiased_cnns: a padding layer ``pad``, whose class is the mode."""
    f, filter = module.filt_size, module.filt
    if filter.shape[0] != module.channels:
        raise CannotFuse(
            f"its filter has {filter.shape[0]} channels and it is for {module.channels}"
        )
    mode = PADS.get(type(module.pad))
    if mode is None:
        raise CannotFuse(f"its padding is a {type(module.pad).__name__}")
    padding = module.pad.padding
    if filter.dim() == 3:
        left, right = padding
        sides, size, stride = (0, 0, left, right), (1, f), (1, module.stride)
    else:
        left, right, top, bottom = padding
        sides, size, stride = (top, bottom, left, right), (f, f), (module.stride,) * 2
    geometry = geometry_of(
        kernel_size=1, stride=stride, filter_size=size, blur_padding=sides, padding_mode=mode
    )
    return Layer(geometry, "filt")


def read_timm(module: Any) -> Layer:
    """timm: zeros are the mode "constant", and both sides are padded alike."""
    left, right, top, bottom = module.padding
    mode = _MODES_OF_PAD.get(module.pad_mode)
    if mode is None:
        kind = NotImplementedError if isinstance(module.pad_mode, str) else TypeError
        raise CannotFuse(
            f"pad_mode must be one of {', '.join(_MODES_OF_PAD)}, got {module.pad_mode!r}"
        ) from kind()
    geometry = geometry_of(
        kernel_size=1,
        stride=module.stride,
        filter_size=module.filt_size,
        blur_padding=(top, bottom, left, right),
        padding_mode=mode,
    )
    return Layer(geometry, "filt")


def read_kornia(module: Any) -> Layer:
    """kornia: zeros around the blur, whose filter has no channels."""
    geometry = geometry_of(
        kernel_size=getattr(module, "max_pool_size", 1),
        stride=module.stride,
        filter_size=tuple(module.kernel.shape[-2:]),
        padding_mode="zeros",
    )
    return Layer(geometry, "kernel")


def _tresnet(module: Any) -> Layer:
    geometry = geometry_of(
        kernel_size=1, stride=module.stride, filter_size=module.filt_size, blur_padding=1
    )
    return Layer(geometry, "filt")


def _tresnet_scripted(module: Any) -> Layer:
    raise CannotFuse("its filter is held by a scripted object; build it with remove_aa_jit=True")


def _same_padding(filter: Tensor) -> tuple[int, int]:
    return filter.shape[-2] // 2, filter.shape[-1] // 2


def read_composer_max(module: Any) -> Layer:
    """Composer: a max, then a blur with zeros around."""
    if module.dilation not in (1, (1, 1)):
        raise CannotFuse(f"its max has dilation {module.dilation}")
    geometry = geometry_of(
        kernel_size=module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        filter_size=tuple(module.filt2d.shape[-2:]),
        blur_padding=_same_padding(module.filt2d),
        padding_mode="zeros",
    )
    return Layer(geometry, "filt2d")


def read_composer_blur(module: Any, stride: Any = None) -> Layer:
    """Composer: a blur with zeros around."""
    geometry = geometry_of(
        kernel_size=1,
        stride=module.stride if stride is None else stride,
        filter_size=tuple(module.blur_filter.shape[-2:]),
        blur_padding=_same_padding(module.blur_filter),
        padding_mode="zeros",
    )
    return Layer(geometry, "blur_filter")


def read_composer_conv(module: Any) -> Layer:
    """Composer: a blur in front of a convolution or behind it."""
    if type(module.conv) is not nn.Conv2d:
        raise CannotFuse(f"its convolution is a {type(module.conv).__name__}")
    layer = read_composer_blur(module, module.blur_stride)
    return replace(layer, conv="conv", blur_first=bool(module.blur_first))


def read_ffcv_conv(module: Any) -> Layer:
    """ffcv-imagenet: a blur with stride 1 in front of a convolution."""
    return replace(read_composer_blur(module, 1), conv="conv")


def _average(module: Any) -> Layer | None:
    """A box filter, if its borders are absent, or zeros that count."""
    padded = module.padding not in (0, (0, 0))
    if module.ceil_mode or module.divisor_override or (padded and not module.count_include_pad):
        return None
    size = module.kernel_size
    k_h, k_w = size if isinstance(size, (tuple, list)) and len(size) == 2 else (size, size)
    try:
        geometry = Geometry.resolve(
            1,
            module.stride,
            taps=((1 / k_h,) * k_h, (1 / k_w,) * k_w),
            blur_padding=module.padding,
            padding_mode="zeros",
        )
    except (TypeError, ValueError):
        return None  # larger than the kernels, or written in a way that nobody writes
    return Layer(geometry, None)


def own(module: Any) -> Layer:
    """A layer of fastblur."""
    name = getattr(module, "filter_name", None)
    blur_first = getattr(module, "blur_first", True)
    return Layer(module.geometry, name, blur_first=blur_first, unfused=False)


@dataclass(frozen=True)
class Known:
    """A class that people have: its name, its filter's buffer, what else it has, how to read it."""

    name: str
    buffer: str | None
    attributes: tuple[str, ...]
    read: Callable[[Any], Layer]

    def looks_like(self, module: nn.Module) -> bool:
        """Whether the module has the filter and the attributes of such a layer."""
        if self.buffer is None:  # the filter is in an object that is no module
            has_filter = not any(True for _ in module.children())
        else:
            has_filter = isinstance(module._buffers.get(self.buffer), Tensor)
        return has_filter and all(hasattr(module, name) for name in self.attributes)


_ADOBE = ("filt_size", "pad_off", "stride", "channels", "pad")
KNOWN = (
    Known("BlurPool", "filt", _ADOBE, read_antialiased_cnns),
    Known("BlurPool1D", "filt", _ADOBE, read_antialiased_cnns),
    Known("BlurPool2d", "filt", ("filt_size", "stride", "padding", "pad_mode"), read_timm),
    Known("BlurPool2d", "blur_filter", ("channels", "stride"), read_composer_blur),
    Known("BlurPool2D", "kernel", ("stride",), read_kornia),
    Known("MaxBlurPool2D", "kernel", ("stride", "max_pool_size"), read_kornia),
    Known("BlurMaxPool2d", "filt2d", ("kernel_size", "stride", "dilation"), read_composer_max),
    Known("BlurConv2d", "blur_filter", ("conv", "blur_first", "blur_stride"), read_composer_conv),
    Known("BlurPoolConv2d", "blur_filter", ("conv",), read_ffcv_conv),
    Known("Downsample", "filt", _ADOBE, read_antialiased_cnns),  # the first name of BlurPool
    Known("Downsample", "filt", ("filt_size", "stride", "channels"), _tresnet),
    Known("AntiAliasDownsampleLayer", None, ("op",), _tresnet_scripted),
)
# These are known by their class itself.
EXACT: dict[type[nn.Module], Callable[[Any], Layer | None]] = {
    FilteredPool: own,
    FusedMaxBlurPool: own,
    FusedBlurPool: own,
    nn.AvgPool2d: _average,
}
