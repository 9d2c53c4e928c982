"""Anti-aliases a whole model, in place (Zhang, ICML 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from .._geometry import DTYPES, Geometry, PaddingMode
from .dataflow import flows_of, is_plain_sequential, parent_of
from .filtered_pool import FilteredPool
from .models import check_model
from .recipes import recipe_for
from .recognise import blurs
from .report import Report
from .sites import SITE_KINDS, Blur, Change, Options, Planner, SiteKind, strided_layers

__all__ = ["AntialiasReport", "AntialiasRow", "antialias_"]


@dataclass(frozen=True)
class AntialiasRow:
    """One strided layer of the model.

    Attributes:
        site: path of the layer before the change.
        kind: ``"max"``, ``"conv"`` or ``"avg"``.
        change: what changed, or None.
        blur: path of its blur in the changed model, or None.
        reason: why the layer was left alone, or None.
    """

    site: str
    kind: str
    change: str | None = None
    blur: str | None = None
    reason: str | None = None

    @property
    def outcome(self) -> str | None:
        """What changed, or None."""
        return self.change


@dataclass(frozen=True)
class AntialiasReport(Report[AntialiasRow]):
    """The result of :func:`antialias_`; ``str()`` gives a readable report.

    Attributes:
        rows: one per strided layer, in the order of ``named_modules``.
        recipe: the published models whose exceptions apply, for example ``"resnet"``, or
            ``"general"``.
        renamed: maps each old state-dict key that changed to its new key.
    """

    rows: tuple[AntialiasRow, ...]
    recipe: str
    renamed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.rows:
            return "nothing changed: the model has no strided layer"
        summary = f"{len(self.changed)} of {len(self.rows)} strided layers anti-aliased"
        lines = [
            f"{summary} ({self.recipe} recipe)" if self.changed else f"nothing changed: {summary}"
        ]
        wide = max(len(row.site) for row in self.rows)
        for row in self.rows:
            what = f"{row.change}; blur: {row.blur}" if row.change else f"left: {row.reason}"
            lines.append(f"{row.kind:<5} {row.site or '(model)':<{wide}}  {what}")
        if self.renamed:
            lines.append(f"{len(self.renamed)} keys of the state dict have new names: see .renamed")
        return "\n".join(lines)


def antialias_(
    model: nn.Module,
    filter_size: int = 4,
    *,
    padding_mode: PaddingMode = "reflect",
    sites: Iterable[SiteKind] = SITE_KINDS,
    blur_first: bool = False,
    min_channels: int = 1,
    keep_pool: bool = False,
    stem: bool | None = None,
) -> AntialiasReport:
    """Anti-aliases an ordinary CNN (Zhang 2019, section 3.2), in place.

    ======================================  =====================================================
    ``MaxPool2d(k, s)``                     ``MaxPool2d(k, 1)``, blur of stride s
    ``Conv2d(stride=s)``, norm, activation  ``Conv2d(stride=1)``, norm, activation, blur of
                                            stride s
    ``Conv2d(1, stride=s)`` of a shortcut,  blur of stride s, ``Conv2d(1)``
    without activation
    ``AvgPool2d(s)``                        blur of stride s
    ======================================  =====================================================

    The blurs are :meth:`FilteredPool.zhang`, on the device and in the dtype of the weights next to
    them. ``torch.fx`` traces of a copy without data show the data flow. A strided layer is left
    alone, with a reason in the report, if the traces do not show where its blur belongs.
    torchvision models of the families in the ``antialiased_cnns`` package get that package's
    state-dict keys and results; see ``docs/antialias.md``.

    All parameters stay the same objects, so existing optimisers stay valid, and hooks stay on their
    modules. A model that already contains a blur, of fastblur or another package, does not change.

    Sizes: convolutions and max pooling keep their output sizes, except that a ResNet's stem pooling
    becomes 2x2 (an odd map of size n then gives (n - 1) / 2, not (n + 1) / 2). An average pool over
    windows of s, which gave floor(n / s), becomes a blur, which gives ceil(n / s).

    Args:
        model: the model, changed in place.
        filter_size: number of binomial taps, 1 to 31. An axis with stride 1 is not blurred.
        padding_mode: padding of the blurs: "reflect", "replicate", "zeros" or "circular".
            Reflection needs maps larger than its padding, ``filter_size // 2``.
        sites: which layers to change: a set of "max", "conv" and "avg".
        blur_first: for convolutions, Composer's cheaper order instead of Zhang's. The
            convolution's *input* is blurred with stride 1, and the convolution keeps its stride,
            with or without an activation behind it. Maps do not grow. The blur low-passes the
            signal before the convolution; what its nonlinearity creates still aliases. A 1x1
            convolution gets a blur of stride s in front, which is equal and cheaper.
        min_channels: convolutions with fewer input channels are left alone.
        keep_pool: keep a ResNet's 3x3 stem pooling, which the published models make 2x2.
        stem: whether to change the model's first convolution. None follows the published models
            (``pool_only``): yes in AlexNet, no elsewhere.

    Returns:
        What changed, what did not, and why.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a value is not allowed. The model is unchanged then.

    Example:
        >>> from torch import nn
        >>> from fastblur import antialias_
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2), nn.ReLU()
        ... )
        >>> print(antialias_(net, filter_size=3))
        2 of 2 strided layers anti-aliased (general recipe)
        max   2  MaxPool2d(2, stride 2) -> MaxPool2d(2, stride 1); blur: 3
        conv  3  stride 2 -> 1; blur: 6
        2 keys of the state dict have new names: see .renamed
    """
    options = _checked(
        model, filter_size, padding_mode, sites, blur_first, min_channels, keep_pool, stem
    )
    layers = strided_layers(model)
    blurred = [path or "the model" for path, module in model.named_modules() if blurs(module)]
    if blurred:
        reason = f"the model is anti-aliased already: {blurred[0]}"
        return AntialiasReport(
            tuple(AntialiasRow(path, kind, reason=reason) for path, kind, _ in layers), "general"
        )
    recipe = recipe_for(model)
    flows = flows_of(model)
    planner = Planner(model, flows, recipe, options)
    plans = [planner.plan(*layer) for layer in layers]
    changes = [plan for plan in plans if isinstance(plan, Change)]
    pools = {change.site: _make_blur(model, change.blur, options) for change in changes}
    texts = {change.site: _describe(model, change) for change in changes}
    before = _keys(model)
    whole = set.union(*(flow.whole for flow in flows))

    _apply(model, changes, pools, whole)
    if changes:
        recipe.take_published_keys(model)

    where = {module: path for path, module in model.named_modules()}
    after = _keys(model)
    rows = [
        AntialiasRow(plan.site, plan.kind, texts[plan.site], where[pools[plan.site]])
        if isinstance(plan, Change)
        else AntialiasRow(plan.site, plan.kind, reason=plan.reason)
        for plan in [*plans, *planner.function_calls()]
    ]
    renamed = {
        old: new
        for tensor, names in before.items()
        for old, new in zip(names, after[tensor], strict=True)
        if old != new
    }
    return AntialiasReport(tuple(rows), "+".join(recipe.names) or "general", renamed)


def _checked(
    model: Any,
    filter_size: Any,
    padding_mode: Any,
    sites: Any,
    blur_first: Any,
    min_channels: Any,
    keep_pool: Any,
    stem: Any,
) -> Options:
    check_model(model)
    if isinstance(filter_size, bool) or not isinstance(filter_size, int):
        raise TypeError(f"filter_size must be an int, got {filter_size!r}")
    Geometry.resolve(1, 2, 0, filter_size, padding_mode=padding_mode)
    if isinstance(sites, str) or not isinstance(sites, Iterable):
        raise TypeError(f"sites must be a set of {', '.join(map(repr, SITE_KINDS))}, got {sites!r}")
    chosen = frozenset(sites)
    if not chosen or not chosen <= set(get_args(SiteKind)):
        raise ValueError(
            f"sites must be one or more of {', '.join(map(repr, SITE_KINDS))}, got "
            f"{sorted(map(str, chosen))}"
        )
    for name, flag in (("blur_first", blur_first), ("keep_pool", keep_pool)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")
    if not (stem is None or isinstance(stem, bool)):
        raise TypeError(f"stem must be True, False or None, got {stem!r}")
    if isinstance(min_channels, bool) or not isinstance(min_channels, int):
        raise TypeError(f"min_channels must be an int, got {min_channels!r}")
    if min_channels < 1:
        raise ValueError(f"min_channels must be 1 or more, got {min_channels}")
    return Options(filter_size, padding_mode, chosen, blur_first, min_channels, keep_pool, stem)


def _make_blur(model: nn.Module, blur: Blur, options: Options) -> FilteredPool:
    like = model if blur.like is None else model.get_submodule(blur.like)
    weight = _first_weight(like)
    with torch.device("cpu" if weight is None else weight.device):
        pool = FilteredPool.zhang(
            blur.channels, blur.filter_size, blur.stride, options.padding_mode
        )
    return pool if weight is None else pool.to(weight.dtype)


def _first_weight(module: nn.Module) -> Tensor | None:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype in DTYPES:
            return tensor
    return None


def _describe(model: nn.Module, change: Change) -> str:
    module: Any = model.get_submodule(change.site)
    if change.pool is not None:
        kernel, padding, _ = change.pool
        old = f"MaxPool2d({module.kernel_size}, stride {module.stride}{_padded(module.padding)})"
        return f"{old} -> MaxPool2d({kernel}, stride 1{_padded(padding)})"
    if change.kind == "avg":
        return f"AvgPool2d({module.kernel_size}, stride {module.stride}) -> blur"
    if change.stride is None:
        return f"stride {_short(module.stride)} kept, input blurred"
    return f"stride {_short(module.stride)} -> {_short(change.stride)}"


def _padded(padding: Any) -> str:
    return f", padding {padding}" if padding not in (0, (0, 0)) else ""


def _short(pair: tuple[int, ...]) -> str:
    return str(pair[0]) if len(set(pair)) == 1 else str(pair)


def _keys(model: nn.Module) -> dict[int, list[str]]:
    """Keys of the state dict, by the identity of the tensor."""
    keys: dict[int, list[str]] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            keys.setdefault(id(tensor), []).append(key)
    return keys


@dataclass
class _Slot:
    """What takes the place of one module: in front of it, itself or another, and after it."""

    before: list[nn.Module] = field(default_factory=list)
    core: list[nn.Module] | None = None
    after: list[nn.Module] = field(default_factory=list)


def _apply(
    model: nn.Module, changes: list[Change], blurs: dict[str, FilteredPool], whole: set[str]
) -> None:
    slots: dict[str, _Slot] = {}
    for change in changes:
        slot, blur = slots.setdefault(change.slot, _Slot()), blurs[change.site]
        if change.where == "instead":
            pool = change.pool
            first = [nn.MaxPool2d(pool[0], 1, pool[1], pool[2])] if pool is not None else []
            slot.core = [*first, blur]
        elif change.where == "after":
            slot.after.append(blur)
        elif change.slot == change.site:
            slot.before.append(blur)
        else:
            # It belongs to what comes before, and so comes before the slot's own.
            slot.before.insert(0, blur)
        if change.stride is not None:
            conv: Any = model.get_submodule(change.site)
            conv.stride = change.stride
    parents: dict[str, dict[str, _Slot]] = {}
    for path, slot in slots.items():
        parents.setdefault(parent_of(path), {})[path.rpartition(".")[2]] = slot
    # Innermost first: the paths of the outer ones stay valid.
    for path in sorted(parents, key=lambda path: -path.count(".") - bool(path)):
        parent = model.get_submodule(path)
        if path in whole and is_plain_sequential(parent):
            _insert(parent, parents[path])
        else:
            for name, slot in parents[path].items():
                modules = _modules(parent, name, slot)
                new = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
                setattr(parent, name, new.train(parent.training))


def _modules(parent: nn.Module, name: str, slot: _Slot) -> list[nn.Module]:
    old: Any = parent._modules[name]
    new = [*slot.before, *(slot.core or ()), *slot.after]
    for module in new:
        module.train(parent.training)
    return new if slot.core is not None else [*slot.before, old, *slot.after]


def _insert(parent: nn.Module, slots: dict[str, _Slot]) -> None:
    """Puts the slots' modules among the children of a Sequential, numbered or named anew."""
    children: list[tuple[str, nn.Module]] = []
    taken = set(parent._modules)
    numbered = list(parent._modules) == [str(i) for i in range(len(parent._modules))]
    for name, child in parent._modules.items():
        if name not in slots:
            children.append((name, child))  # type: ignore[arg-type]
            continue
        slot = slots[name]
        modules = _modules(parent, name, slot)
        keeper = modules[-1 - len(slot.after)] if slot.core is not None else child
        for module in modules:
            new = name if module is keeper else _free(_name_beside(name, module), taken)
            taken.add(new)
            children.append((new, module))
    parent._modules.clear()
    for position, (name, child) in enumerate(children):
        parent.add_module(str(position) if numbered else name, child)


def _name_beside(name: str, module: nn.Module) -> str:
    """As the published models name what they add: max0 in front of pool0, ds0 after relu0."""
    stem = name.rstrip("0123456789")
    if isinstance(module, nn.MaxPool2d):
        return name.replace("pool", "max") if "pool" in name else f"{name}_max"
    return f"ds{name[len(stem) :]}" if stem != name else f"{name}_blur"


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
