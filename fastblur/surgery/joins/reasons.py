"""Words the reasons why a ReLU or a max in front of a blur does not join it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from ..flow.dataflow import Flow
from ..recognition.known import Layer
from .calls import hooks_of_all_modules, is_unwatched
from .joining import Max, with_front

_UNPROVEN = (
    "nothing proves that only this layer reads its result (call the two in consecutive lines of a "
    "method, or from one nn.Sequential)"
)
_IN_PLACE = (
    "it overwrites its input, and nothing proves that nobody else reads that (let a convolution or "
    "a norm make it, in the line before)"
)


def why_not_joined(
    path: str, layer: Layer, joined: Sequence[nn.Module], flows: Sequence[Flow], relu: bool
) -> str:
    """Why what a trace shows in front of the layer at ``path`` has not joined it; or nothing."""
    if hooks_of_all_modules():
        return "nothing joins while there are hooks of all modules"
    if not joined and not any(flow.calls.get(path) for flow in flows):
        return "no trace shows what is in front of it"
    found: dict[str, None] = {}
    for flow in flows:
        for call in flow.calls.get(path, ()):
            found |= dict.fromkeys(_why_not(flow, call, layer, joined, relu))
    return "; ".join(found)


def _why_not(
    flow: Flow, call: fx.Node, layer: Layer, joined: Sequence[nn.Module], relu: bool
) -> list[str]:
    reasons = []
    for wanted in ((nn.MaxPool2d, nn.MaxPool1d), (nn.ReLU,)):
        source = _source(flow, call)
        module = None if source is None else flow.module(source)
        if source is None or module is None or not isinstance(module, wanted):
            continue
        if any(module is one for one in joined):
            call = source
            continue
        is_relu = isinstance(module, nn.ReLU)
        if (is_relu and not relu) or not layer.takes(is_relu):
            continue
        used = len(flow.users(source)) > 1
        reason = "its result is used elsewhere too" if used else _reason(module, layer)
        reasons.append(f"without the {type(module).__name__} at {flow.path(source)}: {reason}")
    return reasons


def _reason(module: nn.Module, layer: Layer) -> str:
    kind = type(module)
    if kind not in (nn.ReLU, nn.MaxPool2d, nn.MaxPool1d):
        return f"it is a subclass, {kind.__name__}"
    if "forward" in vars(module):
        return "its forward has been replaced"
    if not is_unwatched(module):
        return "it has hooks"
    max_: Max | None = module if isinstance(module, (nn.MaxPool2d, nn.MaxPool1d)) else None
    geometry, reason = with_front(layer.geometry, None, max_)
    if geometry is None:
        return reason
    return _IN_PLACE if getattr(module, "inplace", False) else _UNPROVEN


def _source(flow: Flow, node: fx.Node) -> fx.Node | None:
    """The node whose result a call gets, through identities; None if it gets more than one."""
    while True:
        if len(node.all_input_nodes) != 1:
            return None
        (node,) = node.all_input_nodes
        if type(flow.module(node)) is not nn.Identity:
            return node
