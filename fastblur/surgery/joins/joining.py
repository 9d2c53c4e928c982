"""Runs a ReLU and a max in front of a blur in the blur's own kernel.

``fuse_`` leaves the ReLU and the max in place, unchanged. Only the code that calls them and the
blur in sequence changes: the ``forward`` of an ``nn.Sequential``, or calls in a method whose source
shows that nothing else reads the value between them (:mod:`.rewriting`). There, :class:`Line`
decides right before each call what one call may combine. All other callers of the same modules get
the same values as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from ..._geometry import Geometry
from ...modules import FusedBlurPool, FusedMaxBlurPool, Pool
from ..filtered_pool import BlurredConv2d, FilteredPool, is_drop_in
from .calls import (
    Head,
    Tail,
    attribute,
    calls_in_turn,
    is_as_made,
    is_fresh,
    is_identity,
    is_unwatched,
    may_join,
)

Max: TypeAlias = nn.MaxPool2d | nn.MaxPool1d

_MAXES = (nn.MaxPool2d, nn.MaxPool1d)
_FRONTS = (nn.ReLU, *_MAXES)
_POOLS = (FilteredPool, BlurredConv2d, FusedBlurPool, FusedMaxBlurPool)


def _is_pool(module: Any) -> bool:
    return type(module) in _POOLS or is_drop_in(type(module))


def _can_join(module: Any) -> bool:
    return type(module) in _FRONTS or _is_pool(module)


@dataclass(frozen=True)
class StandIns:
    """What a model will have and has not yet: modules, and classes, by the modules it has."""

    modules: Mapping[nn.Module, nn.Module] = field(default_factory=dict)
    kinds: Mapping[nn.Module, type[nn.Module]] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """What ``fuse_`` says of a class that it made.

    Attributes:
        base: the class it is made of.
        methods: that differ; see :mod:`.call_sites`.
        relu: whether ReLUs join in them, or only maxes.
        tail: of its forward, if it is called apart.
    """

    base: type[nn.Module]
    methods: tuple[Any, ...]
    relu: bool
    tail: Tail | None = None

    @staticmethod
    def of(kind: type) -> Made | None:
        """What is said of a class; None if fuse_ did not make it."""
        return vars(kind).get("_fastblur_made")


class Step(NamedTuple):
    """One call: a module, and what it does the work of besides."""

    module: nn.Module | Head
    relu: nn.ReLU | None = None
    max: Max | None = None

    @property
    def joined(self) -> list[nn.Module]:
        """The modules whose work it does besides its own, in the order of their calls."""
        return [module for module in (self.relu, self.max) if module is not None]

    def __call__(self, x: Any) -> Any:
        """The result of all of it."""
        if self.relu is None and self.max is None:
            return self.module(x)
        assert isinstance(self.module, Pool)
        geometry = together(self.module, self.relu, self.max)
        assert geometry is not None  # else the line would not join them
        return self.module.compute(x, geometry)


# Gives what is called in turn, as things are now, or None at an index behind the last.
_Source: TypeAlias = Callable[[int], Any]


class Line:
    """Modules that are called in turn, when only the next one reads a result.

    Args:
        source: of the modules, asked anew whenever one is to be called.
        relu: whether ReLUs join, or only maxes.
        fresh: whether nobody else holds the tensor that the first one gets.
        stand_ins: what is taken for what is there.
    """

    def __init__(
        self, source: _Source, relu: bool, fresh: bool = False, stand_ins: StandIns | None = None
    ) -> None:
        self._places: list[tuple[_Source, int]] = [(source, 0)]  # inner ones last
        self._relu = relu
        self._fresh = fresh
        self._stand_ins = stand_ins

    def run(self, x: Any) -> Any:
        """The result of all calls, each decided right before it: a module may change the next."""
        while (step := self.next()) is not None:
            x = step(x)
        return x

    def next(self) -> Step | None:
        """The next call, as things are now; None behind the last."""
        self._open_front()
        step = self._join()
        if step is None:
            module, after = self._peek(self._places)
            if module is None:
                return None
            self._places = after
            step = Step(module)
        # Whoever watches the call may hold its result, also if it no longer watches afterwards.
        self._fresh = is_fresh([step.module], self._fresh)
        return step

    def steps(self) -> list[Step]:
        """All calls, if none of them changed anything."""
        found = []
        while (step := self.next()) is not None:
            found.append(step)
        return found

    def _peek(self, places: list[tuple[_Source, int]]) -> tuple[Any, list[tuple[_Source, int]]]:
        """What is called next, and the places behind it."""
        for depth in range(len(places), 0, -1):
            source, index = places[depth - 1]
            module = source(index)
            if module is not None:
                return self._taken(module), [*places[: depth - 1], (source, index + 1)]
        return None, []

    def _open_front(self) -> None:
        """Goes into a module that ends, or begins, with what could join what is outside it.

        It may end in front of a layer, or begin with a ReLU in place, which joins only where it is
        known from outside that nobody else holds the ReLU's input.
        """
        while True:
            module, after = self._peek(self._places)
            inner = self._inside(module)
            if inner is None:
                return
            following, _ = self._peek(after)
            ends = type(self._last(module)) in _FRONTS
            ends = ends and _can_join(self._first(following))
            first = self._first(module)
            if not ends and not (self._fresh and type(first) is nn.ReLU and first.inplace):
                return
            self._places = [*after, (inner, 0)]

    def _join(self) -> Step | None:
        """The step of a ReLU, a max, or both, and of the pool that they are in front of."""
        module, after = self._peek(self._places)
        relu = max = None
        if type(module) is nn.ReLU:
            if not self._relu or not is_as_made(module) or (module.inplace and not self._fresh):
                return None
            relu = module
            module, after = self._next(after)
        if type(module) in _MAXES:
            if not is_as_made(module):
                return None
            max = module
            module, after = self._next(after)
        if (relu is None and max is None) or not _is_pool(module):
            return None
        if not is_unwatched(module) or together(module, relu, max) is None:
            return None
        self._places = after
        return Step(module, relu, max)

    def _next(self, places: list[tuple[_Source, int]]) -> tuple[Any, list[tuple[_Source, int]]]:
        """What is called from there on, inside other modules and past identities."""
        while True:
            module, after = self._peek(places)
            inner = self._inside(module)
            if inner is not None and _can_join(self._first(module)):
                places = [*after, (inner, 0)]
            elif is_identity(module):
                places = after
            else:
                return module, after

    def _inside(self, module: Any) -> _Source | None:
        """What is called in turn where the module is called, if that is all that a call does."""
        if not isinstance(module, nn.Module) or not is_unwatched(module):
            return None
        if isinstance(module, nn.Sequential):
            return children_of(module) if calls_in_turn(module) else None
        kind = self._stand_ins.kinds.get(module) if self._stand_ins else None
        made = Made.of(kind or type(module))
        if made is None or made.tail is None:
            return None
        tail, head = made.tail, Head(module, made.tail)
        return lambda i: head if i == 0 else attribute(module, tail.name) if i == 1 else None

    def _taken(self, module: Any) -> Any:
        """What the module is taken for."""
        return self._stand_ins.modules.get(module, module) if self._stand_ins else module

    def _first(self, module: Any) -> Any:
        while (inner := self._inside(module)) is not None:
            module = self._taken(inner(0))
        return module

    def _last(self, module: Any) -> Any:
        while (inner := self._inside(module)) is not None:
            last = 0
            while inner(last + 1) is not None:
                last += 1
            module = self._taken(inner(last))
        return module


def children_of(module: nn.Sequential) -> _Source | None:
    """The children of a Sequential, as they are when they are asked for; None if one is none."""
    if not module._modules or None in module._modules.values():
        return None
    children = module._modules

    def child(index: int) -> Any:
        return list(children.values())[index] if index < len(children) else None

    return child


def together(pool: Pool, relu: nn.ReLU | None, max: Max | None) -> Geometry | None:
    """The geometry of a pool that does the work of these too; None where it cannot."""
    settings = None
    if max is not None:
        settings = (max.kernel_size, max.stride, max.padding, max.dilation, max.return_indices)
    known = pool._together
    if known and known[:2] == (relu is not None, settings) and known[2] is pool.geometry:
        return known[3]  # type: ignore[no-any-return]
    geometry, _ = with_front(pool.geometry, relu, max)
    if isinstance(pool, BlurredConv2d) and not pool.blur_first:
        geometry = None
    if max is not None and isinstance(max, nn.MaxPool1d) != pool.one_dimensional:
        geometry = None
    pool._together = (relu is not None, settings, pool.geometry, geometry)
    return geometry


def with_front(geometry: Geometry, relu: nn.Module | None, max: Any) -> tuple[Geometry | None, str]:
    """The geometry with a ReLU and a max in front; or None, and the reason."""
    if max is not None:
        if not geometry.linear:
            return None, "the layer has a max or a ReLU already"
        if max.return_indices or _pair(max.dilation) != (1, 1):
            return None, "it has dilation or return_indices"
        if _pair(max.stride) != (1, 1):
            return None, f"its stride is {max.stride}, not 1"
        size, pad = _pair(max.kernel_size), _pair(max.padding)
        if isinstance(max, nn.MaxPool1d):
            size, pad = (1, size[1]), (0, pad[1])
        try:
            pooled = Geometry.resolve(size, 1, pad)
        except ValueError as error:
            return None, str(error)
        geometry = replace(geometry, kernel_size=pooled.kernel_size, padding=pooled.padding)
    if relu is not None:
        if geometry.relu:
            return None, "the layer has a ReLU already"
        geometry = replace(geometry, relu=True)
    return geometry, ""


def sequential_forward(self: Any, input: Any) -> Any:
    """``nn.Sequential.forward``, in as few calls as can be."""
    children = children_of(self)
    if children is not None and may_join(input):
        return Line(children, self._fastblur_made.relu).run(input)
    for module in self:
        input = module(input)
    return input


# As that of nn.Sequential has none, so that a trace of one reads like a trace of the other.
sequential_forward.__annotations__.clear()
sequential_forward.calls_in_turn = True  # type: ignore[attr-defined]  # see calls.calls_in_turn


def _pair(value: Any) -> tuple[int, int]:
    """An argument of a pooling layer: one number or, as a tuple or list, one or two."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return pair[0], pair[-1]
