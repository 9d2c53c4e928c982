"""Confirms on a copy that the changed model makes the same calls as before, plus the blurs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import fx, nn

from ..flow.dataflow import Flow
from ..flow.tracing import Part, graphs_of, join, without_data
from .placing import WithBlur, place
from .plans import Change

Blurs = Mapping[str, nn.Module]


def same_calls(
    model: nn.Module,
    flows: Sequence[Flow],
    changes: Sequence[Change],
    make_blurs: Callable[[nn.Module], Blurs],
    inserts: Collection[str],
) -> bool:
    """Whether traces of a changed copy without data show all earlier calls and the blurs'.

    Args:
        model: the model to change.
        flows: its data flow in eval mode and in train mode.
        changes: the planned changes.
        make_blurs: creates the blurs for a copy of the model.
        inserts: as for :func:`place`.
    """
    try:
        shadow = without_data(model)
    except Exception:
        return True  # without a trace nothing contradicts the plan
    names: dict[nn.Module, str] = {}
    for path, module in shadow.named_modules(remove_duplicate=False):
        names.setdefault(module, path)
    # A blur takes the place of these: an average pool, or a timm slot.
    replaced = {shadow.get_submodule(c.slot) for c in changes if c.where == "instead"}
    before_paths = dict(shadow.named_modules(remove_duplicate=False))
    blurs = make_blurs(shadow)
    place(shadow, changes, blurs, inserts)
    after_paths = dict(shadow.named_modules(remove_duplicate=False))
    for flow, training in zip(flows, (False, True), strict=True):
        before = {
            names[before_paths[part.path]]: _calls(part, before_paths, names, replaced)
            for part in flow.parts
        }
        parts, after = graphs_of(shadow, training), {}
        for part in parts:
            module = after_paths[part.path]
            while isinstance(module, WithBlur):
                module = module.core
            calls = _calls(part, after_paths, names, set(blurs.values()))
            if after_paths[part.path] is module or names.get(module) in before:
                after[names[module]] = calls
        called = {after_paths[path] for path in Flow(after_paths, parts).calls}
        seen = [c for c in changes if flow.calls.get(c.slot) or c.slot in flow.whole]
        if after != before or not all(blurs[change.site] in called for change in seen):
            return False
    return True


def _calls(
    part: Part,
    modules: Mapping[str, nn.Module],
    names: Mapping[nn.Module, str],
    passed_over: Collection[nn.Module],
) -> list[str]:
    """The calls of a part as text. Skips modules in ``passed_over``, which take one argument."""
    numbers: dict[fx.Node, str] = {}
    calls: list[str] = []
    for node in part.graph.nodes:
        target: Any = getattr(node.target, "__name__", node.target)
        if node.op == "call_module":
            module = modules[join(part.path, str(node.target))]
            if module in passed_over:
                numbers[node] = numbers[node.all_input_nodes[0]]
                continue
            target = names[module]
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            target = join(names.get(modules[join(part.path, owner)], owner), name)
        given = fx.node.map_arg((node.args, node.kwargs), lambda n: numbers[n])
        numbers[node] = f"%{len(calls)}"
        calls.append(f"{node.op} {target} {given}")
    return calls
