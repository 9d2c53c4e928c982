"""Everything that people use, or could write, for the same layer; and the calls that are timed.

``MAKERS`` makes the layers, ``MODES`` the calls. What is timed, what is weighed and what is checked
is the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import FusedBlurPool, FusedBlurUpsample, FusedMaxBlurPool
from fastblur._backends import compiled

from .workloads import Upsampling, Workload

Layer = Callable[[Tensor], Tensor]
OURS = "fastblur"
TRITON = "fastblur, triton"
UNFUSED = "unfused"
ADOBE = "antialiased_cnns"
TIMM = "timm"
KORNIA = "kornia, zero border"
COMPILED_OURS = "compiled fastblur"
COMPILED = ("compiled unfused", "compiled slices", "compiled max_pool2d + slices")
COMPILED_UNFUSED, COMPILED_SLICES, COMPILED_POOL = COMPILED
TRANSPOSED = "conv_transpose2d"
ZEROS_BETWEEN = "zeros between, conv2d"  # StyleGAN's upfirdn2d, by its definition
BILINEAR = "interpolate, bilinear"
UPSAMPLERS = (TRANSPOSED, ZEROS_BETWEEN, BILINEAR)
ONE_OPERATOR = "one max_pool2d"  # not a rival: what any single operator of torch costs


class Unavailable(Exception):
    """Why somebody's layer is not in a race: it is not installed, or is another layer."""


@dataclass(frozen=True)
class Rival:
    """Somebody's layer, and in what its numbers differ by intention."""

    layer: Layer
    border: str = "reflect"
    shares_ties: bool = False  # the gradient of equal candidates goes to all of them
    compiled: bool = False
    level: str | None = None  # of fastblur's CPU kernels, set before each call
    yardstick: bool = False  # another function, whose results are not compared


