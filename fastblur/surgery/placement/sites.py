"""Decides for each strided layer: a change, or a reason to leave it. Changes nothing itself."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from torch import fx, nn
from torch.nn.parameter import is_lazy

from ..._geometry import MAX_POOL, BlurPadding
from ..flow.dataflow import (
    AVERAGE_POOLS,
    CONVS,
    MAX_POOLS,
    Flow,
    calls_as_conv,
    is_plain_sequential,
    parent_of,
)
from ..joins.calls import has_call_hooks
from ..recognition.recognise import blurs
from .plans import Blur, Change, Left, Options, SiteKind, Where
from .recipes import Recipe

_KINDS: dict[SiteKind, tuple[type[nn.Module], ...]] = {
    "max": MAX_POOLS,
    "conv": CONVS,
    "avg": AVERAGE_POOLS,
}
Sizes = tuple[int, ...]
_UNSEEN = "no trace shows where its result goes"


class _Leave(Exception):
    """The reason to leave a site alone."""


def strided_layers(model: nn.Module) -> list[tuple[str, SiteKind, nn.Module]]:
    """The layers of the model that subsample."""
    found: list[tuple[str, SiteKind, nn.Module]] = []
    for path, module in model.named_modules():
        kinds = [kind for kind, types in _KINDS.items() if isinstance(module, types)]
        if kinds and not blurs(module) and max(_stride(module)) > 1:
            found.append((path, kinds[0], module))
    return found


class Planner:
    """Decides for each strided layer by itself; what no trace tells is left alone.

    Attributes:
        refused: reasons, by the path of the strided layer, to leave what else would be changed.
        inserts: paths of the Sequentials among whose children blurs are inserted.
    """

    def __init__(
        self, model: nn.Module, flows: list[Flow], recipe: Recipe, options: Options
    ) -> None:
        self.flows = flows
        self.recipe = recipe
        self.options = options
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.stems = {path for flow in flows for path in flow.stems}
        self.refused: dict[str, str] = {}
        self.inserts = {path for path in recipe.inserts if self._is_called_whole(path)}
        self._names: dict[nn.Module, list[str]] = {}
        for path, module in self.modules.items():
            self._names.setdefault(module, []).append(path)

    def plan(self, path: str, kind: SiteKind, module: nn.Module) -> Change | Left:
        """Of one strided layer."""
        try:
            if kind not in self.options.sites:
                raise _Leave(f"{kind!r} is not among the sites asked for")
            if path in self.refused:
                raise _Leave(self.refused[path])
            if not path:
                raise _Leave("it is the model itself, which cannot be replaced in place")
            if any(map(is_lazy, module.parameters())):
                raise _Leave("its parameters are not initialised yet")
            self._check_alone(path)
            decide = {"max": self._max, "avg": self._avg, "conv": self._conv}[kind]
            return decide(path, module)
        except _Leave as reason:
            return Left(path, kind, str(reason))

    def function_calls(self) -> list[Left]:
        """Pooling functions, which cannot be replaced, called with a stride."""
        found: dict[str, Left] = {}
        for flow in self.flows:
            for inside, name, node in flow.function_calls():
                window = node.kwargs.get("kernel_size", (*node.args[1:], 1)[0])
                stride = node.kwargs.get("stride", (*node.args[2:], None)[0]) or window
                if _may_be_more_than_one(stride):
                    site = f"{inside}: {name}()" if inside else f"{name}()"
                    reason = "a call of a function, where no module can be put"
                    found[site] = Left(site, "max" if name.startswith("max") else "avg", reason)
        return list(found.values())

    # -- max and average pooling ------------------------------------------------------------

    def _max(self, path: str, pool: Any) -> Change:
        if all(type(pool).forward is not kind.forward for kind in MAX_POOLS):
            raise _Leave(f"{type(pool).__name__} has a forward of its own")
        if pool.return_indices:
            raise _Leave("return_indices=True: a blurred maximum has no index")
        attributes: dict[str, Any] = {"stride": 1}
        padding: BlurPadding = "same"
        if pool.ceil_mode:
            attributes["ceil_mode"] = False
            padding = self._padding_of_ceil(pool)
        elif path in self.recipe.pools and not self.options.keep_pool:
            attributes["kernel_size"], attributes["padding"] = self.recipe.pools[path]
        channels, like = self._channels_at(path)
        blur = self._blur(channels, _stride(pool), like, padding)
        if isinstance(pool, nn.MaxPool3d):
            # One layer does both: fuse_ joins a max in one and two dimensions only.
            n = len(blur.stride)
            kernel = _sizes(pool.kernel_size, n)
            if max(_sizes(pool.dilation, n)) == 1 and max(kernel) <= MAX_POOL:
                blur = replace(blur, pool=(kernel, _sizes(pool.padding, n)))
                return Change(path, "max", path, "instead", blur)
        return Change(path, "max", path, "after", blur, attributes)

    def _padding_of_ceil(self, pool: Any) -> BlurPadding:
        """With which a blur has as many results as the max, its last window cut off included."""
        n = len(_stride(pool))
        kernel, padding, dilation = (
            _sizes(value, n) for value in (pool.kernel_size, pool.padding, pool.dilation)
        )
        sides: list[int] = []
        for k, s, p, d in zip(kernel, _stride(pool), padding, dilation, strict=True):
            if s > d * (k - 1) + 1 - p:
                # PyTorch drops a window that begins in the padding, at some sizes of the map.
                raise _Leave("ceil_mode=True: its stride is more than its window without padding")
            size = _size(self.options.filter_size, s)
            sides += _sides(size + s - 2 if s > 1 else 0, (size - 1) // 2)
        return sides

    def _avg(self, path: str, pool: Any) -> Change:
        if all(type(pool).forward is not kind.forward for kind in AVERAGE_POOLS):
            raise _Leave(f"{type(pool).__name__} has a forward of its own")
        if getattr(pool, "divisor_override", None) is not None:
            raise _Leave(f"divisor_override={pool.divisor_override}: it is no mean")
        stride = _stride(pool)
        kernel, padding = (_sizes(v, len(stride)) for v in (pool.kernel_size, pool.padding))
        if max(stride) > max(self.options.filter_size, 2):
            raise _Leave(
                f"its stride of {max(stride)} is more than the {self.options.filter_size} taps"
            )
        sides = self._padding_of_average(path, kernel, stride, padding, pool.ceil_mode)
        if not any(flow.calls.get(path) for flow in self.flows):
            raise _Leave(_UNSEEN)
        for flow in self.flows:
            for node in flow.calls.get(path, ()):
                if flow.is_flattened(node):
                    raise _Leave("its result is flattened, as that of a global pooling is")
        channels, like = self._channels_at(path)
        return Change(path, "avg", path, "instead", self._blur(channels, stride, like, sides))

    def _padding_of_average(
        self, path: str, kernel: Sizes, stride: Sizes, padding: Sizes, ceil_mode: bool
    ) -> BlurPadding:
        """With which a blur has as many results as the average."""
        if path in self.recipe.averages:
            return "same"
        axes = list(zip(kernel, stride, padding, strict=True))
        if ceil_mode and any(k != s or p for k, s, p in axes):
            raise _Leave("ceil_mode=True: its last window is cut off")
        sides: list[int] = []
        for k, s, p in axes:
            size = _size(self.options.filter_size, s)
            both = size - 1 if ceil_mode else size - k + 2 * p
            if both < 0:
                raise _Leave(f"a window of {k} with padding {p} is wider than {size} taps")
            # The middle of the taps is that of the window, or half a pixel off as Zhang's.
            twice = 2 * p + size - k
            sides += _sides(both, max(twice // 2, min((size - 1) // 2, (twice + 1) // 2)))
        return sides

    def _channels_at(self, path: str) -> tuple[int | None, str | None]:
        """Of the input of a module; None if calls differ, or it is not known."""
        calls = [(flow, node) for flow in self.flows for node in flow.calls.get(path, ())]
        inputs = [(flow, node.all_input_nodes) for flow, node in calls]
        found = [flow.channels(nodes[0]) for flow, nodes in inputs if nodes]
        if not found:
            return None, None
        same = all(count == found[0][0] for count, _ in found)
        return (found[0][0] if same else None), found[0][1]

    # -- convolutions -----------------------------------------------------------------------

    def _conv(self, path: str, conv: Any) -> Change:
        options = self.options
        stem = (path in self.recipe.stems) if options.stem is None else options.stem
        if path in self.stems and not stem:
            raise _Leave("the first convolution: stem=True changes it")
        if conv.in_channels < options.min_channels:
            raise _Leave(
                f"its {conv.in_channels} input channels are fewer than "
                f"min_channels={options.min_channels}"
            )
        pointwise = _is_pointwise(conv)
        if options.blur_first and not pointwise:
            channels = conv.in_channels if calls_as_conv(conv) else None
            blur = self._blur(channels, _stride(conv), path)
            return Change(path, "conv", path, "before", replace(blur, stride=_ones(conv)))
        if not calls_as_conv(conv):
            raise _Leave(f"{type(conv).__name__} has a forward of its own")
        if options.blur_first:
            return self._blurred_before(path, conv)
        changes = []
        for flow in self.flows:
            calls = flow.calls.get(path, [])
            if len(calls) > 1:
                raise _Leave(f"it is called {len(calls)} times")
            if calls:
                changes.append(self._conv_in(flow, calls[0], path, conv, pointwise))
        if not changes:
            raise _Leave(_UNSEEN)
        if any(change != changes[0] for change in changes):
            raise _Leave("its result goes another way in train mode than in eval mode")
        return changes[0]

    def _conv_in(self, flow: Flow, node: fx.Node, path: str, conv: Any, pointwise: bool) -> Change:
        try:
            result = _activation_after(flow, node)
        except _Leave:
            if not pointwise:
                raise
            for other in flow.summed_with(node):
                conv_there: Any = self.modules[other]
                if max(_stride(conv_there)) > 1 and not _is_pointwise(conv_there):
                    reason = f"its result is summed with that of {other}, which is left"
                    raise _Leave(reason) from None
            return self._blurred_before(path, conv)
        kept = self.recipe.strides.get(path, 1)
        stride = tuple(min(kept, s) for s in _stride(conv))
        left = tuple(s // own for s, own in zip(_stride(conv), stride, strict=True))
        blur = self._blur(conv.out_channels, left, path)
        slot, where = self._place(flow, result)
        return Change(path, "conv", slot, where, blur, {"stride": stride})

    def _blurred_before(self, path: str, conv: Any) -> Change:
        # A convolution of single pixels commutes with subsampling and with the blur.
        blur = self._blur(conv.in_channels, _stride(conv), path)
        return Change(path, "conv", path, "before", blur, {"stride": _ones(conv)})

    def _place(self, flow: Flow, result: fx.Node) -> tuple[str, Where]:
        """Next to which module a blur sees this result, and all who use it see the blur's.

        In turn: where timm keeps a place for it; where the published models have it in a
        Sequential; in front of the pooling that is changed itself; behind the innermost module
        whose one result this is; in front of the one module that uses it.
        """
        users = flow.users(result)
        user = users[0] if len(users) == 1 else None
        following = None if user is None else self._only_call(flow, user)
        if following and self._is_placeholder(following):
            return following, "instead"
        levels = self._levels(flow, result)
        published = [level for level in levels if parent_of(level) in self.inserts]
        if published:
            return published[-1], "after"
        if following and isinstance(self.modules[following], MAX_POOLS):
            pool = self.modules[following]
            if max(_stride(pool)) > 1 and isinstance(self.plan(following, "max", pool), Change):
                return following, "before"
        if levels:
            return levels[0], "after"
        if user and following and self._is_alone(following) and _gets_one_argument(user):
            return following, "before"
        where = f"{flow.describe(result)} and {', '.join(map(flow.describe, users))}"
        raise _Leave(f"there is no place for a blur between {where}")

    def _levels(self, flow: Flow, result: fx.Node) -> list[str]:
        """Paths, from the inside out, of modules that return this result and use it no further."""
        found = []
        for level in flow.result_of(result):
            if not level or any(flow.is_inside(user, level) for user in flow.users(result)):
                break
            once = len(flow.calls.get(level, ())) <= 1 and self._is_alone(level)
            if once and len(inspect.signature(self.modules[level].forward).parameters) == 1:
                found.append(level)
        return found

    def _is_called_whole(self, path: str) -> bool:
        """Whether wherever a trace shows the children of a Sequential called, it is called."""
        whole = all(path in flow.whole for flow in self.flows)
        return whole and is_plain_sequential(self.modules[path])

    def _is_placeholder(self, path: str) -> bool:
        """Whether timm left this place free for such a layer."""
        named = path.rpartition(".")[2] == "aa"
        return named and isinstance(self.modules[path], nn.Identity) and self._is_alone(path)

    def _only_call(self, flow: Flow, node: fx.Node) -> str | None:
        """The module that the node calls, if no other node does."""
        path = flow.path(node)
        return path if path is not None and len(flow.calls[path]) == 1 else None

    # -- modules in general -----------------------------------------------------------------

    def _blur(
        self, channels: int | None, stride: Sizes, like: str | None, padding: BlurPadding = "same"
    ) -> Blur:
        sizes = tuple(_size(self.options.filter_size, s) for s in stride)
        return Blur(channels or 1, sizes, stride, like, padding)

    def _check_alone(self, path: str) -> None:
        module = self.modules[path]
        if len(self._names[module]) > 1:
            raise _Leave(f"it is shared: it is also {_others(self._names[module], path)}")
        outer = parent_of(path)
        while outer:
            names = self._names[self.modules[outer]]
            if len(names) > 1:
                raise _Leave(f"it is in a shared module: {outer} is also {_others(names, outer)}")
            outer = parent_of(outer)
        if has_call_hooks(module):
            raise _Leave("it has hooks, which would see another tensor")

    def _is_alone(self, path: str) -> bool:
        try:
            self._check_alone(path)
        except _Leave:
            return False
        return True


def _activation_after(flow: Flow, node: fx.Node) -> fx.Node:
    """The node of the activation that a convolution's result goes to, and nothing else does."""
    while True:
        users = flow.users(node)
        if len(users) != 1:
            raise _Leave(f"no activation follows: {flow.describe(node)} is used {len(users)} times")
        (user,) = users
        role = flow.role(user) if user.args and user.args[0] is node else ""
        if role == "activation":
            return user
        if not role:
            raise _Leave(f"no activation follows: its result goes to {flow.describe(user)}")
        node = user


