"""Recognises anti-aliasing layers by structure and filter, and derives their geometry.

A candidate is a class of a known name that derives directly from ``nn.Module`` and has the
attributes and the buffer of the layer of that name (:mod:`.known`), or a class whose source only
pads and convolves (:mod:`.own_class`). Its filter must be separable. Finally it must compute the
same numbers as its fused replacement on a few small inputs (:func:`check_numbers`).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..._geometry import Geometry
from ...modules import Pool
from ...modules3d import Pool3d
from ..filtered_pool import FilteredPool, channels_of, is_drop_in, separable_taps
from .known import EXACT, KNOWN, CannotFuse, Layer, filter_of, own
from .own_class import is_own_blur, read_own

_OF_EVERY_CLASS = {"__init__", "__annotations__", *vars(type("Empty", (), {}))}


def blurs(module: nn.Module) -> bool:
    """Whether the module looks like a layer that blurs, fastblur's own included."""
    bases = {base.__name__ for base in type(module).__mro__}
    known = any(known.name in bases and known.looks_like(module) for known in KNOWN)
    return known or isinstance(module, (Pool, Pool3d)) or is_own_blur(module)


def recognise(module: nn.Module) -> Layer | None:
    """What the module computes, or None if it is no layer that blurs.

    Raises:
        CannotFuse: it may be one, and cannot be replaced.
    """
    kind = type(module)
    if kind in EXACT:
        return EXACT[kind](module)
    if is_drop_in(kind):
        return own(module)
    bases = [base.__name__ for base in kind.__mro__]
    if isinstance(module, Pool) and kind.__module__.partition(".")[0] != "fastblur":
        raise CannotFuse(f"it is a subclass, of {bases[1]}; it is fused already")
    for known in KNOWN:
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
    return _with_taps_of_filter(module, read_own(module)) if is_own_blur(module) else None


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
    if layer.filter_name is not None and filter_of(module, layer.filter_name).requires_grad:
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
    if layer.filter_name is not None and channels_of(filter_of(module, layer.filter_name)):
        setattr(theirs, layer.filter_name, filter_of(theirs, layer.filter_name)[:2].clone())
        if "channels" in vars(theirs):
            theirs.channels = 2
    return theirs


def _compare(theirs: Any, layer: Layer) -> None:
    g = layer.geometry
    if layer.filter_name is not None:
        # The product of the taps, which the filter is only to the precision of its dtype.
        taps = (torch.tensor(t, dtype=torch.float64) for t in (g.taps_h, g.taps_w))
        filter_of(theirs, layer.filter_name).copy_(torch.outer(*taps))
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
    filter = filter_of(module, layer.filter_name)
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
