"""Finds where a model calls a ReLU, a max and a blur in sequence, and makes one call of it.

A module with such code gets a subclass of its class in which only that code differs: the
``forward`` of an ``nn.Sequential``, or methods rewritten by :mod:`.rewriting`. The subclass has the
same name and no state, and pickles as the original class and the positions of the calls.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from .calls import Tail, attribute, calls_in_turn
from .joining import Line, Made, StandIns, Step, children_of, sequential_forward
from .rewriting import IN_TURN, Chain, Method, Window, in_turn
from .source import NoProof

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
        made = Made.of(type(module))
        base = type(module) if made is None else made.base
        with_relu = relu or (made is not None and made.relu)
        found[path] = (*_methods_of(base, module, stand_ins, with_relu), with_relu)
    used = {id(step.relu) for _, joins, _ in found.values() for step in joins}
    changes = []
    for path, (methods, joins, with_relu) in found.items():
        module = eligible[path]
        apart = Made.of(stand_ins.kinds.get(module, object))
        if apart and apart.tail and id(attribute(module, apart.tail.name)) in used:
            methods = (*methods, _TAIL)
        if methods:
            base = original_class(type(module))
            kind = fused_class(base, methods, with_relu)  # type: ignore[arg-type]
            if kind is not type(module):
                changes.append(Change(path, kind, joins))
    return changes


def _with_tails(modules: list[nn.Module]) -> dict[nn.Module, type[nn.Module]]:
    """For modules whose last call is a ReLU, the class that has it apart."""
    kinds = {}
    for module in modules:
        base = original_class(type(module))
        if any(type(child) is nn.ReLU for child in module.children()):
            tail = _tail_of(base.forward, base.forward.__code__) if _is_plain(base) else None
            if tail is not None and type(module._modules.get(tail.name)) is nn.ReLU:
                kinds[module] = fused_class(base, (_TAIL,), True)  # type: ignore[arg-type]
    return kinds


def _methods_of(
    base: type[nn.Module], module: nn.Module, stand_ins: StandIns, relu: bool
) -> tuple[Methods, tuple[Step, ...]]:
    if isinstance(module, nn.Sequential) and calls_in_turn(module):
        children = children_of(module)
        found = Line(children, relu, stand_ins=stand_ins).steps() if children else []
        in_turn_ = tuple(step for step in found if step.joined)
        return ((("forward", ()),) if in_turn_ else ()), in_turn_
    methods: list[tuple[str, tuple[Window, ...]]] = []
    all_joins: list[Step] = []
    for name in _own_functions(base):
        function = inspect.getattr_static(base, name)
        own = name in vars(module) or type(function) is not types.FunctionType
        chains = () if own else _chains_of(function, function.__code__)
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
    classes = [one for one in kind.__mro__ if one not in (nn.Module, nn.Sequential, object)]
    names = {n for one in classes for n, v in vars(one).items() if type(v) is types.FunctionType}
    return sorted(names - {"__init__"})


def _is_plain(kind: type[nn.Module]) -> bool:
    return type(inspect.getattr_static(kind, "forward")) is types.FunctionType


# By the code too: a function may be given another.
@functools.lru_cache(maxsize=1024)
def _tail_of(function: Any, code: types.CodeType) -> Tail | None:
    try:
        return Method(function).tail()
    except NoProof:
        return None


@functools.lru_cache(maxsize=1024)
def _chains_of(function: Any, code: types.CodeType) -> tuple[Chain, ...]:
    try:
        return tuple(Method(function).chains)
    except NoProof:
        return ()


def _windows_of(
    module: nn.Module, chain: Chain, stand_ins: StandIns, relu: bool
) -> list[tuple[int, int, list[Step]]]:
    """The shortest runs of links that are one call or more, from left to right."""
    called = [_module_at(module, name) for name in chain.names]

    def joins(begin: int, end: int) -> list[Step]:
        if None in called[begin:end]:
            return []
        part = called[begin:end]
        fresh = chain.fresh and begin == 0
        line = Line(lambda i: part[i] if i < len(part) else None, relu, fresh, stand_ins)
        return [step for step in line.steps() if step.joined]

    def parts(begin: int, end: int) -> int:
        return sum(len(step.joined) for step in joins(begin, end))

    windows, begin = [], 0
    for end in range(1, len(called) + 1):
        if called[end - 1] is None:
            begin = end
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
        NoProof: a method's source does not tell.
    """
    members: dict[str, Any] = {
        IN_TURN: in_turn,
        "__reduce_ex__": _reduce_ex,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    tail = None
    for name, windows in methods:
        if (name, windows) == _TAIL:
            tail = _tail_of(base.forward, base.forward.__code__)
        elif windows:
            method = Method(inspect.getattr_static(base, name))
            members[name] = method.rewritten(windows, relu)
        else:
            members[name] = sequential_forward
    members["_fastblur_made"] = Made(base, methods, relu, tail)
    return type(base.__name__, (base,), members)


def original_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a module had before fuse_ gave it another."""
    made = Made.of(kind)
    return kind if made is None else made.base


def set_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Makes the module one of this class, which has the same state."""
    object.__setattr__(module, "__class__", kind)


def _can_have_subclass(kind: type[nn.Module]) -> bool:
    """Whether a subclass is seen by nobody: no metaclass and no registry of subclasses."""
    if Made.of(kind) is not None:
        return True
    others = [one for one in kind.__mro__ if one not in (nn.Module, nn.Sequential, object)]
    return type(kind) is type and not any("__init_subclass__" in vars(one) for one in others)


def _reduce_ex(self: nn.Module, protocol: Any) -> Any:
    """As the class that there was before does it, with that class in the place of this one."""
    kind = type(self)
    made = next(made for one in kind.__mro__ if (made := Made.of(one)) is not None)
    reduced = made.base.__reduce_ex__(self, protocol)
    if not isinstance(reduced, tuple) or Made.of(kind) is None:  # a subclass of somebody's own
        return reduced
    function, arguments, *rest = reduced
    plain = tuple(made.base if one is kind else one for one in (function, *arguments))
    return (_restore, (made.base, made.methods, made.relu, *plain), *rest)


def _restore(
    base: type[nn.Module], methods: Methods, relu: bool, function: Any, *arguments: Any
) -> Any:
    """A module for pickle; of the class of before, where that has other methods now."""
    module = function(*arguments)
    with contextlib.suppress(NoProof, IndexError, AttributeError):
        if type(module) is base:
            set_class(module, fused_class(base, methods, relu))  # type: ignore[arg-type]
    return module
