"""``fuse_``: the anti-aliasing layers of a model by the fused op, in place; ``unfuse_``: back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from .._backends import BackendName
from .._geometry import Geometry
from ..modules import Pool
from .dataflow import Flow, flows_of, parent_of
from .recognise import CannotFuse, Layer, check_numbers, recognise
from .report import FuseReport, FuseRow, describe

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
# Functions whose result is a new tensor, of which nobody else can hold a part.
_FRESH = {"batch_norm", "conv2d", "conv1d", "group_norm", "layer_norm", "instance_norm"}


def fuse_(model: nn.Module, *, relu: bool = True, backend: BackendName = "auto") -> FuseReport:
    """Replaces the anti-aliasing layers of a model by fused ones, in place.

    Recognised are the layers of antialiased_cnns, timm, kornia, Composer, TResNet and
    ffcv-imagenet, with a max of stride 1 and a ReLU where these directly and only feed them, and
    average pools behind a ReLU (timm's ``resnetaa``). The numbers stay the same, and so does the
    state dict: checkpoints of before load into the fused model, strictly, and the other way. What
    has joined another layer leaves an :class:`Absorbed` in its place. :func:`unfuse_` undoes it.

    Nothing is guessed: a layer that is shared, hooked, subclassed or changed is left alone, and so
    is one whose filter is not separable or which does not compute what layers of its name compute.
    The report says why. All is decided before anything changes.

    Where a ReLU has joined a layer, what stands between the two in the model is seen before the
    ReLU, for example by hooks set later; ``relu=False`` leaves ReLUs alone.

    Args:
        model: whose modules are replaced. It cannot itself be one of the layers.
        relu: whether a ReLU that directly and only feeds a layer joins it.
        backend: of the fused layers.

    Returns:
        What was found, a row each; ``print`` it.

    Raises:
        TypeError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    plans = _Planner(model, relu, backend).plans()
    for plan in plans:
        plan.carry_out(model)
    return FuseReport(tuple(plan.row for plan in plans))


def unfuse_(model: nn.Module) -> tuple[str, ...]:
    """Puts back what :func:`fuse_` replaced: the same modules, with the filters of now.

    Args:
        model: in which they are replaced, also a copy of the one that was fused.

    Returns:
        The paths of the modules that are back.

    Raises:
        TypeError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    restored = []
    for path, module in list(model.named_modules(remove_duplicate=False)):
        original = module
        while hasattr(original, "_replaced"):
            (before,) = original._replaced
            _hand_over(original, before)
            original = before
        if original is not module:
            _put(model, path, original)
            restored.append(path)
    return tuple(restored)


class Absorbed(nn.Module):
    """Stands for a layer whose work the fused layer at another path does; passes its input on."""

    def __init__(self, module: nn.Module, into: str) -> None:
        super().__init__()
        self._replaced = (module,)  # in a tuple, for it is no child
        self.into = into

    def forward(self, input: Tensor) -> Tensor:
        """Passes the input on."""
        return input

    def extra_repr(self) -> str:
        """What stood here, and where its work is done."""
        return f"{self._replaced[0]}, into {self.into!r}"


@dataclass(frozen=True)
class _Plan:
    """For one layer: its row of the report, and if there is no reason against it, the change."""

    row: FuseRow
    fused: nn.Module | None = None
    absorbed: tuple[str, ...] = ()

    def carry_out(self, model: nn.Module) -> None:
        if self.fused is None:
            return
        for path in self.absorbed:
            module = model.get_submodule(path)
            _put(model, path, Absorbed(module, self.row.path).train(module.training))
        module = model.get_submodule(self.row.path)
        self.fused._replaced = (module,)  # type: ignore[assignment]
        self.fused.training = module.training
        _put(model, self.row.path, self.fused)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    model.get_submodule(parent_of(path))._modules[path.rpartition(".")[2]] = module


def _hand_over(fused: nn.Module, original: nn.Module) -> None:
    """Gives the original what may have changed since: mode, filter, convolution."""
    original.train(fused.training)
    for name in original._buffers.keys() & fused._buffers.keys():
        original._buffers[name] = fused._buffers[name]
    for name in original._modules.keys() & fused._modules.keys():
        original._modules[name] = fused._modules[name]


class _Planner:
    """Decides what happens to each layer of a model, changing nothing."""

    def __init__(self, model: nn.Module, relu: bool, backend: BackendName) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.uses = Counter(map(id, self.modules.values()))
        self.relu = relu
        self.backend = backend
        self._model = model
        self._flows: list[Flow] | None = None
        self._taken: set[str] = set()

    @property
    def flows(self) -> list[Flow]:
        """Traced when the first layer is found: most models without one need none."""
        if self._flows is None:
            self._flows = flows_of(self._model)
        return self._flows

    def plans(self) -> list[_Plan]:
        found = []
        for path, module in self.modules.items():
            kind = type(module).__name__
            try:
                layer = recognise(module)
                if layer is not None:
                    plan = self._plan(path, module, layer)
                    found += [plan] if plan is not None else []
            except CannotFuse as reason:
                found.append(_Plan(FuseRow(path, (kind,), None, str(reason))))
        return found

    def _plan(self, path: str, module: nn.Module, layer: Layer) -> _Plan | None:
        ours = isinstance(module, Pool)
        average = isinstance(module, nn.AvgPool2d)
        if not path:
            if ours or average:
                return None
            raise CannotFuse("it is the model itself, which nothing holds that could hold another")
        obstacle = self._obstacle(path)
        if obstacle is None and not ours and not average:
            check_numbers(module, layer)
            self._check_channels(path, layer)
        absorbed: list[str] = []
        notes: list[str] = []
        geometry = layer.geometry
        if obstacle is None:
            geometry = self._join(path, layer, absorbed, notes)
        what = (*(type(self.modules[p]).__name__ for p in absorbed), type(module).__name__)
        if (ours or average) and not absorbed:
            return None  # it is fused already, or gains nothing
        if obstacle is not None:
            raise CannotFuse(obstacle)
        fused = layer.fused(module, geometry)
        if not ours:
            for pool in fused.modules():
                if isinstance(pool, Pool):
                    pool.backend = self.backend
        self._taken.update(absorbed)
        return _Plan(
            FuseRow(path, what, describe(geometry), "; ".join(notes)), fused, tuple(absorbed)
        )

    def _obstacle(self, path: str) -> str | None:
        """Why the module at a path cannot be replaced, whatever it computes."""
        module = self.modules[path]
        if self.uses[id(module)] > 1:
            others = [p for p, m in self.modules.items() if m is module and p != path]
            return f"it is shared: {', '.join(others)} is the same module"
        if any(getattr(m, hooks, None) for m in module.modules() for hooks in _HOOKS):
            return "it has hooks"
        if parametrize.is_parametrized(module):
            return "it is parametrized"
        if "forward" in vars(module):
            return "its forward has been replaced"
        return None

    def _check_channels(self, path: str, layer: Layer) -> None:
        if layer.filter_name is None:
            return
        filter = self.modules[path]._buffers[layer.filter_name]
        node = self._only_call(path)
        if filter is None or filter.dim() < 3 or filter.shape[0] == 1 or isinstance(node, str):
            return
        flow, call = node
        channels = None
        if layer.blur_first and call.all_input_nodes:
            channels, _ = flow.channels(call.all_input_nodes[0])
        if channels is not None and channels != filter.shape[0]:
            raise CannotFuse(f"its filter has {filter.shape[0]} channels, its input {channels}")

    def _only_call(self, path: str) -> tuple[Flow, fx.Node] | str:
        """The one call of a module, alike in eval and in train mode; or why there is none."""
        for flow in self.flows:
            calls = flow.calls.get(path, [])
            if not calls:
                return f"the call of {path} could not be traced"
            if len(calls) > 1:
                return f"{path} is called {len(calls)} times"
        return self.flows[0], self.flows[0].calls[path][0]

    def _join(self, path: str, layer: Layer, absorbed: list[str], notes: list[str]) -> Geometry:
        """The geometry with what comes in front: first a max, then a ReLU in front of that."""
        geometry = layer.geometry
        first = path
        if layer.takes_max:
            in_front = self._feeder(first, (nn.MaxPool2d, nn.MaxPool1d))
            if isinstance(in_front, str):
                joined = self._with_max(geometry, path, in_front, notes)
                if joined is not None:
                    geometry, first = joined, in_front
                    absorbed.insert(0, in_front)
        if layer.takes_relu and self.relu:
            in_front = self._feeder(first, (nn.ReLU,))
            if isinstance(in_front, str):
                why_not = self._why_not_joined(in_front, path)
                if why_not is None:
                    geometry = replace(geometry, relu=True)
                    absorbed.insert(0, in_front)
                else:
                    notes.append(f"without the ReLU at {in_front}: {why_not}")
        return geometry

    def _feeder(self, path: str, kinds: tuple[type[nn.Module], ...]) -> str | None:
        """The path of the module of one of these kinds whose result the module at ``path`` gets."""
        for_sure = None
        for flow in self.flows:
            calls = flow.calls.get(path, [])
            if len(calls) != 1:
                return None
            node = _source(flow, calls[0])
            found = None if node is None else flow.path(node)
            if found is None or (for_sure is not None and found != for_sure):
                return None
            for_sure = found
        return for_sure if for_sure and isinstance(self.modules[for_sure], kinds) else None

    def _with_max(
        self, geometry: Geometry, path: str, max_path: str, notes: list[str]
    ) -> Geometry | None:
        """The geometry with the max in it; None, with a note, if it cannot join."""
        module: Any = self.modules[max_path]
        why_not = self._why_not_joined(max_path, path)
        if type(module) not in (nn.MaxPool2d, nn.MaxPool1d):
            why_not = f"it is a {type(module).__name__}, a subclass"
        elif module.return_indices or _pair(module.dilation) != (1, 1):
            why_not = "it has dilation or return_indices"
        elif _pair(module.stride) != (1, 1):
            why_not = f"its stride is {module.stride}, which is then no max of Zhang's layer"
        if why_not is None:
            size, pad = _pair(module.kernel_size), _pair(module.padding)
            if isinstance(module, nn.MaxPool1d):
                size, pad = (1, size[1]), (0, pad[1])
            try:
                pooled = Geometry.resolve(size, 1, pad)
                return replace(geometry, kernel_size=pooled.kernel_size, padding=pooled.padding)
            except ValueError as error:
                why_not = str(error)
        notes.append(f"without the max at {max_path}: {why_not}")
        return None

    def _why_not_joined(self, path: str, site: str) -> str | None:
        """Why the module at ``path``, which feeds the one at ``site``, cannot join it."""
        module = self.modules[path]
        obstacle = self._obstacle(path)
        if path in self._taken:
            obstacle = "it has joined another layer"
        if isinstance(module, nn.ReLU) and type(module) is not nn.ReLU:
            obstacle = f"it is a {type(module).__name__}, a subclass"
        if obstacle is not None:
            return obstacle
        for outer in _containers_between(path, site):
            if any(getattr(self.modules[outer], hooks) for hooks in _HOOKS[:4]):
                return f"{outer} has hooks, which would see another tensor"
        for flow in self.flows:
            calls = flow.calls.get(path, [])
            if len(calls) != 1:
                return f"it is called {len(calls)} times"
            (node,) = calls
            while True:
                if len(flow.users(node)) != 1:
                    return "its result is used elsewhere too"
                (user,) = flow.users(node)
                if not _is_identity(flow, user):
                    break
                node = user
            if getattr(module, "inplace", False) and not _alone(flow, calls[0]):
                return "it changes in place what is, or may be, used elsewhere"
        return None


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


def _alone(flow: Flow, call: fx.Node) -> bool:
    """Whether nobody but this call can see the tensor that it gets."""
    while True:
        if len(call.all_input_nodes) != 1:
            return False
        (source,) = call.all_input_nodes
        if len(flow.users(source)) != 1:
            return False
        if not _is_identity(flow, source):
            break
        call = source
    if source.op == "call_module":
        return isinstance(
            flow.module(source), (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)
        )
    name = str(getattr(source.target, "__name__", source.target))
    return source.op == "call_function" and name in _FRESH


def _containers_between(path: str, site: str) -> list[str]:
    """Modules around one of the two that are not around both."""
    around = [set(_around(path)), set(_around(site))]
    return sorted(around[0] ^ around[1])


def _around(path: str) -> list[str]:
    found = []
    while path := parent_of(path):
        found.append(path)
    return found


def _pair(value: Any) -> tuple[int, int]:
    """An argument of a pooling layer: one number or, as a tuple or list, one or two."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return pair[0], pair[-1]
