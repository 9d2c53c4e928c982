"""Puts blurs next to modules of a model, at the modules' own keys, and takes them out again.

A module that gets a blur beside it stays one child with the same name: a :class:`WithBlur` that
holds both and passes on the module's attributes. A blur becomes a child of a Sequential only where
the published models have it there (:mod:`.recipes`).
"""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..filtered_pool import FilteredPool
from ..flow.dataflow import parent_of
from ..joins.calls import has_call_hooks
from .plans import Change

_WAS = "_before_antialias"  # on a module: the old values of changed attributes
_NAMES = "_names_before_antialias"  # on a Sequential: new child name -> old one
_TABLES = ("_parameters", "_buffers", "_modules")
_STOOD_HERE = "_stood_here"  # on a blur: the module that it replaces, in a tuple


class WithBlur(nn.Sequential):
    """A module with blurs in front of it or behind it, in its place.

    Attributes that the module holds, its parameters and children among them, can be read and
    given other values here too.

    Args:
        modules: that are called in turn.
        core: the index of the module whose place this takes.
    """

    def __init__(self, modules: Sequence[nn.Module], core: int) -> None:
        super().__init__(*modules)
        self._core = str(core)
        # __getattr__ is not called for names that every module has, so those are copied.
        _take_attributes(self, modules[core])

    @property
    def core(self) -> nn.Module:
        """The module whose place this takes."""
        return self._modules[self._core]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            core = (self.__dict__.get("_modules") or {}).get(self.__dict__.get("_core"))
            if core is None or name.startswith("__"):
                raise
            value = getattr(core, name)
            if isinstance(value, types.MethodType):
                # ``for m in model.modules(): if hasattr(m, "fuse"): m.fuse()`` would call it twice.
                raise
            return value

    def __setattr__(self, name: str, value: Any) -> None:
        core: Any = (self.__dict__.get("_modules") or {}).get(self.__dict__.get("_core"))
        own = name.startswith("_") or name in self.__dict__
        tables = () if own or core is None else (vars(core), *map(vars(core).get, _TABLES))
        if any(name in table for table in tables):
            setattr(core, name, value)
        else:
            super().__setattr__(name, value)


# ---- in ------------------------------------------------------------------------------------------


@dataclass
class _Slot:
    """The modules for one place: blurs in front, the module or its replacement, blurs behind."""

    before: list[nn.Module] = field(default_factory=list)
    instead: nn.Module | None = None
    after: list[nn.Module] = field(default_factory=list)

    def modules(self, old: nn.Module) -> tuple[list[nn.Module], int]:
        """All modules in order, and the index of the one that stands for the old module."""
        core = old
        if self.instead is not None:
            core = self.instead
            _take_attributes(core, old)
            vars(core)[_STOOD_HERE] = (old,)  # in a tuple, so that it does not become a child
        for module in (*self.before, core, *self.after):
            module.training = old.training
        return [*self.before, core, *self.after], len(self.before)


def place(
    model: nn.Module,
    changes: Sequence[Change],
    blurs: Mapping[str, nn.Module],
    inserts: Collection[str],
) -> None:
    """Carries out the changes.

    Args:
        model: to be changed.
        changes: of it.
        blurs: by the path of the strided layer.
        inserts: paths of the Sequentials among whose children blurs are inserted.
    """
    slots: dict[str, _Slot] = {}
    for change in changes:
        slot, blur = slots.setdefault(change.slot, _Slot()), blurs[change.site]
        if change.where == "instead":
            slot.instead = blur
        elif change.where == "after":
            # The pool's own blur comes first, then the blur of a module that ends here.
            slot.after.insert(0 if change.slot == change.site else len(slot.after), blur)
        elif change.slot == change.site:
            slot.before.append(blur)
        else:
            # This blur belongs to an earlier layer, so it comes before the slot's own.
            slot.before.insert(0, blur)
        if change.attributes:
            _set_attributes(model.get_submodule(change.site), change.attributes)
    parents: dict[str, dict[str, _Slot]] = {}
    for path, slot in slots.items():
        parents.setdefault(parent_of(path), {})[path.rpartition(".")[2]] = slot
    # Innermost first, so that the outer paths stay valid.
    for path in sorted(parents, key=lambda path: -path.count(".") - bool(path)):
        parent = model.get_submodule(path)
        if path in inserts:
            _insert(parent, parents[path])
            continue
        for name, slot in parents[path].items():
            old = parent._modules[name]
            assert old is not None
            modules, core = slot.modules(old)
            parent._modules[name] = modules[0] if len(modules) == 1 else _wrapped(modules, core)


