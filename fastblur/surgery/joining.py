"""What stands in front of a blur and can join it: a max, and a ReLU in front of that.

A module joins if its result goes to the blur and nowhere else, in eval and in train mode, and if
nothing happens in between that could tell the difference. That is read off traces of the model as
a whole (:mod:`.tracing`); where they do not tell, nothing joins.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from .._geometry import Geometry
from .dataflow import Flow, is_check, parent_of
from .recognise import Layer
from .tracing import GRAD

_CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
# Functions whose result is a new tensor, of which nobody else can hold a part.
_FRESH = {"batch_norm", "conv2d", "conv1d", "group_norm", "layer_norm", "instance_norm"}


class Absorbed(nn.Module):
    """Stands for a module whose work a fused layer behind it does; passes its input on.

    Args:
        module: that stood here.
        into: path of the fused layer, in the model that ``fuse_`` was given.
    """

    def __init__(self, module: nn.Module, into: str) -> None:
        super().__init__()
        self._replaced = (module,)  # in a tuple, for it is no child
        self.into = into

    def forward(self, input: Any) -> Any:
        """Passes the input on."""
        return input

    def extra_repr(self) -> str:
        """What stood here, and where its work is done."""
        return f"{self._replaced[0]}, into {self.into!r}"


@dataclass
class Joined:
    """A layer with what joins it.

    Attributes:
        geometry: of all together.
        paths: of the modules that join, in the order of their calls.
        notes: why others do not.
    """

    geometry: Geometry
    paths: list[str]
    notes: list[str]


class Joiner:
    """Decides for the layers of one model what joins them.

    Args:
        model: whose modules they are.
        modules: of it, by path.
        flows: its traces.
    """

    def __init__(self, model: nn.Module, modules: dict[str, nn.Module], flows: list[Flow]) -> None:
        self._modules = modules
        self._uses = Counter(map(id, modules.values()))
        self._flows = flows
        self._order = [_positions(flow) for flow in flows]
        self.why_nothing = _why_nothing(model, flows)

    def join(self, path: str, layer: Layer, relu: bool) -> Joined:
        """What joins the layer at a path; ReLUs only if asked."""
        joined, first = Joined(layer.geometry, [], []), path
        wanted: list[tuple[bool, tuple[type[nn.Module], ...]]] = [
            (layer.takes_max, (nn.MaxPool2d, nn.MaxPool1d)),
            (layer.takes_relu and relu, (nn.ReLU,)),
        ]
        if self.why_nothing and any(takes for takes, _ in wanted):
            joined.notes.append(f"without what may be in front of it: {self.why_nothing}")
            return joined
        for takes, kinds in wanted:
            in_front = self._feeder(first, kinds) if takes else None
            if in_front is None:
                continue
            module = self._modules[in_front]
            geometry, why_not = _with(module, joined.geometry)
            why_not = self._why_not(in_front, path) or why_not
            if why_not or geometry is None:
                joined.notes.append(f"without the {type(module).__name__} at {in_front}: {why_not}")
                continue
            joined.geometry, first = geometry, in_front
            joined.paths.insert(0, in_front)
        return joined

    def obstacle(self, path: str) -> str | None:
        """Why the module at a path cannot be replaced, whatever it computes."""
        module = self._modules[path]
        if self._uses[id(module)] > 1:
            others = [p for p, m in self._modules.items() if m is module and p != path]
            return f"it is shared: the same module is at {', '.join(others)}"
        if any(map(has_call_hooks, module.modules())):
            return "it has hooks"
        if any(getattr(module, hooks, None) for hooks in _STATE_HOOKS):
            return "it has hooks of its state dict"
        if parametrize.is_parametrized(module):
            return "it is parametrized"
        if "forward" in vars(module):
            return "its forward has been replaced"
        return None

    def calls(self, path: str) -> list[tuple[Flow, list[fx.Node]]]:
        """The traced calls of a module, in each mode."""
        return [(flow, flow.calls.get(path, [])) for flow in self._flows]

    def _feeder(self, path: str, kinds: tuple[type[nn.Module], ...]) -> str | None:
        """The path of a module of these kinds whose result the one at ``path`` gets."""
        found = set()
        for flow, calls in self.calls(path):
            if len(calls) == 1:
                source = _source(flow, calls[0])
                found.add(None if source is None else flow.path(source))
        (first, *others) = found or {None}
        if first is None or others or not isinstance(self._modules[first], kinds):
            return None
        return first

    def _why_not(self, path: str, site: str) -> str | None:
        """Why the module at ``path``, which feeds the layer at ``site``, cannot join it."""
        obstacle = self.obstacle(path)
        if obstacle is not None:
            return obstacle
        for (flow, calls), position in zip(self.calls(path), self._order, strict=True):
            sites = flow.calls.get(site, [])
            if len(calls) != 1 or len(sites) != 1:
                return f"it is called {len(calls)} times, and the layer {len(sites)} times"
            why_not = self._why_not_here(flow, position, calls[0], sites[0])
            if why_not is not None:
                return why_not
        return None

    def _why_not_here(
        self, flow: Flow, position: dict[fx.Node, int], call: fx.Node, site: fx.Node
    ) -> str | None:
        chain, node = [], call
        while node is not site:
            users = flow.users(node)
            if len(users) != 1 or node in flow.escaped:
                return "its result is used elsewhere too"
            chain.append(node)
            (node,) = users
        if site.kwargs or call.kwargs:
            return "it is called with keyword arguments"
        site_path = flow.path(site)
        for link in chain:
            path = flow.path(link)
            assert path is not None
            assert site_path is not None
            if link is not call and self.obstacle(path) is not None:
                return f"{path}, between the two: {self.obstacle(path)}"
            if (hooked := self._hooked_between(path, site_path)) is not None:
                return f"{hooked} has hooks, which would see another tensor"
        between = [n for n in position if position[call] < position[n] < position[site]]
        if any(n not in chain and not is_check(n) for n in between):
            return "something else runs between the two, which may change its input"
        if call.meta.get(GRAD) != site.meta.get(GRAD):
            return "gradients are recorded for one of the two only"
        module = flow.module(call)
        if getattr(module, "inplace", False) and not self._is_alone(flow, call):
            return "it changes in place what is, or may be, used elsewhere"
        return None

    def _is_alone(self, flow: Flow, call: fx.Node) -> bool:
        """Whether nobody but this call can see the tensor that it gets."""
        path = flow.path(call)
        source = call
        while source is call or _is_identity(flow, source):
            if len(source.all_input_nodes) != 1:
                return False
            (source,) = source.all_input_nodes
            if len(flow.users(source)) != 1 or source in flow.escaped:
                return False
        module, source_path = flow.module(source), flow.path(source)
        if module is None or source_path is None or path is None:
            name = str(getattr(source.target, "__name__", source.target))
            return source.op == "call_function" and name in _FRESH
        makes_new = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)
        return (
            isinstance(module, makes_new)
            and type(module).forward.__module__.startswith("torch.nn.")
            and self.obstacle(source_path) is None
            and self._hooked_between(source_path, path) is None
        )

    def _hooked_between(self, path: str, other: str) -> str | None:
        """A module with hooks around one of the two that is not around both."""
        for outer in sorted(set(_around(path)) ^ set(_around(other))):
            if has_call_hooks(self._modules[outer]):
                return outer
        return None


def has_call_hooks(module: nn.Module) -> bool:
    """Whether a call of the module, or its gradient, is watched."""
    return any(getattr(module, hooks) for hooks in _CALL_HOOKS)


def _why_nothing(model: nn.Module, flows: list[Flow]) -> str | None:
    """Why the traces cannot tell what runs."""
    if not all(flow.entire for flow in flows):
        return "the model could not be traced as a whole"
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "there are hooks of all modules"
    parameters = inspect.signature(model.forward).parameters.values()
    optional = [p.name for p in parameters if p.default is not inspect.Parameter.empty]
    if optional:
        return f"what the model does with its optional {', '.join(optional)} was not traced"
    return None


def _with(module: Any, geometry: Geometry) -> tuple[Geometry | None, str | None]:
    """The geometry with the work of the module in front; or why that cannot be."""
    kind = type(module)
    if kind not in (nn.ReLU, nn.MaxPool2d, nn.MaxPool1d):
        return None, f"it is a subclass, {kind.__name__}"
    if kind is nn.ReLU:
        return replace(geometry, relu=True), None
    if module.return_indices or _pair(module.dilation) != (1, 1):
        return None, "it has dilation or return_indices"
    if _pair(module.stride) != (1, 1):
        return None, f"its stride is {module.stride}, not 1"
    size, pad = _pair(module.kernel_size), _pair(module.padding)
    if kind is nn.MaxPool1d:
        size, pad = (1, size[1]), (0, pad[1])
    try:
        pooled = Geometry.resolve(size, 1, pad)
    except ValueError as error:
        return None, str(error)
    return replace(geometry, kernel_size=pooled.kernel_size, padding=pooled.padding), None


def _positions(flow: Flow) -> dict[fx.Node, int]:
    """The order of all calls; of one graph, for else nothing joins."""
    nodes = next((calls[0].graph.nodes for calls in flow.calls.values()), ())
    return {node: place for place, node in enumerate(nodes)}


def _is_identity(flow: Flow, node: fx.Node) -> bool:
    return type(flow.module(node)) in (nn.Identity, Absorbed)


def _source(flow: Flow, node: fx.Node) -> fx.Node | None:
    """The node whose result a call gets, through identities; None if it gets more than one."""
    while True:
        if len(node.all_input_nodes) != 1:
            return None
        (node,) = node.all_input_nodes
        if not _is_identity(flow, node):
            return node


def _around(path: str) -> list[str]:
    found = []
    while path := parent_of(path):
        found.append(path)
    return found


def _pair(value: Any) -> tuple[int, int]:
    """An argument of a pooling layer: one number or, as a tuple or list, one or two."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return pair[0], pair[-1]
