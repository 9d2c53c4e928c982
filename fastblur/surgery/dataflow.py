"""Which module's result goes where, read off ``torch.fx`` traces of a copy without data."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from ..modules import Pool

#: Layers that blur and subsample, of other packages; fastblur's own are all of class Pool.
_BLURS = {"BlurPool", "BlurPool2d", "BlurPool1D", "BlurPool1d", "MaxBlurPool2D", "BlurMaxPool2d"}
_BLURS |= {"BlurConv2d", "BlurPoolConv2d", "AntiAliasDownsampleLayer"}

# Elementwise, so that they keep what blur means; a GLU or a softmax is not.
_NOT_ELEMENTWISE = {"GLU", "MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
_ACTIVATIONS = set(activation.__all__) - _NOT_ELEMENTWISE
_ACTIVATIONS |= {"Swish", "HardMish", "HardMishMe", "GELUTanh", "QuickGELU", "SwishMe", "MishMe"}
_ACTIVATION_CALLS = {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu"}
_ACTIVATION_CALLS |= {"celu", "gelu", "silu", "mish", "hardswish", "hardtanh", "sigmoid", "tanh"}
_ACTIVATION_CALLS |= {"softplus", "prelu", "rrelu", "hardsigmoid", "clamp", "clamp_"}

# Between a convolution and its activation: what normalises each pixel or each channel, and what
# does nothing or drops.
_NORMS = {"GroupNorm", "GroupNorm1", "LocalResponseNorm", "FrozenBatchNorm2d", "LayerNorm2d"}
_NORM_CALLS = {"batch_norm", "group_norm", "instance_norm"}
_PASSING = {"Identity", "Dropout", "Dropout2d", "DropBlock2d", "DropPath", "StochasticDepth"}
_PASSING_CALLS = {"dropout", "dropout2d", "contiguous"}
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def is_blur(module: nn.Module) -> bool:
    """Whether the module anti-aliases, by fastblur or by a package it knows."""
    return isinstance(module, Pool) or type(module).__name__ in _BLURS


def parent_of(path: str) -> str:
    """The path of the module that holds this one; "" is the model."""
    return path.rpartition(".")[0]


def is_plain_sequential(module: nn.Module) -> bool:
    """Whether it calls its children in turn, and does nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


class Flow:
    """The calls of a model, in one of its modes, as far as they can be traced.

    Attributes:
        modules: all modules by path, those of the model itself (not of the traced copy).
        calls: for the path of a module that was not looked into, the nodes that call it.
        whole: paths of modules that were called by their own ``forward``.
    """

    def __init__(self, modules: dict[str, nn.Module], graphs: list[tuple[str, fx.Graph]]) -> None:
        self.modules = modules
        self.calls: dict[str, list[fx.Node]] = {}
        self.whole: set[str] = set()
        self._inside: dict[fx.Node, tuple[str, ...]] = {}
        self._members: dict[str, list[fx.Node]] = {}
        self._paths: dict[fx.Node, str] = {}
        self.stems: set[str] = set()
        for prefix, graph in graphs:
            self._read(prefix, graph)

    def _read(self, prefix: str, graph: fx.Graph) -> None:
        first = True
        for node in graph.nodes:
            stack = node.meta.get("nn_module_stack") or {}
            inside = [join(prefix, path) for path, _ in stack.values()]
            if node.op == "call_module":
                path = join(prefix, str(node.target))
                self._paths[node] = path
                self.calls.setdefault(path, []).append(node)
                inside = [outer for outer in inside if outer != path]
                module = self.modules[path]
                if first and isinstance(module, nn.Conv2d):
                    first = False
                    # A part of a model may well start with a convolution of features.
                    if not prefix or module.in_channels <= 4:
                        self.stems.add(path)
            if node.op not in ("placeholder", "output"):
                inside = [prefix, *inside]
                self.whole.update(inside)
                for outer in inside:
                    self._members.setdefault(outer, []).append(node)
            self._inside[node] = tuple(inside)

    def path(self, node: fx.Node) -> str | None:
        """Of the module that the node calls, if it calls one."""
        return self._paths.get(node)

    def module(self, node: fx.Node) -> nn.Module | None:
        """That the node calls, if it calls one."""
        path = self._paths.get(node)
        return None if path is None else self.modules[path]

    def result_of(self, node: fx.Node) -> Iterator[str]:
        """Paths of the modules, from the inside out, whose one result is the node's."""
        if node in self._paths:
            yield self._paths[node]
        for outer in reversed(self._inside[node]):
            leaving = {
                member
                for member in self._members[outer]
                if any(outer not in self._inside[user] for user in member.users)
            }
            if not outer or leaving != {node}:
                return
            yield outer

    def role(self, node: fx.Node) -> str:
        """``"activation"``, ``"norm"``, ``"pass"`` or ``""``."""
        module = self.module(node)
        if module is not None:
            names = {base.__name__ for base in type(module).__mro__}
            if names & _ACTIVATIONS:
                return "activation"
            if isinstance(module, _NormBase) or names & _NORMS:
                return "norm"
            return "pass" if names & _PASSING else ""
        name = node.target if isinstance(node.target, str) else _function_name(node)
        if node.op in ("call_function", "call_method"):
            if name in _ACTIVATION_CALLS:
                return "activation"
            if name in _NORM_CALLS:
                return "norm"
            return "pass" if name in _PASSING_CALLS else ""
        return ""

    def describe(self, node: fx.Node) -> str:
        """The node, for a reason in a report."""
        path = self.path(node)
        if path is not None:
            return f"{path} ({type(self.modules[path]).__name__})"
        if node.op == "output":
            return "the result"
        return f"{_function_name(node)}()"

    def channels(self, node: fx.Node) -> tuple[int | None, str | None]:
        """The channels of a node's result and the module that told; None where that is unknown."""
        module, path = self.module(node), self.path(node)
        if isinstance(module, nn.Conv2d):
            return module.out_channels, path
        if isinstance(module, _NormBase):
            return module.num_features, path
        inputs = node.all_input_nodes
        if not inputs:
            return None, None
        kind = _function_name(node)
        if kind in ("cat", "concat") and node.op == "call_function":
            parts = [self.channels(part) for part in inputs]
            along = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
            if along in (1, -3) and all(count is not None for count, _ in parts):
                return sum(count or 0 for count, _ in parts), parts[0][1]
            return None, None
        if self.role(node) or isinstance(module, _POOLS) or kind in ("max_pool2d", "avg_pool2d"):
            return self.channels(inputs[0])
        if kind in ("add", "iadd", "add_"):
            return self.channels(inputs[0])
        return None, None

    def function_calls(self) -> Iterator[tuple[str, str, fx.Node]]:
        """Calls of pooling functions: where, which, and the node."""
        for node, inside in self._inside.items():
            if node.op == "call_function" and _function_name(node) in ("max_pool2d", "avg_pool2d"):
                yield inside[-1], _function_name(node), node


