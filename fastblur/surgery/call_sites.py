"""Where a model calls a ReLU, a max and a blur in turn, and the classes that make one call of it.

A module whose code does so gets a subclass of its class, in which that code alone differs: the
``forward`` of an ``nn.Sequential``, or methods by :mod:`.rewriting`. The subclass has the name of
the class, holds no state, and pickles as the class and the places of the calls.
"""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from .joining import (
    StandIns,
    Step,
    Tail,
    calls_in_turn,
    is_fresh,
    sequential_forward,
    steps,
)
from .rewriting import RUN_NAMES, Chain, Method, Window, run_names

#: For the name of a method its windows; a Sequential's forward has none.
Methods: TypeAlias = tuple[tuple[str, tuple[Window, ...]], ...]
_TAIL: tuple[str, tuple[Window, ...]] = ("_tail", ())


@dataclass(frozen=True)
class Change:
    """What becomes of one module.

    Attributes:
        path: of it.
        kind: its class from now on.
        joins: the calls that do the work of several modules.
    """

    path: str
    kind: type[nn.Module]
    joins: tuple[Step, ...]

    def carry_out(self, model: nn.Module) -> None:
        """Gives the module its class."""
        set_class(model.get_submodule(self.path), self.kind)


def find_changes(
    model: nn.Module, layers: Mapping[nn.Module, nn.Module], relu: bool
) -> list[Change]:
    """The changes after which all calls that can be one are one.

    Args:
        model: that is to be changed.
        layers: for modules of it, the fused layers that will take their places.
        relu: whether ReLUs join, or only maxes.
    """
    eligible = {
        path: module
        for path, module in model.named_modules()
        if _can_have_subclass(type(module)) and "forward" not in vars(module)
    }
    stand_ins = StandIns(layers, _with_tails(list(eligible.values())))
    found: dict[str, tuple[Methods, tuple[Step, ...], bool]] = {}
    for path, module in eligible.items():
        base, _, relu_before = _origin(type(module)) or (type(module), (), False)
        with_relu = relu or relu_before
        found[path] = (*_methods_of(base, module, stand_ins, with_relu), with_relu)
    used = {id(step.relu) for _, joins, _ in found.values() for step in joins}
    changes = []
    for path, (methods, joins, with_relu) in found.items():
        module = eligible[path]
        apart: Any = stand_ins.kinds.get(module)
        if apart is not None and id(getattr(module, apart._tail.name)) in used:
            methods = (*methods, _TAIL)
        if methods:
            base = class_before(type(module)) or type(module)
            kind = fused_class(base, methods, with_relu)  # type: ignore[arg-type]
            if kind is not type(module):
                changes.append(Change(path, kind, joins))
    return changes


def _with_tails(modules: list[nn.Module]) -> dict[nn.Module, type[nn.Module]]:
    """For modules whose last call is a ReLU, the class that has it apart."""
    kinds = {}
    for module in modules:
        base = class_before(type(module)) or type(module)
        if any(type(child) is nn.ReLU for child in module.children()):
            tail = _tail_of(inspect.getattr_static(base, "forward"))
            if tail is not None and type(module._modules.get(tail.name)) is nn.ReLU:
                kinds[module] = fused_class(base, (_TAIL,), True)  # type: ignore[arg-type]
    return kinds


def _methods_of(
    base: type[nn.Module], module: nn.Module, stand_ins: StandIns, relu: bool
) -> tuple[Methods, tuple[Step, ...]]:
    if isinstance(module, nn.Sequential) and calls_in_turn(module):
        found = steps(list(module), relu, stand_ins=stand_ins)
        in_turn = tuple(step for step in found if step.joined)
        return ((("forward", ()),) if in_turn else ()), in_turn
    methods: list[tuple[str, tuple[Window, ...]]] = []
    all_joins: list[Step] = []
    for name in _own_functions(base):
        chains = _chains_of(inspect.getattr_static(base, name)) if name not in vars(module) else ()
        windows = []
        for index, chain in enumerate(chains):
            for begin, end, joins in _windows_of(module, chain, stand_ins, relu):
                windows.append(Window(index, begin, end))
                all_joins += joins
        if windows:
            methods.append((name, tuple(windows)))
    return tuple(methods), tuple(all_joins)


