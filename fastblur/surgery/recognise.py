"""Recognises anti-aliasing layers by structure and filter, and derives their geometry.

This imports none of the packages. A candidate is a class of a known name that derives directly from
``nn.Module`` and has the attributes and the buffer of the layer of that name. Its filter must be
separable. Finally it must compute the same numbers as its fused replacement on a few small inputs
(:func:`check_numbers`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._backends import BackendName
from .._geometry import Geometry
from ..modules import FusedBlurPool, FusedMaxBlurPool, Pool
from .filtered_pool import BlurredConv2d, FilteredPool, channels_of, separable_taps

_OF_EVERY_CLASS = {"__init__", "__annotations__", *vars(type("Empty", (), {}))}


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
        return channels_of(_filter_of(module, self.filter_name))

    def fused(self, module: nn.Module, geometry: Geometry, backend: BackendName) -> nn.Module:
        """The layer that does what ``module`` does, or all of ``geometry``, with its filter."""
        if self.filter_name is None:
            return _without_buffer(geometry, backend)
        filter = _filter_of(module, self.filter_name)
        kwargs: dict[str, Any] = dict(
            name=self.filter_name,
            persistent=self.filter_name not in module._non_persistent_buffers_set,
            backend=backend,
        )
        if self.conv is not None:
            conv = getattr(module, self.conv)
            return BlurredConv2d(geometry, filter, conv, blur_first=self.blur_first, **kwargs)
        return FilteredPool(geometry, filter, **kwargs)


def _filter_of(module: nn.Module, name: str) -> Tensor:
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


def blurs(module: nn.Module) -> bool:
    """Whether the module looks like a layer that blurs, fastblur's own included."""
    bases = {base.__name__ for base in type(module).__mro__}
    return isinstance(module, Pool) or any(
        known.name in bases and known.looks_like(module) for known in _KNOWN
    )


def recognise(module: nn.Module) -> Layer | None:
    """What the module computes, or None if it is no layer that blurs.

    Raises:
        CannotFuse: it may be one, and cannot be replaced.
    """
    kind = type(module)
    if kind in _EXACT:
        return _EXACT[kind](module)
    bases = [base.__name__ for base in kind.__mro__]
    for known in _KNOWN:
        if known.name in bases and known.looks_like(module):
            if not _is_it_but_for_init(kind, known.name):
                raise CannotFuse(f"it is a subclass, of {known.name}")
            try:
                layer = known.read(module)
            except (AttributeError, IndexError, TypeError, ValueError) as error:
                raise CannotFuse(
                    f"its attributes are not those of a {known.name}: {error}"
                ) from error
            return _with_taps_of_filter(module, layer)
    return None


def _is_it_but_for_init(kind: type[nn.Module], name: str) -> bool:
    """Whether a class is one of this name, or derives from it with other arguments alone."""
    own, *rest = kind.__mro__
    if own.__name__ == name and rest[0] is nn.Module:
        return True
    return (
        set(vars(own)) <= _OF_EVERY_CLASS
        and len(own.__bases__) == 1
        and issubclass(own.__bases__[0], nn.Module)
        and _is_it_but_for_init(own.__bases__[0], name)
    )


def check_contents(module: nn.Module, layer: Layer) -> None:
    """Raises CannotFuse if the fused layer would lose a parameter, a buffer or a key."""
    fused = layer.fused(module, layer.geometry, "reference")
    contents = [
        (
            {name for name, _ in net.named_parameters()},
            {name for name, _ in net.named_buffers()},
            set(net.state_dict()),
        )
        for net in (module, fused)
    ]
    if contents[0] != contents[1]:
        names = set.union(*contents[0]) ^ set.union(*contents[1])
        raise CannotFuse(f"it holds more than its filter: {', '.join(sorted(names))}")
    if layer.filter_name is not None and _filter_of(module, layer.filter_name).requires_grad:
        raise CannotFuse("its filter is being trained")


@torch.inference_mode(False)
def check_numbers(module: nn.Module, layer: Layer) -> None:
    """Raises CannotFuse unless the fused layer computes the same on a few small inputs.

    Compared are outputs and gradients of the input, in eval and in train mode: on two channels,
    which tell as much as all, or on all where the module does not take two.
    """
    try:
        theirs = _with_two_channels(module, layer)
        _compare(theirs, layer)
    except Exception:
        theirs = copy.deepcopy(module).to("cpu", torch.float64)
        _compare(theirs, layer)


