"""Determines from traces where each module's result goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx, nn
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _NormBase

from ..joins.calls import calls_in_turn
from .tracing import Part, graphs_of, join

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
_PASSING = {"Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "DropBlock2d"}
_PASSING |= {"DropBlock3d", "DropPath", "StochasticDepth"}
_PASSING_CALLS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "contiguous"}
_FLATTENING = {"flatten", "view", "reshape", "mean", "squeeze", "linear", "Flatten", "Linear"}
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_POOLS = (
    *(*MAX_POOLS, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(*AVERAGE_POOLS, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
_POOL_CALLS = {f"{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)}


def parent_of(path: str) -> str:
    """The path of the module that holds this one; "" is the model."""
    return path.rpartition(".")[0]


def is_plain_sequential(module: nn.Module) -> bool:
    """Whether it calls its children in turn, and does nothing else."""
    return isinstance(module, nn.Sequential) and calls_in_turn(module)


def calls_as_conv(conv: nn.Module) -> bool:
    """Whether a call of it is the convolution that its attributes tell, in a subclass too."""
    kind: Any = type(conv)
    own = [base for base in CONVS if issubclass(kind, base)]
    return any(
        kind.forward is base.forward and kind._conv_forward is base._conv_forward for base in own
    )


class Flow:
    """The calls of a model, in one of its modes, as far as they can be traced.

    Attributes:
        modules: all modules by path, those of the model itself (not of the traced copy).
        calls: for the path of a module that was not looked into, the nodes that call it.
        whole: paths of modules that were called by their own ``forward``.
        stems: paths of first convolutions.
        parts: what it was read off.
        text: all its calls, in words.
        entire: whether the model could be traced as a whole.
    """

    def __init__(self, modules: dict[str, nn.Module], parts: list[Part]) -> None:
        self.modules = modules
        self.calls: dict[str, list[fx.Node]] = {}
        self.whole: set[str] = set()
        self.stems: set[str] = set()
        self.entire = [part.path for part in parts] == [""]
        self._inside: dict[fx.Node, tuple[str, ...]] = {}
        self._results: dict[str, fx.Node] = {}
        self._paths: dict[fx.Node, str] = {}
        self.parts = parts
        self.text = self.text_of(parts)
        for part in parts:
            self._results |= {join(part.path, path): node for path, node in part.results.items()}
            self._read(part.path, part.graph)

    @staticmethod
    def text_of(parts: list[Part]) -> str:
        """All calls of the parts and what they pass on, in words: alike for the same calls."""
        return "\n".join(f"{part.path}: {part.graph}" for part in parts)

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
                if first and isinstance(module, CONVS):
                    first = False
                    # A part of a model may well start with a convolution of features.
                    if not prefix or module.in_channels <= 4:
                        self.stems.add(path)
            # That a part was traced by itself is no sign that somebody calls it.
            self.whole.update(inside if prefix else ["", *inside])
            self._inside[node] = (prefix, *inside)

    def path(self, node: fx.Node) -> str | None:
        """Of the module that the node calls, if it calls one."""
        return self._paths.get(node)

    def module(self, node: fx.Node) -> nn.Module | None:
        """That the node calls, if it calls one."""
        path = self._paths.get(node)
        return None if path is None else self.modules[path]

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Who uses the node's result, but for checks of its shape."""
        return [user for user in node.users if not is_check(user)]

    def result_of(self, node: fx.Node) -> Iterator[str]:
        """Paths of the modules, from the inside out, whose one result is the node's."""
        if node in self._paths:
            yield self._paths[node]
        for outer in reversed(self._inside[node]):
            if self._results.get(outer) is not node:
                return
            yield outer

    def is_inside(self, node: fx.Node, path: str) -> bool:
        """Whether the call is one that the module at the path makes."""
        return path in self._inside[node]

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

    def is_sum(self, node: fx.Node) -> bool:
        """Whether it adds."""
        called = node.op in ("call_function", "call_method")
        return called and _function_name(node) in ("add", "iadd", "add_")

    def describe(self, node: fx.Node) -> str:
        """The node, for a reason in a report."""
        path = self.path(node)
        if path is not None:
            return f"{path} ({type(self.modules[path]).__name__})"
        if node.op == "output":
            return "the result"
        return f"{_function_name(node)}()"

    def channels(self, node: fx.Node, depth: int = 100) -> tuple[int | None, str | None]:
        """The channels of a node's result and the module that told; None where that is unknown."""
        module, path = self.module(node), self.path(node)
        if isinstance(module, CONVS) and calls_as_conv(module):
            return module.out_channels, path
        if isinstance(module, _NormBase):
            return module.num_features, path
        inputs, kind = node.all_input_nodes, _function_name(node)
        if not inputs or not depth:
            return None, None
        if kind in ("cat", "concat") and node.op == "call_function":
            along = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
            parts = node.args[0] if node.args else None
            if along not in (1, -3) or not isinstance(parts, (list, tuple)):
                return None, None
            found = [self.channels(part, depth - 1) for part in parts if isinstance(part, fx.Node)]
            counts = [count for count, _ in found if count is not None]
            return (sum(counts), found[0][1]) if len(counts) == len(parts) else (None, None)
        if self.is_sum(node):
            # Another summand has as many or, broadcast, one.
            for summand in inputs:
                count, like = self.channels(summand, depth - 1)
                if count is not None and count > 1:
                    return count, like
            return None, None
        if self.role(node) or isinstance(module, _POOLS) or kind in _POOL_CALLS:
            return self.channels(inputs[0], depth - 1)
        return None, None

    def is_flattened(self, node: fx.Node) -> bool:
        """Whether the result, perhaps after an activation or dropout, loses its two dimensions."""
        for user in self.users(node):
            module = self.module(user)
            name = _function_name(user) if module is None else type(module).__name__
            if name in _FLATTENING or (self.role(user) and self.is_flattened(user)):
                return True
        return False

    def summed_with(self, node: fx.Node) -> Iterator[str]:
        """Paths of convolutions whose results, not activated, are in one sum with the node's."""
        while len(self.users(node)) == 1:
            (user,) = self.users(node)
            if not self._is_linear(user):
                break
            node = user
        waiting = [node]
        while waiting:
            node = waiting.pop()
            path = self.path(node)
            if path is not None and isinstance(self.modules[path], CONVS):
                yield path
            elif self._is_linear(node):
                waiting += node.all_input_nodes

    def _is_linear(self, node: fx.Node) -> bool:
        return self.is_sum(node) or self.role(node) in ("norm", "pass")

    def function_calls(self) -> Iterator[tuple[str, str, fx.Node]]:
        """Calls of pooling functions: where, which, and the node."""
        for node, inside in self._inside.items():
            if node.op == "call_function" and _function_name(node) in _POOL_CALLS:
                yield inside[-1], _function_name(node), node


def flows_of(model: nn.Module) -> list[Flow]:
    """The model's calls in eval mode and in train mode."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return [Flow(modules, graphs_of(model, training)) for training in (False, True)]


def _function_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def is_check(node: fx.Node) -> bool:
    """Whether the node asks for a shape or the like, and at most asserts something about it."""
    if _function_name(node) == "_assert":
        return True
    return _asks_shape(node) and all(map(is_check, node.users))


def _asks_shape(node: fx.Node) -> bool:
    name = _function_name(node)
    if name == "getattr":
        return node.args[1] in ("shape", "ndim", "dtype", "device", "is_cuda", "requires_grad")
    if node.op == "call_method":
        return name in ("size", "dim")
    first = node.args[0] if node.args else None
    return name in ("getitem", "eq", "ne") and isinstance(first, fx.Node) and _asks_shape(first)