def _gets_one_argument(call: fx.Node) -> bool:
    return len(call.args) == len(call.all_input_nodes) == 1 and not call.kwargs


def _is_pointwise(conv: Any) -> bool:
    return max(conv.kernel_size) == 1 and conv.padding in (0, (0,) * len(conv.kernel_size))


def _ones(conv: Any) -> Sizes:
    return (1,) * len(conv.kernel_size)


def _others(names: list[str], path: str) -> str:
    return ", ".join(name for name in names if name != path)


def _size(filter_size: int, stride: int) -> int:
    return filter_size if stride > 1 else 1


def _sides(both: int, before: int) -> tuple[int, int]:
    """Padding in front and behind, of so many in all."""
    before = min(before, both)
    return before, both - before


def _sizes(value: Any, n: int) -> Sizes:
    """One for each of n axes."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * n if len(sizes) == 1 else sizes


def _may_be_more_than_one(value: Any) -> bool:
    """Whether a stride may subsample: it may be read off the map, too."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return any(type(one) is not int or one > 1 for one in values)


def _stride(module: nn.Module) -> Sizes:
    stride: Any = getattr(module, "stride", None)
    kinds = [(n, kind) for types in _KINDS.values() for n, kind in enumerate(types, 1)]
    n = next(n for n, kind in kinds if isinstance(module, kind))
    return _sizes(module.kernel_size if stride is None else stride, n)