def _with_two_channels(module: nn.Module, layer: Layer) -> Any:
    """A copy that is for maps of two channels, or of any number if the module is."""
    memo: dict[int, Any] = {}
    if layer.conv is not None:
        conv = getattr(module, layer.conv)
        names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        # Without random numbers: those are the user's.
        arguments = {name: getattr(conv, name) for name in names}
        small = nn.utils.skip_init(nn.Conv2d, 2, 2, **arguments)  # type: ignore[no-untyped-call]
        for parameter in small.parameters():
            values = torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
            parameter.data.copy_(values)
        memo[id(conv)] = small.train(conv.training)
    theirs: Any = copy.deepcopy(module, memo).to("cpu", torch.float64)
    if layer.filter_name is not None and channels_of(_filter_of(module, layer.filter_name)):
        setattr(theirs, layer.filter_name, _filter_of(theirs, layer.filter_name)[:2].clone())
        if "channels" in vars(theirs):
            theirs.channels = 2
    return theirs


def _compare(theirs: Any, layer: Layer) -> None:
    g = layer.geometry
    if layer.filter_name is not None:
        # The product of the taps, which the filter is only to the precision of its dtype.
        taps = (torch.tensor(t, dtype=torch.float64) for t in (g.taps_h, g.taps_w))
        _filter_of(theirs, layer.filter_name).copy_(torch.outer(*taps))
    ours = layer.fused(theirs, g, "reference")
    one_dimensional = isinstance(ours, FilteredPool) and ours.one_dimensional
    channels = layer.channels(theirs) or 3
    if layer.conv is not None:
        channels = getattr(theirs, layer.conv).in_channels
    least = [2 * max(len(taps), k) + 2 * max(pad) for taps, k, pad in _axes(g)]
    generator = torch.Generator().manual_seed(0)
    for extra, training in ((0, False), (1, True), (3, False)):
        shape = [2, channels, *(size + extra for size in least)]
        shape = shape[:2] + shape[3:] if one_dimensional else shape
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        try:
            want, got = (_with_gradient(net.train(training), x) for net in (theirs, ours))
        except Exception as error:
            raise CannotFuse(f"it fails on an input of shape {tuple(shape)}: {error}") from error
        for a, b in zip(want, got, strict=True):
            if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-5, atol=1e-7):
                raise CannotFuse("it computes something else than the layer it looks like")


