"""A ReLU and a max right in front of a blur: the blur's own kernel does their work.

``fuse_`` leaves the ReLU and the max where they are, unchanged. What changes is the code that
calls them and the blur in turn, and that code alone: the ``forward`` of an ``nn.Sequential``, or
two calls in a method whose source shows that nobody else reads the value between them
(:mod:`.rewriting`). There, each time anew, :func:`steps` decides what one call may do. Any other
caller of the same modules gets what they always gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .._geometry import Geometry
from ..modules import FusedBlurPool, FusedMaxBlurPool, Pool
from .filtered_pool import BlurredConv2d, FilteredPool

Max: TypeAlias = nn.MaxPool2d | nn.MaxPool1d

_MAXES = (nn.MaxPool2d, nn.MaxPool1d)
_FRONTS = (nn.ReLU, *_MAXES)
_POOLS = (FilteredPool, BlurredConv2d, FusedBlurPool, FusedMaxBlurPool)
_MAKERS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class StandIns:
    """What a model will have and has not yet: modules, and classes, by the modules it has."""

    modules: Mapping[nn.Module, nn.Module] = field(default_factory=dict)
    kinds: Mapping[nn.Module, type[nn.Module]] = field(default_factory=dict)


_NONE = StandIns()


@dataclass(frozen=True)
class Tail:
    """The last call in the ``forward`` of a class, whose result it returns.

    Attributes:
        name: of the attribute that is called.
        before: of those that are called right before, each of whose results the next alone gets.
        fresh: whether nobody else holds what the first of all of them gets.
        rest: the ``forward`` without the call.
    """

    name: str
    before: tuple[str, ...]
    fresh: bool
    rest: Callable[..., Any]


class Head:
    """A module without its tail."""

    def __init__(self, module: nn.Module, tail: Tail) -> None:
        self._module = module
        self._tail = tail

    def __call__(self, x: Any) -> Any:
        """What the tail would get."""
        return self._tail.rest(self._module, x)

    def is_fresh(self) -> bool:
        """Whether nobody else holds the result."""
        makers = [getattr(self._module, name) for name in self._tail.before]
        return is_fresh(makers, self._tail.fresh)


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
        assert geometry is not None  # else steps() would not join them
        return self.module.compute(x, geometry)


def run(modules: Sequence[nn.Module], x: Any, relu: bool) -> Any:
    """Calls the modules in turn, in as few calls as :func:`steps` allows."""
    if not isinstance(x, Tensor):  # a tracer's stand-in, say, which is to see each module
        for module in modules:
            x = module(x)
        return x
    for step in steps(modules, relu):
        x = step(x)
    return x


def steps(
    modules: Sequence[nn.Module], relu: bool, fresh: bool = False, stand_ins: StandIns = _NONE
) -> list[Step]:
    """The calls that do what the modules do in turn, when only the next reads a result.

    Args:
        modules: in the order of their calls.
        relu: whether ReLUs join, or only maxes.
        fresh: whether nobody else holds the tensor that the first one gets.
        stand_ins: what is taken for what is there.
    """
    if hooks_of_all_modules():
        return [Step(module) for module in modules]
    line = _Line(modules, stand_ins)
    found: list[Step] = []
    while line.place < len(line.modules):
        line.open_front()
        step = line.join(relu, fresh)
        if step is None:
            step = Step(line.modules[line.place])
            line.place += 1
        found.append(step)
        fresh = is_fresh([step.module], fresh)
    return found


class _Line:
    """Modules that are called in turn, and the place of the next."""

    def __init__(self, modules: Sequence[nn.Module], stand_ins: StandIns) -> None:
        self._stand_ins = stand_ins
        self.modules: list[Any] = [stand_ins.modules.get(m, m) for m in modules]
        self.place = 0

    def open_front(self) -> None:
        """Takes the children of a module that ends where the following one could be joined."""
        while self.place + 1 < len(self.modules):
            module, following = self.modules[self.place : self.place + 2]
            inner = self._children(module)
            if inner is None or type(self._last(module)) not in _FRONTS:
                return
            if type(self._first(following)) not in _FRONTS + _POOLS:
                return
            self.modules[self.place : self.place + 1] = inner

    def join(self, relu: bool, fresh: bool) -> Step | None:
        """The step of a ReLU, a max, or both, and of the pool that they are in front of."""
        place, relu_, max_ = self.place, None, None
        module = self.modules[place]
        if type(module) is nn.ReLU:
            if not relu or not is_unwatched(module) or (module.inplace and not fresh):
                return None
            relu_ = module
            place = self._next(place + 1)
        if place < len(self.modules) and type(self.modules[place]) in _MAXES:
            max_ = self.modules[place]
            if not is_unwatched(max_):
                return None
            place = self._next(place + 1)
        if place >= len(self.modules) or (relu_ is None and max_ is None):
            return None
        pool = self.modules[place]
        if type(pool) not in _POOLS or not is_unwatched(pool):
            return None
        if together(pool, relu_, max_) is None:
            return None
        self.place = place + 1
        return Step(pool, relu_, max_)

    def _next(self, place: int) -> int:
        """The place of what is called from here on, inside Sequentials and past identities."""
        while place < len(self.modules):
            module = self.modules[place]
            inner = self._children(module)
            if inner is not None and type(self._first(module)) in _FRONTS + _POOLS:
                self.modules[place : place + 1] = inner
            elif _is_identity(module):
                place += 1
            else:
                break
        return place

    def _children(self, module: Any) -> list[Any] | None:
        """What is called in turn where the module is called, if that is all that a call does."""
        if not isinstance(module, nn.Module) or not is_unwatched(module):
            return None
        if isinstance(module, nn.Sequential):
            inner = list(module._modules.values()) if calls_in_turn(module) else []
            return [self._stand_ins.modules.get(m, m) for m in inner if m is not None] or None
        kind = self._stand_ins.kinds.get(module, type(module))
        tail: Tail | None = getattr(kind, "_tail", None)
        return None if tail is None else [Head(module, tail), getattr(module, tail.name)]

    def _first(self, module: Any) -> Any:
        while (inner := self._children(module)) is not None:
            module = inner[0]
        return module

    def _last(self, module: Any) -> Any:
        while (inner := self._children(module)) is not None:
            module = inner[-1]
        return module


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


def is_unwatched(module: nn.Module) -> bool:
    """Whether a call of the module is that of its class's ``forward``, and no hook sees it."""
    return not has_call_hooks(module) and module.__dict__.get("forward") is None