def flows_of(model: nn.Module) -> list[Flow]:
    """The model's calls in eval mode and in train mode; without any if it cannot be copied.

    Nothing of the model changes or runs: what is traced is a copy of its modules whose tensors
    are on the meta device.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    flows = []
    for training in (False, True):
        try:
            shadow = _without_data(model)
        except Exception:
            # Whatever a model holds that cannot be copied, it only costs what tracing would tell.
            flows.append(Flow(modules, []))
            continue
        for module in shadow.modules():
            module.training = training
        flows.append(Flow(modules, _trace(shadow)))
    return flows


def join(prefix: str, path: str) -> str:
    """The path of a module by its path in the one at ``prefix``."""
    return f"{prefix}.{path}" if prefix and path else prefix or path


def _without_data(model: nn.Module) -> nn.Module:
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

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            m in self._opaque
            or is_blur(m)
            or parametrize.is_parametrized(m)
            or next(m.children(), None) is None
            or super().is_leaf_module(m, module_qualified_name)
        )


def _trace(model: nn.Module) -> list[tuple[str, fx.Graph]]:
    """Graphs of the largest parts that can be traced; together they hold each call once."""
    return _parts("", model, {})


def _parts(
    prefix: str, module: nn.Module, untraceable: dict[nn.Module, list[tuple[str, fx.Graph]]]
) -> list[tuple[str, fx.Graph]]:
    graph = _graph(module, set())
    if graph is not None:
        return [(prefix, graph)]
    # Learn which parts do not trace, and try again without looking into those.
    inner: dict[nn.Module, list[tuple[str, fx.Graph]]] = {}
    parts = []
    for name, child in module.named_children():
        if next(child.children(), None) is not None and not is_blur(child):
            parts += _parts(join(prefix, name), child, inner)
    untraceable.update(inner)
    graph = _graph(module, set(inner)) if inner else None
    if graph is not None:
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        leaves = {module.get_submodule(target) for target in called}
        parts = [(prefix, graph)]
        parts += [part for leaf, found in inner.items() if leaf in leaves for part in found]
    else:
        untraceable[module] = parts
    return parts


def _graph(module: nn.Module, opaque: set[nn.Module]) -> fx.Graph | None:
    try:
        # Arguments with a default are given it: a proxy for None would look like a value.
        parameters = inspect.signature(module.forward).parameters.values()
        fixed = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        return _Tracer(opaque).trace(module, fixed)
    except Exception:
        # Tracing runs the model's own code on proxies, which may raise anything.
        return None


def _function_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
