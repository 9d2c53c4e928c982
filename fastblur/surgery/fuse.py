"""``fuse_`` replaces a model's anti-aliasing layers with fused ones; ``unfuse_`` reverts it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from .. import _backends
from .._backends import BackendName
from ..modules import Pool
from ..modules3d import Pool3d
from .checking import Run, check_example
from .flow.dataflow import Flow, flows_of, parent_of
from .flow.tracing import graphs_of, without_data
from .joins.call_sites import Change, find_changes, original_class, set_class
from .joins.calls import has_call_hooks
from .joins.joining import Step, together
from .joins.reasons import why_not_joined
from .models import all_or_nothing, check_model, check_module
from .recognition.known import CannotFuse, Layer
from .recognition.recognise import check_contents, check_numbers, recognise
from .report import FuseReport, FuseRow, UnfuseReport, describe

_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def fuse_(
    model: nn.Module,
    *,
    relu: bool = True,
    backend: BackendName = "auto",
    example: Tensor | tuple[Any, ...] | None = None,
) -> FuseReport:
    """Replaces the anti-aliasing layers of a model by fused ones, in place.

    Recognises the layers of antialiased_cnns, timm, kornia, Composer, TResNet and ffcv-imagenet,
    and average pools behind a ReLU (timm's ``resnetaa``). A max of stride 1 and a ReLU join the
    layer behind them if the calling code proves that only the layer reads their results: in an
    ``nn.Sequential``, or in consecutive calls of a method. Outputs and the state dict stay the
    same: checkpoints of the original model load strictly into the fused one, and vice versa.
    :func:`unfuse_` reverts the change.

    ``fuse_`` does not guess. It leaves a layer alone if it is shared, hooked, subclassed or
    modified, if its filter is not separable, or if it does not compute what layers of its name
    compute. The report gives the reason. Every decision precedes every change.

    A ReLU or a max that joins keeps its place and its meaning: hooks, other methods and feature
    extractors see the same values as before.

    Args:
        model: the model whose modules are replaced. It cannot itself be one of the layers.
        relu: whether ReLUs join.
        backend: of the fused layers, as for :class:`fastblur.FusedMaxBlurPool`.
        example: an input of the model, or a tuple of its arguments, on which it runs before and
            after: unless outputs and gradients of the input stay the same, all is put back. The
            modes, random numbers and buffers are those of before.

    Returns:
        A report with one row per recognised layer; ``print`` it.

    Raises:
        TypeError: ``model`` is no module, or one that is scripted, compiled or in a DataParallel
            already; or another argument is of the wrong kind.
        ValueError: no backend has that name.
        RuntimeError: the fused model gives something else on ``example``.

    Whatever is raised, the model is as it was.
    """
    check_model(model)
    if not isinstance(relu, bool):
        raise TypeError(f"relu must be True or False, got {relu!r}")
    _backends.check_name(backend)
    check_example(example)
    plan, already = _Planner(model, relu, backend).plan()
    before = None if example is None else Run.of(model, example)
    with all_or_nothing(model):
        plan.carry_out(model)
        if before is not None:
            before.check(model, example, "fused")
    return FuseReport(tuple(site.row for site in plan.sites), already)


def unfuse_(model: nn.Module, *, example: Tensor | tuple[Any, ...] | None = None) -> UnfuseReport:
    """Puts back what :func:`fuse_` replaced, with the filters, convolutions and modes of now.

    Args:
        model: that was fused, or a copy or a part of it.
        example: as for :func:`fuse_`.

    Returns:
        A report with the paths of the restored modules; ``print`` it.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it is a fused layer itself, or hooks were set on what ``fuse_`` made.
        RuntimeError: the unfused model gives something else on ``example``.

    Whatever is raised, the model is as it was.
    """
    check_module(model)
    check_example(example)
    if _before(model) is not None:
        raise ValueError("model must hold the fused layers, got a fused layer")
    found = [
        (path, module, before)
        for path, module in model.named_modules(remove_duplicate=False)
        if (before := _before(module)) is not None
    ]
    for path, module, _ in found:
        if has_call_hooks(module):
            raise ValueError(f"{path} has hooks, which would be lost; remove them first")
    run = None if example is None else Run.of(model, example)
    apart = []
    with all_or_nothing(model):
        for path, module, before in found:
            _hand_over(module, before)
            _put(model, path, before)
        for path, module in model.named_modules():
            if (kind := original_class(type(module))) is not type(module):
                set_class(module, kind)
                apart.append(path)
        if run is not None:
            run.check(model, example, "unfused")
    return UnfuseReport(tuple(path for path, _, _ in found), tuple(apart))


@dataclass(frozen=True)
class _Site:
    """For one layer: its row of the report, and the layer that takes its place, if one does."""

    row: FuseRow
    fused: nn.Module | None = None

    def carry_out(self, model: nn.Module) -> None:
        if self.fused is None:
            return
        module = model.get_submodule(self.row.path)
        self.fused.training = module.training
        _put(model, self.row.path, self.fused)
        self.fused._replaced = (module,)  # type: ignore[assignment]  # in a tuple: it is no child


@dataclass(frozen=True)
class _Plan:
    """All that happens to a model."""

    sites: tuple[_Site, ...] = ()
    changes: tuple[Change, ...] = ()

    def carry_out(self, model: nn.Module) -> None:
        for site in self.sites:
            site.carry_out(model)
        for change in self.changes:
            change.carry_out(model)


class _Planner:
    """Decides what happens to each layer of a model, changing nothing."""

    def __init__(self, model: nn.Module, relu: bool, backend: BackendName) -> None:
        self._model = model
        self._relu = relu
        self._backend = backend
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._uses = Counter(map(id, self._modules.values()))
        self._flows: list[Flow] = []

    def plan(self) -> tuple[_Plan, int]:
        """What happens to the model, and how many layers are fused already."""
        found: list[tuple[str, Layer | CannotFuse]] = []
        for path, module in self._modules.items():
            try:
                layer = recognise(module)
            except CannotFuse as reason:
                found.append((path, reason))
            else:
                if layer is not None and (path or layer.gains_alone):
                    found.append((path, layer))
        already = sum(isinstance(module, Pool3d) for module in self._modules.values())
        if not found:
            return _Plan(), already
        self._flows = flows_of(self._model)
        layers: dict[str, tuple[Layer, nn.Module]] = {}
        left: dict[str, _Site] = {}
        for path, layer_or_reason in found:
            try:
                if isinstance(layer_or_reason, CannotFuse):
                    raise layer_or_reason
                if (fused := self._fused(path, layer_or_reason)) is not None:
                    layers[path] = (layer_or_reason, fused)
            except CannotFuse as reason:
                left[path] = self._left(path, str(reason))
        stand_ins = {self._modules[path]: fused for path, (_, fused) in layers.items()}
        changes = find_changes(self._model, stand_ins, self._relu)
        joins: dict[int, Step] = {}
        for step in (step for change in changes for step in change.joins):
            # A call may take in more than one further inside, which then is not made.
            known = joins.get(id(step.module))
            if known is None or len(step.joined) > len(known.joined):
                joins[id(step.module)] = step
        sites: list[_Site] = []
        for path, _ in found:
            site = left.get(path)
            if path in layers:
                layer, fused = layers[path]
                site = self._site(path, layer, fused, joins.get(id(fused)))
            if site is not None:
                sites.append(site)
            elif isinstance(self._modules[path], Pool):
                already += 1
        return self._confirmed(_Plan(tuple(sites), tuple(changes))), already

    def _left(self, path: str, why: str) -> _Site:
        return _Site(FuseRow(path, (type(self._modules[path]).__name__,), None, why))

    def _fused(self, path: str, layer: Layer) -> nn.Module | None:
        """The fused layer for one; the layer itself if it is fused; None if it is left unsaid."""
        module: nn.Module = self._modules[path]
        if not path:
            raise CannotFuse("it is the model itself: put it into a Sequential")
        obstacle = self._obstacle(path)
        if obstacle is not None:
            if not layer.gains_alone:
                return None
            raise CannotFuse(obstacle)
        for flow in self._flows:
            for call in flow.calls.get(path, ()):
                if call.kwargs:
                    raise CannotFuse("it is called with keyword arguments")
                _check_channels(layer, module, flow, call)
        if not layer.unfused:
            return module
        if layer.gains_alone:
            check_contents(module, layer)
            check_numbers(module, layer)
        return layer.fused(module, layer.geometry, self._backend)

    def _obstacle(self, path: str) -> str | None:
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

    def _site(self, path: str, layer: Layer, fused: nn.Module, step: Step | None) -> _Site | None:
        """What happens to one layer; None where there is nothing to gain."""
        if step is None and not layer.gains_alone:
            return None
        geometry, joined = layer.geometry, list[nn.Module]()
        if step is not None:
            assert isinstance(fused, Pool)
            geometry = together(fused, step.relu, step.max) or geometry
            joined = step.joined
        paths = {module: p for p, module in reversed(self._modules.items())}
        row = FuseRow(
            path,
            tuple(type(m).__name__ for m in (*joined, self._modules[path])),
            describe(geometry),
            why_not_joined(path, layer, joined, self._flows, self._relu),
            tuple(paths[m] for m in joined),
        )
        return _Site(row, fused if layer.unfused else None)

    def _confirmed(self, plan: _Plan) -> _Plan:
        """The plan without what would make the model's own code do other calls.

        It may look at the class of a module, or call one that it keeps elsewhere.
        """
        if self._same_calls(plan):
            return plan
        why = "what the model calls depends on the class of this layer, or it is kept elsewhere too"
        apart = tuple(self._without_joins(site) for site in plan.sites)
        kept = tuple(
            site if self._same_calls(_Plan((site,))) else self._left(site.row.path, why)
            for site in apart
        )
        if not self._same_calls(_Plan(kept)):
            kept = tuple(self._left(site.row.path, site.row.note or why) for site in kept)
        return _Plan(kept)

    def _without_joins(self, site: _Site) -> _Site:
        if not site.row.joined:
            return site
        why = "nothing joins it: the model looks at the classes of modules that would change"
        layer = recognise(self._modules[site.row.path])
        if layer is None or not layer.gains_alone:
            return self._left(site.row.path, why)
        what, fused = site.row.what[-1:], describe(layer.geometry)
        return _Site(FuseRow(site.row.path, what, fused, why), site.fused)

    def _same_calls(self, plan: _Plan) -> bool:
        """Whether the model calls the same modules once this is done."""
        try:
            shadow = without_data(self._model)
        except Exception:
            return True  # no trace tells, so none tells otherwise
        plan.carry_out(shadow)
        after = [Flow.text_of(graphs_of(shadow, training)) for training in (False, True)]
        return after == [flow.text for flow in self._flows]


def _check_channels(layer: Layer, module: nn.Module, flow: Flow, call: fx.Node) -> None:
    channels = layer.channels(module)
    if channels is None or not call.all_input_nodes:
        return
    coming, _ = flow.channels(call.all_input_nodes[0])
    if coming is not None and coming != channels:
        raise CannotFuse(f"its filter has {channels} channels, its input {coming}")


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    model.get_submodule(parent_of(path))._modules[path.rpartition(".")[2]] = module


def _before(module: nn.Module) -> nn.Module | None:
    """What the module replaced, if fuse_ made it."""
    if not isinstance(module, Pool):
        return None
    replaced: tuple[nn.Module, ...] = getattr(module, "_replaced", ())
    return replaced[0] if replaced else None


def _hand_over(fused: nn.Module, original: nn.Module) -> None:
    """Gives the original what may have changed since: mode, filter, convolution."""
    modes = {module: module.training for module in fused.modules()}
    original.train(fused.training)
    for module, training in modes.items():  # a convolution in both keeps its own
        module.training = training
    for name in original._buffers.keys() & fused._buffers.keys():
        original._buffers[name] = fused._buffers[name]
    for name in original._modules.keys() & fused._modules.keys():
        original._modules[name] = fused._modules[name]