def _with_gradient(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        y = net(x)
        weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
        (gradient,) = torch.autograd.grad((y * weight).sum(), x)
    return y.detach(), gradient


def _axes(g: Geometry) -> tuple[tuple[tuple[float, ...], int, tuple[int, int]], ...]:
    top, bottom, left, right = g.blur_padding
    return (
        (g.taps_h, g.kernel_size[0], (top, bottom)),
        (g.taps_w, g.kernel_size[1], (left, right)),
    )


def _with_taps_of_filter(module: nn.Module, layer: Layer) -> Layer:
    assert layer.filter_name is not None
    filter = _filter_of(module, layer.filter_name)
    if filter.is_meta:
        raise CannotFuse(f"its filter {layer.filter_name!r} is on the meta device, without values")
    try:
        taps_h, taps_w = separable_taps(filter)
    except ValueError as error:
        raise CannotFuse(str(error)) from None
    g = layer.geometry
    if (len(taps_h), len(taps_w)) != (len(g.taps_h), len(g.taps_w)):
        raise CannotFuse(f"its filter is {len(taps_h)}x{len(taps_w)}, its attributes say otherwise")
    return replace(layer, geometry=replace(g, taps_h=taps_h, taps_w=taps_w))


def _geometry(**arguments: Any) -> Geometry:
    try:
        return Geometry.resolve(**arguments)
    except (TypeError, ValueError) as error:
        raise CannotFuse(str(error)) from None


_PADS: dict[type[nn.Module], str] = {
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "replicate",
    nn.ZeroPad2d: "zeros",
    nn.CircularPad2d: "circular",
    nn.ReflectionPad1d: "reflect",
    nn.ReplicationPad1d: "replicate",
    nn.ZeroPad1d: "zeros",
    nn.CircularPad1d: "circular",
}


def _adobe(module: Any) -> Layer:
    """antialiased_cnns: a padding layer ``pad``, whose class is the mode."""
    f, filter = module.filt_size, module.filt
    if filter.shape[0] != module.channels:
        raise CannotFuse(
            f"its filter has {filter.shape[0]} channels and it is for {module.channels}"
        )
    mode = _PADS.get(type(module.pad))
    if mode is None:
        raise CannotFuse(f"its padding is a {type(module.pad).__name__}")
    padding = module.pad.padding
    if filter.dim() == 3:
        left, right = padding
        sides, size, stride = (0, 0, left, right), (1, f), (1, module.stride)
    else:
        left, right, top, bottom = padding
        sides, size, stride = (top, bottom, left, right), (f, f), (module.stride,) * 2
    geometry = _geometry(
        kernel_size=1, stride=stride, filter_size=size, blur_padding=sides, padding_mode=mode
    )
    return Layer(geometry, "filt")


def _timm(module: Any) -> Layer:
    left, right, top, bottom = module.padding
    mode = "zeros" if module.pad_mode == "constant" else module.pad_mode
    geometry = _geometry(
        kernel_size=1,
        stride=module.stride,
        filter_size=module.filt_size,
        blur_padding=(top, bottom, left, right),
        padding_mode=mode,
    )
    return Layer(geometry, "filt")


def _kornia(module: Any) -> Layer:
    geometry = _geometry(
        kernel_size=getattr(module, "max_pool_size", 1),
        stride=module.stride,
        filter_size=tuple(module.kernel.shape[-2:]),
        padding_mode="zeros",
    )
    return Layer(geometry, "kernel")


def _tresnet(module: Any) -> Layer:
    geometry = _geometry(
        kernel_size=1, stride=module.stride, filter_size=module.filt_size, blur_padding=1
    )
    return Layer(geometry, "filt")


def _tresnet_scripted(module: Any) -> Layer:
    raise CannotFuse("its filter is held by a scripted object; build it with remove_aa_jit=True")


def _same_padding(filter: Tensor) -> tuple[int, int]:
    return filter.shape[-2] // 2, filter.shape[-1] // 2


def _composer_max(module: Any) -> Layer:
    if module.dilation not in (1, (1, 1)):
        raise CannotFuse(f"its max has dilation {module.dilation}")
    geometry = _geometry(
        kernel_size=module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        filter_size=tuple(module.filt2d.shape[-2:]),
        blur_padding=_same_padding(module.filt2d),
        padding_mode="zeros",
    )
    return Layer(geometry, "filt2d")


def _composer_blur(module: Any, stride: Any = None) -> Layer:
    geometry = _geometry(
        kernel_size=1,
        stride=module.stride if stride is None else stride,
        filter_size=tuple(module.blur_filter.shape[-2:]),
        blur_padding=_same_padding(module.blur_filter),
        padding_mode="zeros",
    )
    return Layer(geometry, "blur_filter")


def _composer_conv(module: Any) -> Layer:
    if type(module.conv) is not nn.Conv2d:
        raise CannotFuse(f"its convolution is a {type(module.conv).__name__}")
    layer = _composer_blur(module, module.blur_stride)
    return replace(layer, conv="conv", blur_first=bool(module.blur_first))


def _ffcv_conv(module: Any) -> Layer:
    return replace(_composer_blur(module, 1), conv="conv")


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


def _own(module: Any) -> Layer:
    return Layer(module.geometry, getattr(module, "filter_name", None), unfused=False)


@dataclass(frozen=True)
class _Known:
    """A class that people have: its name, its filter's buffer, what else it has, how to read it."""

    name: str
    buffer: str | None
    attributes: tuple[str, ...]
    read: Callable[[Any], Layer]

    def looks_like(self, module: nn.Module) -> bool:
        if self.buffer is None:  # the filter is in an object that is no module
            has_filter = not any(True for _ in module.children())
        else:
            has_filter = isinstance(module._buffers.get(self.buffer), Tensor)
        return has_filter and all(hasattr(module, name) for name in self.attributes)


_ADOBE = ("filt_size", "pad_off", "stride", "channels", "pad")
_KNOWN = (
    _Known("BlurPool", "filt", _ADOBE, _adobe),
    _Known("BlurPool1D", "filt", _ADOBE, _adobe),
    _Known("BlurPool2d", "filt", ("filt_size", "stride", "padding", "pad_mode"), _timm),
    _Known("BlurPool2d", "blur_filter", ("channels", "stride"), _composer_blur),
    _Known("BlurPool2D", "kernel", ("stride",), _kornia),
    _Known("MaxBlurPool2D", "kernel", ("stride", "max_pool_size"), _kornia),
    _Known("BlurMaxPool2d", "filt2d", ("kernel_size", "stride", "dilation"), _composer_max),
    _Known("BlurConv2d", "blur_filter", ("conv", "blur_first", "blur_stride"), _composer_conv),
    _Known("BlurPoolConv2d", "blur_filter", ("conv",), _ffcv_conv),
    _Known("Downsample", "filt", _ADOBE, _adobe),  # the first name of BlurPool
    _Known("Downsample", "filt", ("filt_size", "stride", "channels"), _tresnet),
    _Known("AntiAliasDownsampleLayer", None, ("op",), _tresnet_scripted),
)
# These are known by their class itself.
_EXACT: dict[type[nn.Module], Callable[[Any], Layer | None]] = {
    FilteredPool: _own,
    FusedMaxBlurPool: _own,
    FusedBlurPool: _own,
    nn.AvgPool2d: _average,
}