class Eager(nn.Module):
    """The layer as three calls of plain PyTorch: max_pool2d, pad, conv2d."""

    weight: Tensor

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.workload = workload
        taps = torch.tensor(workload.taps)
        weight = torch.outer(taps, taps).to(workload.dtype).expand(workload.shape[1], 1, -1, -1)
        self.register_buffer("weight", weight.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        workload = self.workload
        m = F.max_pool2d(x, workload.pool, 1, workload.pad) if workload.pool > 1 else x
        m = F.pad(m, workload.blur_padding * 2, mode="reflect")
        return F.conv2d(m, self.weight, stride=2, groups=workload.shape[1])


def ours(workload: Workload, backend: str = "auto") -> nn.Module:
    options: dict[str, Any] = dict(filter_size=workload.filter_size, backend=backend)
    if isinstance(workload, Upsampling):
        return FusedBlurUpsample(**options)
    return (
        FusedMaxBlurPool(workload.pool, 2, workload.pad, **options)
        if workload.pool > 1
        else FusedBlurPool(**options)
    )


def _border(workload: Workload) -> str:
    return "zeros" if isinstance(workload, Upsampling) else "reflect"


def why_not(name: str, workload: Workload, device_type: str) -> str | None:
    """Why somebody's layer, were it installed, could not be compared on this workload."""
    if isinstance(workload, Upsampling):
        if name == BILINEAR and workload.filter_size != 4:
            return "has four taps"
        if name not in (OURS, TRITON, *UPSAMPLERS):
            return "is no upsampling"
    elif name in UPSAMPLERS:
        return "is an upsampling"
    if name == TIMM and workload.filter_size % 2 == 0:
        return "pads otherwise with an even filter: another output size"
    if name == KORNIA and (workload.pool == 1 or workload.pad):
        return "has no padding of the max, and no blur without one"
    if name == COMPILED_POOL and workload.pool == 1:
        return "without a max there is nothing to pool"
    if name == TRITON and device_type == "cpu":
        return "Triton's kernels run on GPUs"
    return None


def field(workload: Workload, device_type: str, compiled: bool) -> list[str]:
    """Who can be compared on this workload, fastblur first."""
    names = [OURS, TRITON, UNFUSED, ADOBE, TIMM, KORNIA, *UPSAMPLERS]
    names += COMPILED if compiled else ()
    return [name for name in names if why_not(name, workload, device_type) is None]


def make(name: str, workload: Workload, device: torch.device, compiler: str = "inductor") -> Rival:
    """Somebody's layer.

    Args:
        name: a key of ``MAKERS``, or "fastblur" and a level of its CPU kernels.
        workload: the layer.
        device: where it will run.
        compiler: backend of torch.compile.

    Raises:
        Unavailable: it is not installed, or is another layer.
    """
    reason = why_not(name, workload, device.type)
    if reason is not None:
        raise Unavailable(reason)
    level = name.removeprefix(f"{OURS} ")
    if compiled.C is not None and level in compiled.C.cpu.targets():
        return Rival(ours(workload), level=level)
    try:
        rival = MAKERS[name](workload)
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from error
    layer = rival.layer
    if isinstance(layer, nn.Module):
        layer.to(device)
    if not rival.compiled:
        return rival
    layer = torch.compile(layer, dynamic=False, backend=compiler)
    return Rival(layer, rival.border, rival.shares_ties, compiled=True)


def _with_max(workload: Workload, blur: nn.Module) -> Rival:
    maximum = [nn.MaxPool2d(workload.pool, 1, workload.pad)] if workload.pool > 1 else []
    return Rival(nn.Sequential(*maximum, blur).to(workload.dtype))


def _adobe(workload: Workload) -> Rival:
    from antialiased_cnns import BlurPool

    return _with_max(workload, BlurPool(workload.shape[1], filt_size=workload.filter_size))


def _timm(workload: Workload) -> Rival:
    from timm.layers import BlurPool2d

    return _with_max(workload, BlurPool2d(workload.shape[1], filt_size=workload.filter_size))


def _kornia(workload: Workload) -> Rival:
    from kornia.filters import MaxBlurPool2D

    layer = MaxBlurPool2D(workload.filter_size, stride=2, max_pool_size=workload.pool)
    return Rival(layer, border="zeros")


def _shifted_max(workload: Workload, x: Tensor) -> Tensor:
    k, p = workload.pool, workload.pad
    if p:
        x = F.pad(x, (p, p, p, p), value=-torch.inf)
    h, w = x.shape[2] - k + 1, x.shape[3] - k + 1
    m = x[:, :, :h, :w]
    for i in range(k):
        for j in range(k):
            m = torch.maximum(m, x[:, :, i : i + h, j : j + w])
    return m


def _weighted_sum(workload: Workload, slices: list[Tensor]) -> Tensor:
    total = workload.taps[0] * slices[0]
    for tap, piece in zip(workload.taps[1:], slices[1:], strict=True):
        total = total + tap * piece
    return total


def _shifted_blur(workload: Workload, m: Tensor) -> Tensor:
    m = F.pad(m, workload.blur_padding * 2, mode="reflect")
    f = workload.filter_size
    h, w = m.shape[2] - f + 1, m.shape[3] - f + 1
    rows = _weighted_sum(workload, [m[:, :, i : i + h : 2] for i in range(f)])
    return _weighted_sum(workload, [rows[:, :, :, j : j + w : 2] for j in range(f)])


def _slices(workload: Workload) -> Rival:
    def layer(x: Tensor) -> Tensor:
        return _shifted_blur(workload, _shifted_max(workload, x))

    return Rival(layer, shares_ties=workload.pool > 1, compiled=True)


def _pool_and_slices(workload: Workload) -> Rival:
    def layer(x: Tensor) -> Tensor:
        return _shifted_blur(workload, F.max_pool2d(x, workload.pool, 1, workload.pad))

    return Rival(layer, compiled=True)


def _transposed(workload: Workload) -> Rival:
    """Cropped to twice the size by its own arguments."""
    f, channels = workload.filter_size, workload.shape[1]
    weight = _upsampling_filter(workload)
    options: dict[str, Any] = dict(stride=2, padding=(f - 1) // 2, output_padding=f % 2)
    return Rival(
        lambda x: F.conv_transpose2d(x, weight.to(x.device), groups=channels, **options), "zeros"
    )


def _zeros_between(workload: Workload) -> Rival:
    f, channels = workload.filter_size, workload.shape[1]
    weight = _upsampling_filter(workload)

    def layer(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        spread = F.pad(x.reshape(n, c, h, 1, w, 1), (0, 1, 0, 0, 0, 1)).reshape(n, c, 2 * h, 2 * w)
        before = f - 1 - (f - 1) // 2
        spread = F.pad(spread, (before, f - 1 - before) * 2)
        return F.conv2d(spread, weight.to(x.device), groups=channels)

    return Rival(layer, "zeros")


def _upsampling_filter(workload: Workload) -> Tensor:
    taps = torch.tensor(workload.taps)
    weight = torch.outer(taps, taps).to(workload.dtype)
    return weight.expand(workload.shape[1], 1, -1, -1).contiguous()


def _bilinear(workload: Workload) -> Rival:
    """Four taps, and edges around."""
    return Rival(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), "replicate")


MAKERS: dict[str, Callable[[Workload], Rival]] = {
    OURS: lambda workload: Rival(ours(workload), _border(workload)),
    TRITON: lambda workload: Rival(ours(workload, "triton"), _border(workload)),
    UNFUSED: lambda workload: Rival(Eager(workload)),
    ADOBE: _adobe,
    TIMM: _timm,
    KORNIA: _kornia,
    COMPILED_UNFUSED: lambda workload: Rival(Eager(workload), compiled=True),
    ONE_OPERATOR: lambda workload: Rival(nn.MaxPool2d(2), yardstick=True),
    COMPILED_SLICES: _slices,
    COMPILED_POOL: _pool_and_slices,
    TRANSPOSED: _transposed,
    ZEROS_BETWEEN: _zeros_between,
    BILINEAR: _bilinear,
    COMPILED_OURS: lambda workload: Rival(ours(workload), compiled=True),
}


@dataclass(frozen=True)
class Call:
    """What is timed, and what must come before it each time, untimed.

    Attributes:
        run: returns y, dx or both.
        before: makes what ``run`` uses up.
    """

    run: Callable[[], tuple[Tensor, ...]]
    before: Callable[[], object] | None = None

    def __call__(self) -> tuple[Tensor, ...]:
        if self.before is not None:
            self.before()
        return self.run()


@contextmanager
def at_level(level: str | None) -> Iterator[None]:
    """Fastblur's CPU kernels at this level, if one is given; then at the one of before."""
    if compiled.C is None:
        yield
        return
    before = compiled.C.cpu.target()
    if level is not None:
        compiled.C.cpu.set_target(level)
    try:
        yield
    finally:
        compiled.C.cpu.set_target(before)


def _set_first(rival: Rival, run: Callable[[], tuple[Tensor, ...]]) -> Any:
    """Sets the level of the CPU kernels, an atomic store, before each run."""
    if rival.level is None:
        return run
    set_level = partial(compiled.C.cpu.set_target, rival.level)  # type: ignore[union-attr]

    def set_and_run() -> tuple[Tensor, ...]:
        set_level()
        return run()

    return set_and_run


def forward(rival: Rival, x: Tensor, _: Tensor) -> Call:
    @torch.no_grad()
    def run() -> tuple[Tensor, ...]:
        return (rival.layer(x),)

    return Call(_set_first(rival, run))


def training_forward(rival: Rival, x: Tensor, _: Tensor) -> Call:
    leaf = x.detach().requires_grad_()
    return Call(_set_first(rival, lambda: (rival.layer(leaf),)))


def backward(rival: Rival, x: Tensor, dy: Tensor) -> Call:
    leaf = x.detach().requires_grad_()
    results: list[Tensor] = []

    def before() -> tuple[Tensor, ...]:
        results[:] = [rival.layer(leaf)]
        return ()

    return Call(
        _set_first(rival, lambda: torch.autograd.grad(results.pop(), leaf, dy)),
        _set_first(rival, before),
    )


def full(rival: Rival, x: Tensor, dy: Tensor) -> Call:
    leaf = x.detach().requires_grad_()

    def run() -> tuple[Tensor, ...]:
        y = rival.layer(leaf)
        return (y, *torch.autograd.grad(y, leaf, dy))

    return Call(_set_first(rival, run))


# From a layer, x and dy.
MODES: dict[str, Callable[[Rival, Tensor, Tensor], Call]] = {
    "forward": forward,
    "training forward": training_forward,
    "backward": backward,
    "full": full,
}
