"""``fuse_``: the anti-aliasing layers of a model by the fused op, in place; ``unfuse_``: back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from .. import _backends
from .._backends import BackendName
from ..modules import Pool
from .dataflow import Flow, flows_of, parent_of
from .joining import Absorbed, Joiner, has_call_hooks
from .models import check_model, check_module
from .recognise import CannotFuse, Layer, check_contents, check_numbers, recognise
from .report import FuseReport, FuseRow, UnfuseReport, describe
from .tracing import graphs_of, without_data


def fuse_(model: nn.Module, *, relu: bool = True, backend: BackendName = "auto") -> FuseReport:
    """Replaces the anti-aliasing layers of a model by fused ones, in place.

    Recognised are the layers of antialiased_cnns, timm, kornia, Composer, TResNet and
    ffcv-imagenet, with a max of stride 1 and a ReLU where these directly and only feed them, and
    average pools behind a ReLU (timm's ``resnetaa``). The numbers stay the same, and so does the
    state dict: checkpoints of before load into the fused model, strictly, and the other way. What
    has joined another layer leaves an :class:`Absorbed` in its place. :func:`unfuse_` undoes it.

    Nothing is guessed: a layer that is shared, hooked, subclassed or changed is left alone, and so
    is one whose filter is not separable or which does not compute what layers of its name compute.
    The report says why. All is decided before anything changes. For that ``forward`` is traced, on
    a copy without data, in eval and in train mode, with the model's attributes as they are.

    Only ``forward`` is looked at. Where a ReLU or a max has joined a layer, other methods, and code
    that takes the model apart, find the tensors between them as they are before the ReLU or the
    max; the report names those modules, and ``relu=False`` leaves ReLUs alone.

    Args:
        model: whose modules are replaced. It cannot itself be one of the layers.
        relu: whether a ReLU that directly and only feeds a layer joins it.
        backend: of the fused layers, as for :class:`fastblur.FusedMaxBlurPool`.

    Returns:
        What was found, a row each; ``print`` it.

    Raises:
        TypeError: ``model`` is no module, or one that is scripted, compiled or in a DataParallel
            already; or ``relu`` is no bool.
        ValueError: no backend has that name.
    """
    check_model(model)
    if not isinstance(relu, bool):
        raise TypeError(f"relu must be True or False, got {relu!r}")
    _backends.check_name(backend)
    plans, already = _Planner(model, relu, backend).plans()
    for plan in plans:
        plan.carry_out(model)
    return FuseReport(tuple(plan.row for plan in plans), already)


def unfuse_(model: nn.Module) -> UnfuseReport:
    """Puts back what :func:`fuse_` replaced, with the filters, convolutions and modes of now.

    Args:
        model: that was fused, or a copy of it.

    Returns:
        The paths of the modules that are back; ``print`` it.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it is a fused layer itself, or holds but a part of what was fused together, or
            hooks were set on what ``fuse_`` made. Nothing was changed then.
    """
    check_module(model)
    if _before(model) is not None:
        raise ValueError("model must hold the fused layers, got a fused layer")
    found = [
        (path, module)
        for path, module in model.named_modules(remove_duplicate=False)
        if _before(module) is not None
    ]
    # A layer that was fused in two steps stands for both.
    there = {id(one) for _, module in found for one in _history(module)}
    for path, module in found:
        partners = (partner for one in _history(module) for partner in _partners(one))
        if any(id(partner) not in there for partner in partners):
            raise ValueError(
                f"model must hold all that was fused together: {path} ({type(module).__name__}) "
                f"is there, and some of what it was fused with is not"
            )
        if has_call_hooks(module):
            raise ValueError(f"{path} has hooks, which would be lost; remove them first")
    for path, module in found:
        history = _history(module)
        for fused, before in pairwise(history):
            _hand_over(fused, before)
        _put(model, path, history[-1])
    return UnfuseReport(tuple(path for path, _ in found))


@dataclass(frozen=True)
class _Plan:
    """For one layer: its row of the report, and if there is no reason against it, the change."""

    row: FuseRow
    fused: nn.Module | None = None

    def carry_out(self, model: nn.Module) -> None:
        if self.fused is None:
            return
        absorbed = []
        for path in self.row.joined:
            module = model.get_submodule(path)
            absorbed.append(Absorbed(module, self.row.path).train(module.training))
            _put(model, path, absorbed[-1])
        module, fused = model.get_submodule(self.row.path), self.fused
        fused.training = module.training
        _put(model, self.row.path, fused)
        # In tuples, for none of these is a child of another.
        fused._replaced = (module,)  # type: ignore[assignment]
        for one in (fused, *absorbed):
            one._together = (fused, *absorbed)  # type: ignore[assignment]


class _Planner:
    """Decides what happens to each layer of a model, changing nothing."""

    def __init__(self, model: nn.Module, relu: bool, backend: BackendName) -> None:
        self._model = model
        self._relu = relu
        self._backend = backend
        self._modules = dict(model.named_modules(remove_duplicate=False))

    def plans(self) -> tuple[list[_Plan], int]:
        """A plan for each layer that is or may be one, and how many are fused already."""
        found: list[tuple[str, Layer | CannotFuse]] = []
        for path, module in self._modules.items():
            try:
                layer = recognise(module)
            except CannotFuse as reason:
                found.append((path, reason))
            else:
                if layer is not None and (path or layer.gains_alone):
                    found.append((path, layer))
        if not found:
            return [], 0
        flows = flows_of(self._model)
        joiner = Joiner(self._model, self._modules, flows)
        plans, already = [], 0
        for path, layer_or_reason in found:
            try:
                if isinstance(layer_or_reason, CannotFuse):
                    raise layer_or_reason
                plan = self._plan(path, layer_or_reason, joiner)
            except CannotFuse as reason:
                plan = self._left(path, str(reason))
            if plan is not None:
                plans.append(plan)
            elif isinstance(self._modules[path], Pool):
                already += 1
        return self._confirmed(plans, flows), already

    def _left(self, path: str, why: str) -> _Plan:
        return _Plan(FuseRow(path, (type(self._modules[path]).__name__,), None, why))

    def _plan(self, path: str, layer: Layer, joiner: Joiner) -> _Plan | None:
        """None where there is nothing to gain."""
        module = self._modules[path]
        if not path:
            raise CannotFuse("it is the model itself: put it into a Sequential")
        obstacle = joiner.obstacle(path)
        if obstacle is not None:
            if not layer.gains_alone:
                return None
            raise CannotFuse(obstacle)
        for flow, calls in joiner.calls(path):
            if any(call.kwargs for call in calls):
                raise CannotFuse("it is called with keyword arguments")
            for call in calls:
                _check_channels(layer, module, flow, call)
        joined = joiner.join(path, layer, self._relu)
        if not (layer.gains_alone or joined.paths):
            return None
        if layer.gains_alone:
            check_contents(module, layer)
            check_numbers(module, layer)
        backend = module.backend if isinstance(module, Pool) else self._backend
        classes = [type(self._modules[p]).__name__ for p in (*joined.paths, path)]
        row = FuseRow(
            path,
            tuple(classes),
            describe(joined.geometry),
            "; ".join(joined.notes),
            tuple(joined.paths),
        )
        return _Plan(row, layer.fused(module, joined.geometry, backend))

    def _confirmed(self, plans: list[_Plan], flows: list[Flow]) -> list[_Plan]:
        """Drops the plans after which the model's own code would do other calls.

        It may look at the class of a module, or call one that it keeps elsewhere.
        """
        before = [flow.text for flow in flows]
        if self._unchanged(plans, before):
            return plans
        why = "what the model calls depends on the class of this layer, or it is kept elsewhere too"
        kept = [
            plan if self._unchanged([plan], before) else self._left(plan.row.path, why)
            for plan in plans
        ]
        if self._unchanged(kept, before):
            return kept
        return [self._left(plan.row.path, plan.row.note or why) for plan in kept]

    def _unchanged(self, plans: Iterable[_Plan], before: list[str]) -> bool:
        try:
            shadow = without_data(self._model)
        except Exception:
            return True  # what cannot be copied has no traces, and nothing joins
        for plan in plans:
            plan.carry_out(shadow)
        after = [Flow.text_of(graphs_of(shadow, training)) for training in (False, True)]
        return after == before


def _check_channels(layer: Layer, module: nn.Module, flow: Flow, call: Any) -> None:
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
    if not isinstance(module, (Pool, Absorbed)):
        return None
    replaced: tuple[nn.Module, ...] = getattr(module, "_replaced", ())
    return replaced[0] if replaced else None


def _history(module: nn.Module) -> list[nn.Module]:
    """The module, what it replaced, what that replaced, and so on."""
    history = [module]
    while (before := _before(history[-1])) is not None:
        history.append(before)
    return history


def _partners(module: nn.Module) -> tuple[nn.Module, ...]:
    """What was fused together with the module by one call of fuse_, itself included."""
    if not isinstance(module, (Pool, Absorbed)):
        return ()
    together: tuple[nn.Module, ...] = getattr(module, "_together", ())
    return together


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
