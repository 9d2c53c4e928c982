"""Reports what a call runs on, and how many bytes it moves and keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _backends
from ._backends import BackendName
from ._dispatch.operators import autocast, is_channels_last
from ._geometry import Geometry, Pair
from ._layer import Layer
from ._signatures import arguments_of, check_names
from .functional import as_map, max_blur_pool2d
from .modules import Pool, Upsample


@dataclass(frozen=True)
class Explanation:
    """The result of :func:`explain`; ``str()`` gives a readable report.

    Attributes:
        backend: the name of the backend that runs the call.
        specialisation: the kernels that it uses, in words.
        refused: maps each other backend to the reason why it does not run the call.
        output_size: the shape of the output.
        bytes_forward: bytes that forward must move: x read once, y and codes written once.
        bytes_backward: bytes that backward must move: dy and codes read once, dx written once.
        bytes_saved: bytes kept for backward; None if autograd decides that.
    """

    backend: str
    specialisation: str
    refused: dict[str, str]
    output_size: tuple[int, ...]
    bytes_forward: int
    bytes_backward: int
    bytes_saved: int | None

    def __str__(self) -> str:
        saved = "whatever autograd keeps of the unfused chain"
        if self.bytes_saved is not None:
            saved = f"{self.bytes_saved:,} bytes"
        lines = [
            f"backend         {self.backend}: {self.specialisation}",
            f"output          {list(self.output_size)}",
            f"must move       {self.bytes_forward:,} bytes forward, "
            f"{self.bytes_backward:,} backward",
            f"saved           {saved}",
        ]
        lines += [f"not {name:<11} {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def explain(input: Tensor, layer: Layer | None = None, **arguments: Any) -> Explanation:
    """Reports which backend and kernel run a call and why, and the bytes it moves and keeps.

    Does not run the call, which is ``layer(input)``, or without a layer
    ``max_blur_pool2d(input, **arguments)``. The bytes are those of training; without gradients
    forward writes no codes.

    Args:
        input: the input of the call; only its metadata is read.
        layer: a pooling or upsampling layer of fastblur, also one that :func:`fastblur.fuse_`
            created.
        **arguments: arguments of :func:`fastblur.functional.max_blur_pool2d`, including
            ``backend``.

    Returns:
        An :class:`Explanation`; ``print`` it.

    Raises:
        TypeError, ValueError, RuntimeError: if the call itself would raise them.

    Example:
        >>> import torch, fastblur
        >>> x = torch.zeros(8, 64, 112, 112)
        >>> fastblur.explain(x, kernel_size=3, padding=1, backend="reference").backend
        'reference'
    """
    called = _called(layer, arguments)
    geometry = called.geometry
    if called.one_dimensional:
        input = as_map(input, geometry)
    geometry.check_input(input)
    chosen = _backends.choose(called.backend, input.device)

    *lead, height, width = input.shape
    dtype = autocast(input.new_empty(0)).dtype
    output_size = (*lead, *called.output_size(height, width))
    shown_size = (*lead, output_size[-1]) if called.one_dimensional else output_size
    batched = input if input.dim() == 4 else input.unsqueeze(0)
    # Kernels are chosen by the size of the blur's input, which is the output of its transpose.
    map_size = output_size[-2:] if called.transposed else (height, width)
    size = (*batched.shape[:2], *map_size)
    moved = (prod(input.shape) + prod(output_size)) * dtype.itemsize
    call = geometry, size, is_channels_last(batched), batched.new_empty(0, dtype=dtype)
    codes = 0
    if chosen.keeps_codes:
        code_shape, code_type = chosen.codes(*call)
        codes = prod(code_shape) * code_type.itemsize
    return Explanation(
        backend=chosen.name,
        specialisation=(chosen.upsampling_kernels if called.transposed else chosen.kernels)(*call),
        refused=_refused(called.backend, chosen.name, input.device),
        output_size=shown_size,
        bytes_forward=moved + codes,
        bytes_backward=moved + codes,
        bytes_saved=codes if chosen.keeps_codes else None,
    )


class _Called(NamedTuple):
    """What a layer, or a function with its arguments, calls."""

    geometry: Geometry
    backend: BackendName
    output_size: Callable[[int, int], Pair]
    one_dimensional: bool = False
    transposed: bool = False


def _called(layer: Layer | None, arguments: dict[str, Any]) -> _Called:
    if layer is None:
        of_the_call = [name for name in arguments_of(max_blur_pool2d) if name != "input"]
        check_names("explain", arguments, of_the_call)
        backend = arguments.pop("backend", "auto")
        geometry = Geometry.resolve(**arguments)
        return _Called(geometry, backend, geometry.output_size)
    known = isinstance(layer, Upsample) or (isinstance(layer, Pool) and layer.only_pools)
    if not known:
        raise TypeError(
            f"layer must be a 1-D or 2-D layer of fastblur that pools or upsamples, got "
            f"{type(layer).__name__}"
        )
    if arguments:
        raise TypeError("pass either a layer or arguments, not both")
    if isinstance(layer, Upsample):
        up = layer.upsampling
        return _Called(up.blur, layer.backend, up.output_size, layer.one_dimensional, True)
    assert isinstance(layer, Pool)
    g = layer.geometry
    return _Called(g, layer.backend, g.output_size, layer.one_dimensional)


def _refused(asked: str, chosen: str, device: torch.device) -> dict[str, str]:
    reasons = {}
    for backend in _backends.BACKENDS:
        if backend.name != chosen:
            reason = backend.why_not(device)
            unasked = "slower" if backend.name == "reference" else f"tried after {chosen!r}"
            if asked != "auto":
                unasked = f"backend={asked!r} was asked for"
            reasons[backend.name] = reason or unasked
    return reasons