def _own_functions(kind: type) -> list[str]:
    """Names of the methods that the class and its bases add to those of all modules."""
    classes = kind.__mro__[: kind.__mro__.index(nn.Module)]
    names = [name for one in classes for name, value in vars(one).items() if callable(value)]
    return sorted(set(names) - {"__init__"})


@functools.lru_cache(maxsize=1024)
def _tail_of(function: Any) -> Tail | None:
    try:
        return Method(function).tail()
    except ValueError:
        return None


@functools.lru_cache(maxsize=1024)
def _chains_of(function: Any) -> tuple[Chain, ...]:
    try:
        return tuple(Method(function).chains)
    except ValueError:
        return ()


def _windows_of(
    module: nn.Module, chain: Chain, stand_ins: StandIns, relu: bool
) -> list[tuple[int, int, list[Step]]]:
    """The shortest runs of links that are one call or more, from left to right."""
    called = [_module_at(module, name) for name in chain.names]

    def joins(begin: int, end: int) -> list[Step]:
        if None in called[begin:end]:
            return []
        fresh = is_fresh(called[:begin], chain.fresh)
        found = steps([m for m in called[begin:end] if m], relu, fresh, stand_ins)
        return [step for step in found if step.joined]

    def parts(begin: int, end: int) -> int:
        return sum(len(step.joined) for step in joins(begin, end))

    windows, begin = [], 0
    for end in range(2, len(called) + 1):
        if not parts(begin, end):
            continue
        while parts(begin + 1, end) == parts(begin, end):
            begin += 1
        windows.append((begin, end, joins(begin, end)))
        begin = end
    return windows


def _module_at(module: Any, name: str) -> nn.Module | None:
    for part in name.split("."):
        module = module._modules.get(part) if isinstance(module, nn.Module) else None
    return module if isinstance(module, nn.Module) else None


# ---- classes -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def fused_class(base: type[nn.Module], methods: Methods, relu: bool) -> type[nn.Module]:
    """The class in which calls of a ReLU, a max and a blur in turn are one.

    Raises:
        ValueError: a method's source does not tell.
    """
    members: dict[str, Any] = {
        "_fused_from": (base, methods, relu),
        "_fuses_relu": relu,
        RUN_NAMES: run_names,
        "__reduce_ex__": _reduce_ex,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    for name, windows in methods:
        if (name, windows) == _TAIL:
            members[name] = _tail_of(inspect.getattr_static(base, "forward"))
        elif windows:
            method = Method(inspect.getattr_static(base, name))
            members[name] = method.rewritten(windows, relu)
        else:
            members[name] = sequential_forward
    return type(base.__name__, (base,), members)


def class_before(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class that a module had before fuse_ gave it this one; None if it did not."""
    origin = _origin(kind)
    return None if origin is None else origin[0]


def set_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Makes the module one of this class, which has the same state."""
    object.__setattr__(module, "__class__", kind)


def _origin(kind: type[nn.Module]) -> tuple[type[nn.Module], Methods, bool] | None:
    return vars(kind).get("_fused_from")


def _can_have_subclass(kind: type[nn.Module]) -> bool:
    """Whether a subclass is seen by nobody: no metaclass and no registry of subclasses."""
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    return type(kind) is type and not any("__init_subclass__" in vars(one) for one in own)


def _reduce_ex(self: nn.Module, protocol: Any) -> Any:
    base, methods, relu = type(self)._fused_from  # type: ignore[attr-defined]
    reduced = base.__reduce_ex__(self, protocol)
    if isinstance(reduced, tuple) and reduced[0] is copyreg.__newobj__:  # type: ignore[attr-defined]
        return (_new, (base, methods, relu), *reduced[2:])
    return reduced


def _new(base: type[nn.Module], methods: Methods, relu: bool) -> nn.Module:
    """An empty module for pickle; of the class itself, where that has other methods now."""
    try:
        kind = fused_class(base, methods, relu)  # type: ignore[arg-type]
    except (ValueError, IndexError, AttributeError):
        kind = base
    return kind.__new__(kind)