def _wrapped(modules: list[nn.Module], core: int) -> WithBlur:
    made = WithBlur(modules, core)
    made.training = made.core.training
    return made


def _set_attributes(module: nn.Module, attributes: Mapping[str, Any]) -> None:
    was = {name: getattr(module, name) for name in attributes}
    vars(module)[_WAS] = was
    for name, value in attributes.items():
        setattr(module, name, value)


def _take_attributes(new: nn.Module, old: nn.Module) -> None:
    """Copies attributes that callers set on the old module to its replacement."""
    for name, value in vars(old).items():
        own = name in vars(new) or (hasattr(new, name) and not hasattr(nn.Module, name))
        if not name.startswith("_") and name != "forward" and not own:
            vars(new)[name] = value


def _insert(parent: nn.Module, slots: dict[str, _Slot]) -> None:
    """Inserts the slots' modules into a Sequential and renumbers or renames its children."""
    children: list[tuple[str, nn.Module, str | None]] = []
    taken = set(parent._modules)
    numbered = _is_numbered(parent)
    for name, child in parent._modules.items():
        assert child is not None
        modules, core = slots.get(name, _Slot()).modules(child)
        pooled = isinstance(child, nn.MaxPool2d) and len(modules) > core + 1
        # The published models give the pooling's name to the blur, and the max a new one.
        keeper = core + 1 if pooled else core
        for index, module in enumerate(modules):
            new = name if index == keeper else _free(_name_beside(name, module), taken)
            taken.add(new)
            children.append((new, module, name if index == core else None))
    names = {}
    parent._modules.clear()
    for position, (name, child, old) in enumerate(children):
        name = str(position) if numbered else name
        parent._modules[name] = child
        if old is not None:
            names[name] = old
    vars(parent)[_NAMES] = names


def _is_numbered(parent: nn.Module) -> bool:
    return list(parent._modules) == [str(i) for i in range(len(parent._modules))]


def _name_beside(name: str, module: nn.Module) -> str:
    """The published models' names for added modules: max0 before pool0, ds0 after relu0."""
    stem = name.rstrip("0123456789")
    if isinstance(module, nn.MaxPool2d):
        return name.replace("pool", "max") if "pool" in name else f"{name}_max"
    return f"ds{name[len(stem) :]}" if stem != name else f"{name}_blur"


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


# ---- out -----------------------------------------------------------------------------------------


def placed_in(model: nn.Module) -> list[str]:
    """The paths of the modules that :func:`place` made.

    Raises:
        ValueError: the model is such a module itself, or hooks were set on one.
    """
    inserted = {
        child
        for parent in model.modules()
        if (names := vars(parent).get(_NAMES)) is not None
        for child in parent.children()
        if _is_inserted(child, parent, names)
    }
    made = [
        path
        for path, module in model.named_modules()
        if _before(module) is not module or module in inserted
    ]
    if "" in made:
        raise ValueError(
            "model must contain what antialias_ made, got one of the modules that it made"
        )
    for path in made:
        if has_call_hooks(model.get_submodule(path)):
            raise ValueError(f"{path} has hooks, which would be lost; remove them first")
    return made


def take_out(model: nn.Module) -> None:
    """Undoes :func:`place`."""
    # A list, because the tree changes during the loop.
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and (before := _before(child)) is not child:
                if before not in set(child.modules()):
                    before.training = child.training
                module._modules[name] = before
        if (names := vars(module).pop(_NAMES, None)) is not None:
            _take_from(module, names)
    for module in model.modules():
        for name, value in vars(module).pop(_WAS, {}).items():
            setattr(module, name, value)


def _before(module: nn.Module) -> nn.Module:
    """The original module in this place."""
    while True:
        if isinstance(module, WithBlur):
            module = module.core
        elif _STOOD_HERE in vars(module):
            (module,) = vars(module)[_STOOD_HERE]
        else:
            return module


def _is_inserted(child: nn.Module, parent: nn.Module, names: Mapping[str, str]) -> bool:
    beside = {id(one) for name, one in parent._modules.items() if name not in names}
    return isinstance(child, FilteredPool) and id(child) in beside


def _take_from(parent: nn.Module, names: Mapping[str, str]) -> None:
    numbered = _is_numbered(parent)
    kept = [
        (names.get(name, name), child)
        for name, child in parent._modules.items()
        if child is None or not _is_inserted(child, parent, names)
    ]
    parent._modules.clear()
    for position, (name, child) in enumerate(kept):
        parent._modules[str(position) if numbered else name] = child
