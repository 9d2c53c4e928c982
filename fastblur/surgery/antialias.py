"""Anti-aliases a whole model, in place (Zhang, ICML 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from .._geometry import DTYPES, Geometry, PaddingMode, Taps, binomial_taps, tap_row
from .._geometry.filters import Row
from ..functional import resolve_1d
from ..modules3d import FusedBlurPool3d, FusedMaxBlurPool3d
from .checking import Run, check_example
from .filtered_pool import FilteredPool
from .flow.dataflow import Flow, flows_of
from .fuse import unfuse_
from .models import all_or_nothing, check_model, check_module
from .placement.confirming import same_calls
from .placement.placing import place, placed_in, take_out
from .placement.plans import SITE_KINDS, Blur, Change, Left, Options, SiteKind
from .placement.recipes import Recipe, recipe_for
from .placement.sites import Planner, strided_layers
from .recognition.recognise import blurs
from .report import Report, UnantialiasReport

__all__ = ["AntialiasReport", "AntialiasRow", "antialias_", "unantialias_"]

_DEPENDS = "what the model calls depends on the class or an attribute of a module that would change"


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
    filter_size: int | None = None,
    *,
    padding_mode: PaddingMode = "reflect",
    sites: Iterable[SiteKind] = SITE_KINDS,
    blur_first: bool = False,
    min_channels: int = 1,
    keep_pool: bool = False,
    stem: bool | None = None,
    taps: Taps | None = None,
    example: Tensor | tuple[Any, ...] | None = None,
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

    So are layers of one and three dimensions; in 3-D one :class:`fastblur.FusedMaxBlurPool3d` is
    the max and its blur. The blurs are :meth:`FilteredPool.zhang`, on the device and in the dtype
    of the weights next to them; in 3-D they are :class:`fastblur.FusedBlurPool3d`.

    ``torch.fx`` traces of a copy without data show the data flow. A strided layer is left alone,
    with a reason in the report, if the traces do not show where its blur belongs. torchvision
    models of the families in the ``antialiased_cnns`` package get that package's state-dict keys
    and results; see ``docs/antialias.md``.

    All parameters stay the same objects, so existing optimisers stay valid, and hooks stay on their
    modules. A model that already contains a blur, of fastblur or another package, does not change.

    Sizes stay what they were, but where a ResNet's stem pooling becomes 2x2 (an odd map of size n
    then gives (n - 1) / 2, not (n + 1) / 2), and in DenseNet's averages (ceil(n / 2), not
    floor(n / 2)), as in the published models.

    Args:
        model: the model, changed in place.
        filter_size: number of binomial taps, 1 to 31. Default 4. An axis with stride 1 is not
            blurred.
        padding_mode: padding of the blurs: "reflect", "replicate", "zeros" or "circular".
            Reflection needs maps larger than its padding, ``filter_size // 2``.
        sites: which layers to change: a set of "max", "conv" and "avg".
        blur_first: for convolutions, Composer's cheaper order instead of Zhang's. The
            convolution's *input* is blurred with stride 1, and the convolution keeps its stride,
            with or without an activation behind it. Maps do not grow. The blur low-passes the
            signal before the convolution; what its nonlinearity creates still aliases. A 1x1
            convolution gets a blur of stride s in front, which is equal and cheaper.
        min_channels: convolutions with fewer input channels are left alone.
        keep_pool: keeps a ResNet's 3x3 stem pooling, which the published models make 2x2.
        stem: whether the model's first convolution is changed too. None does as the published
            models do (``pool_only``): in AlexNet yes, elsewhere no.
        taps: the filter itself, instead of ``filter_size``: one row of 1 to 31 numbers, or a name
            of ``docs/filters.md``.
        example: an input of the model, or a tuple of its arguments, on which it runs before and
            after: unless the shapes stay and the results are finite, all is put back. The modes,
            random numbers and buffers are those of before.

    Returns:
        What changed, what did not, and why.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: it is of the right kind and not allowed.
        RuntimeError: the changed model fails on ``example``, or gives another shape.

    Whatever is raised, the model is as it was. :func:`unantialias_` is the way back.

    Example:
        >>> from torch import nn
        >>> from fastblur import antialias_
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2), nn.ReLU()
        ... )
        >>> print(antialias_(net, filter_size=3))
        2 of 2 strided layers anti-aliased (general recipe)
        max   2  MaxPool2d(2, stride 2) -> MaxPool2d(2, stride 1); blur: 2.1
        conv  3  stride 2 -> 1; blur: 4.1
    """
    check_example(example)
    options = _checked(
        model, filter_size, padding_mode, sites, blur_first, min_channels, keep_pool, stem, taps
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
    plans = _confirmed_plans(model, flows, planner, layers)
    changes = [plan for plan in plans if isinstance(plan, Change)]
    before = None if example is None or not changes else Run.of(model, example)
    with all_or_nothing(model):
        report = _carry_out(model, planner, plans, changes)
        if before is not None:
            before.check(model, example, "anti-aliased", same_numbers=False)
    return report


def _confirmed_plans(
    model: nn.Module,
    flows: list[Flow],
    planner: Planner,
    layers: list[tuple[str, SiteKind, nn.Module]],
) -> list[Change | Left]:
    """What becomes of each layer, without what would make the model's own code do other calls."""

    def same(*changes: Change) -> bool:
        return same_calls(
            model,
            flows,
            changes,
            lambda net: _make_blurs(net, changes, planner.options),
            planner.inserts,
        )

    plans = [planner.plan(*layer) for layer in layers]
    changes = [plan for plan in plans if isinstance(plan, Change)]
    if same(*changes):
        return plans
    # Each by itself, and if that does not tell, all.
    wrong = [change for change in changes if not same(change)]
    for refused in (wrong, changes):
        planner.refused |= dict.fromkeys([change.site for change in refused], _DEPENDS)
        plans = [planner.plan(*layer) for layer in layers]
        if same(*(plan for plan in plans if isinstance(plan, Change))):
            break
    return plans


def _carry_out(
    model: nn.Module, planner: Planner, plans: list[Change | Left], changes: list[Change]
) -> AntialiasReport:
    recipe = planner.recipe
    pools = _make_blurs(model, changes, planner.options)
    texts = {change.site: _describe(model, change) for change in changes}
    calls = planner.function_calls()
    before = _keys(model)
    place(model, changes, pools, planner.inserts)
    if changes:
        recipe.take_published_keys(model)
    where = {module: path for path, module in model.named_modules()}
    rows = [
        AntialiasRow(plan.site, plan.kind, texts[plan.site], where[pools[plan.site]])
        if isinstance(plan, Change)
        else AntialiasRow(plan.site, plan.kind, reason=plan.reason)
        for plan in [*plans, *calls]
    ]
    renamed = renamed_keys(before, _keys(model))
    return AntialiasReport(tuple(rows), "+".join(recipe.names) or "general", renamed)


def unantialias_(model: nn.Module) -> UnantialiasReport:
    """Takes out what :func:`antialias_` put in: modules, keys and outputs are those of before.

    Fused layers are taken out first, as by :func:`fastblur.unfuse_`. Weights stay what they are.

    Args:
        model: that was anti-aliased, or a copy or a part of it.

    Returns:
        What was taken out; ``print`` it.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it is a part that ``antialias_`` made, or hooks were set on one. Nothing was
            changed then.
    """
    check_module(model)
    with all_or_nothing(model):
        unfuse_(model)
        before, made = _keys(model), placed_in(model)
        take_out(model)
        Recipe.forget_published_keys(model)
        return UnantialiasReport(tuple(made), renamed_keys(before, _keys(model)))


def _checked(
    model: Any,
    filter_size: Any,
    padding_mode: Any,
    sites: Any,
    blur_first: Any,
    min_channels: Any,
    keep_pool: Any,
    stem: Any,
    taps: Any,
) -> Options:
    check_model(model)
    if filter_size is not None and (
        isinstance(filter_size, bool) or not isinstance(filter_size, int)
    ):
        raise TypeError(f"filter_size must be an int, got {filter_size!r}")
    row = taps if taps is None else tap_row("taps", taps)
    row = Geometry.resolve(1, 2, 0, filter_size, row, padding_mode=padding_mode).taps_h
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
    return Options(row, padding_mode, chosen, blur_first, min_channels, keep_pool, stem)


def _make_blurs(
    model: nn.Module, changes: Iterable[Change], options: Options
) -> dict[str, nn.Module]:
    return {change.site: _make_blur(model, change.blur, options) for change in changes}


def _make_blur(model: nn.Module, blur: Blur, options: Options) -> nn.Module:
    rows = tuple(options.taps if size > 1 else (1.0,) for size in blur.filter_size)
    if len(blur.stride) == 3:
        how: dict[str, Any] = dict(blur_padding=blur.padding, padding_mode=options.padding_mode)
        binomial = options.taps == binomial_taps(options.filter_size)
        how |= dict(filter_size=blur.filter_size) if binomial else dict(taps=rows)
        if blur.pool is None:
            return FusedBlurPool3d(stride=blur.stride, **how)
        kernel_size, padding = blur.pool
        return FusedMaxBlurPool3d(kernel_size, blur.stride, padding, **how)
    like = model if blur.like is None else model.get_submodule(blur.like)
    tensors = (*like.parameters(), *like.buffers())
    weight = next((tensor for tensor in tensors if tensor.dtype in DTYPES), None)
    with torch.device("cpu" if weight is None else weight.device):
        if len(blur.stride) == 1:
            pool = _blur_1d(blur, options, rows[0])
        else:
            pool = FilteredPool.zhang(
                blur.channels,
                None,
                blur.stride,
                options.padding_mode,
                blur_padding=blur.padding,
                taps=rows,
            )
    return pool if weight is None else pool.to(weight.dtype)


def _blur_1d(blur: Blur, options: Options, row: Row) -> FilteredPool:
    (stride,) = blur.stride
    geometry = resolve_1d(1, stride, 0, None, row, blur.padding, options.padding_mode, False)
    return FilteredPool(geometry, torch.tensor(geometry.taps_w).repeat(blur.channels, 1, 1))


def _describe(model: nn.Module, change: Change) -> str:
    module: Any = model.get_submodule(change.site)
    new = change.attributes
    if change.kind == "max":
        kernel, padding = (new.get(n, getattr(module, n)) for n in ("kernel_size", "padding"))
        ceil = ", ceil_mode" if module.ceil_mode else ""
        old = f"{module.kernel_size}, stride {module.stride}{_padded(module.padding)}{ceil}"
        name = f"{change.kind.title()}Pool{len(change.blur.stride)}d"
        if change.blur.pool is not None:
            return f"{name}({old}) -> FusedMaxBlurPool3d"
        return f"{name}({old}) -> {name}({kernel}, stride 1{_padded(padding)})"
    if change.kind == "avg":
        name = f"AvgPool{len(change.blur.stride)}d"
        return f"{name}({module.kernel_size}, stride {module.stride}) -> blur"
    if not new:
        return f"stride {_short(module.stride)} kept, input blurred"
    return f"stride {_short(module.stride)} -> {_short(new['stride'])}"


def _padded(padding: Any) -> str:
    return f", padding {padding}" if padding not in (0, (0, 0), (0, 0, 0)) else ""


def _short(pair: tuple[int, ...]) -> str:
    return str(pair[0]) if len(set(pair)) == 1 else str(pair)


def renamed_keys(before: dict[int, list[str]], after: dict[int, list[str]]) -> dict[str, str]:
    """For each key of before that has another name now, the new one."""
    return {
        old: new
        for tensor, names in before.items()
        for old, new in zip(names, after.get(tensor, names), strict=False)
        if old != new
    }


def _keys(model: nn.Module) -> dict[int, list[str]]:
    """Keys of the state dict, by the identity of the tensor."""
    keys: dict[int, list[str]] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            keys.setdefault(id(tensor), []).append(key)
    return keys