def has_call_hooks(module: nn.Module) -> bool:
    """Whether a call of the module, or its gradient, is watched."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_fresh(makers: Sequence[Any], fresh: bool) -> bool:
    """Whether nobody else holds what the last of the makers returned, called in turn.

    Args:
        makers: modules; None where something else was called.
        fresh: whether nobody else held what the first of them got.
    """
    for maker in reversed(makers):
        if _makes_new(maker):
            return True
        if not _is_identity(maker):
            return False
    return fresh


def _makes_new(module: Any) -> bool:
    """Whether nobody else holds the result of a call: that of torch's convolutions and norms."""
    while isinstance(module, nn.Sequential) and calls_in_turn(module) and is_unwatched(module):
        module = next(reversed(module._modules.values()), None)
    if isinstance(module, Head):
        return module.is_fresh()
    return (
        isinstance(module, _MAKERS)
        and type(module).forward.__module__.startswith("torch.nn.")
        and is_unwatched(module)
    )


def _is_identity(module: Any) -> bool:
    return type(module) is nn.Identity and is_unwatched(module)


def calls_in_turn(module: nn.Sequential) -> bool:
    """Whether a Sequential has the ``forward`` that all have, or what fuse_ makes of that."""
    kind = type(module)
    usual = kind.forward in (nn.Sequential.forward, sequential_forward)
    return usual and kind.__iter__ is nn.Sequential.__iter__


def sequential_forward(self: Any, input: Any) -> Any:
    """``nn.Sequential.forward``, in as few calls as can be."""
    return run(tuple(self._modules.values()), input, self._fuses_relu)


def hooks_of_all_modules() -> bool:
    """Whether somebody watches every module there is."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def _pair(value: Any) -> tuple[int, int]:
    """An argument of a pooling layer: one number or, as a tuple or list, one or two."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return pair[0], pair[-1]
