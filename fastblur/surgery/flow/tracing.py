"""Traces a copy of a model without data by ``torch.fx``, as far as possible."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from ..recognition.recognise import blurs


@dataclass(frozen=True)
class Part:
    """A part of the model and its trace.

    Attributes:
        path: of the part; "" is the model.
        graph: of its calls.
        results: for the path, in the part, of each module in it that was called once and returned
            one tensor and nothing else, the node of that.
    """

    path: str
    graph: fx.Graph
    results: dict[str, fx.Node]


def join(prefix: str, path: str) -> str:
    """The path of a module by its path in the one at ``prefix``."""
    return f"{prefix}.{path}" if prefix and path else prefix or path


def graphs_of(model: nn.Module, training: bool) -> list[Part]:
    """Graphs of the largest parts of a model that can be traced, in train or in eval mode.

    Nothing of the model changes or runs: what is traced is a copy of its modules whose tensors are
    on the meta device. There are no graphs if the model cannot be copied. Modules without
    children, and parts that cannot be traced, are not looked into by the graphs that call them.
    """
    try:
        shadow = without_data(model)
    except Exception:
        # Whatever a model holds that cannot be copied, it only costs what tracing would tell.
        return []
    for module in shadow.modules():
        module.training = training
    with torch.random.fork_rng(devices=[]), _undisturbed():
        return _parts("", shadow, {})


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Python's random numbers stay what they were, and global hooks see no proxies."""
    state = random.getstate()
    tables = (
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks,
        torch_module._global_backward_pre_hooks,
    )
    hooks = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        random.setstate(state)
        for table, before in zip(tables, hooks, strict=True):
            table.update(before)


def without_data(model: nn.Module) -> nn.Module:
    """A copy of the modules, with tensors on the meta device and without hooks of calls."""
    memo: dict[int, object] = {}
    for module in model.modules():
        tensors = (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        for tensor in tensors:
            if isinstance(tensor, nn.Parameter):
                empty = torch.empty_like(tensor, device="meta")
                memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad)
            elif isinstance(tensor, Tensor):
                memo[id(tensor)] = torch.empty_like(tensor, device="meta", requires_grad=False)
    shadow = copy.deepcopy(model, memo)
    for module in shadow.modules():
        # The user's hooks are not to see proxies.
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        ):
            hooks.clear()
    return shadow


class _Tracer(fx.Tracer):
    trace_asserts = True

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self._opaque = opaque
        self._results: dict[str, list[fx.Node | None]] = {}

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        node = result.node if isinstance(result, fx.Proxy) else None
        self._results.setdefault(self.path_of_module(m), []).append(node)
        return result

    @property
    def results(self) -> dict[str, fx.Node]:
        """See Part."""
        once = {path: found[0] for path, found in self._results.items() if len(found) == 1}
        return {path: node for path, node in once.items() if node is not None}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            m in self._opaque
            or blurs(m)
            or parametrize.is_parametrized(m)
            or next(m.children(), None) is None
            or super().is_leaf_module(m, module_qualified_name)
        )


def _parts(prefix: str, module: nn.Module, untraceable: dict[nn.Module, list[Part]]) -> list[Part]:
    part = _trace(prefix, module, set())
    if part is not None:
        return [part]
    # Learn which parts do not trace, and try again without looking into those.
    inner: dict[nn.Module, list[Part]] = {}
    parts = []
    for name, child in module.named_children():
        if next(child.children(), None) is not None and not blurs(child):
            parts += _parts(join(prefix, name), child, inner)
    untraceable.update(inner)
    part = _trace(prefix, module, set(inner)) if inner else None
    if part is None:
        untraceable[module] = parts
        return parts
    called = {str(node.target) for node in part.graph.nodes if node.op == "call_module"}
    leaves = {module.get_submodule(target) for target in called}
    return [part, *(more for leaf, found in inner.items() if leaf in leaves for more in found)]


def _trace(prefix: str, module: nn.Module, opaque: set[nn.Module]) -> Part | None:
    try:
        # Arguments with a default are given it: a proxy for None would look like a value.
        parameters = inspect.signature(module.forward).parameters.values()
        fixed = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        tracer = _Tracer(opaque)
        graph = tracer.trace(module, fixed)
    except Exception:
        # Tracing runs the model's own code on proxies, which may raise anything.
        return None
    return Part(prefix, graph, tracer.results)
