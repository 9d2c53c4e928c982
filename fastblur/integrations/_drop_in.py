"""What the layers of all packages share: their own attributes, and errors of the original type."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from .._geometry import Geometry, binomial_taps
from ..functional import run
from ..surgery.filtered_pool import FilteredPool
from ..surgery.recognition.known import CannotFuse, Layer

_UNIT = Geometry.resolve(1, 1, filter_size=1)


def binomial_filter(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """The outer product of two rows of binomial taps, [height, width]."""
    rows = (torch.tensor(binomial_taps(size), device=device) for size in (height, width))
    return torch.outer(*rows)


class DropIn(FilteredPool):
    """A fused layer with the arguments, attributes and buffer of another package's layer.

    The geometry follows from the attributes, as it does when ``fuse_`` meets the original layer.
    Setting one of them changes the geometry. What the original layer refuses only when it is
    called is refused then, with an exception of the original type.

    A class that derives from it sets the attributes in its ``__init__`` and then calls
    :meth:`settle`. Names that are properties of a fused layer must be attributes of the class, as
    ``stride`` is.

    Attributes:
        stands_for: the original class, for messages.
        settings: names of the attributes that the geometry follows from.
        read: what the attributes say.
    """

    stands_for: ClassVar[str]
    settings: ClassVar[tuple[str, ...]]
    read: ClassVar[Callable[[Any], Layer]]
    stride: Any = None
    _settled = False
    _refusal: tuple[type[BaseException], str] | None = None

    def __init__(self, filter: Tensor, name: str = "filt", **rest: Any) -> None:
        super().__init__(_UNIT, filter, name=name, **rest)
        self._way_out = f"Use {self.stands_for} instead."

    def settle(self) -> None:
        """Reads the geometry from the attributes, and the taps from the buffer if it is there."""
        self._settled, self._refusal = True, None
        try:
            geometry = type(self).read(self).geometry
        except CannotFuse as reason:
            cause = reason.__cause__ or reason.__context__
            kind = RuntimeError if isinstance(cause, (ValueError, NoneType)) else type(cause)
            self._refusal = kind, str(reason)
            return
        self.geometry = geometry
        self._read_taps()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if self._settled and name in self.settings:
            self.settle()

    def takes_unbatched(self) -> bool:
        """Whether the original layer takes inputs without a batch."""
        return False

    def check(self, input: Tensor) -> None:
        """Raises what the original layer raises and a fused one does not."""

    def _checked(self, input: Tensor, geometry: Geometry) -> Tensor:
        if self._refusal is not None:
            kind, reason = self._refusal
            raise kind(reason)
        if not isinstance(input, Tensor):
            return super()._checked(input, geometry)
        self.check(input)
        dims = 3 if self.one_dimensional else 4
        if input.dim() != dims and not (input.dim() == dims - 1 and self.takes_unbatched()):
            shape = "[N, C, L]" if self.one_dimensional else "[N, C, H, W]"
            raise RuntimeError(f"input must be {shape}, got shape {tuple(input.shape)}")
        # A filter of one channel serves any number of them, and the original layer's only one.
        if getattr(self, "channels", None) == 1 and input.shape[1 - dims] != 1:
            raise RuntimeError(f"input must have 1 channel, got shape {tuple(input.shape)}")
        if torch.compiler.is_compiling():
            return super()._checked(input, geometry)
        try:
            return super()._checked(input, geometry)
        except (TypeError, ValueError) as error:
            _refuse(error)


def call(input: Tensor, **arguments: Any) -> Tensor:
    """The operation with the arguments of :meth:`Geometry.resolve`, and the errors of torch's."""
    try:
        geometry = Geometry.resolve(**arguments)
    except ValueError as error:
        _refuse(error)
    try:
        return run(input, geometry, "auto")
    except (TypeError, ValueError) as error:
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    """Raises the error as the RuntimeError that torch's own operations raise for a tensor."""
    raise RuntimeError(str(error)) from error
