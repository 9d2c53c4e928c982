"""The layers that are timed, and everything that people use or could write in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import FusedBlurPool, FusedMaxBlurPool
from fastblur._geometry import Geometry, binomial_taps

Module = Callable[[Tensor], Tensor]
OURS = "fastblur"


@dataclass(frozen=True)
class Row:
    """One layer on one input: (Max)BlurPool with Zhang's padding and stride 2."""

    shape: tuple[int, int, int, int]
    pool: int
    pad: int
    taps: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def geometry(self) -> Geometry:
        return Geometry.resolve(self.pool, 2, self.pad, self.taps)

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        layer = (
            f"max{self.pool} p{self.pad} f{self.taps}" if self.pool > 1 else f"blur f{self.taps}"
        )
        kind = str(self.dtype).removeprefix("torch.")
        return f"{size} {layer} {kind} {'NHWC' if self.channels_last else 'NCHW'}"

    def input(self, device: torch.device) -> Tensor:
        x = torch.empty(
            self.shape, dtype=self.dtype, device=device, memory_format=self.memory_format
        )
        return x.normal_()


LAYERS = [  # the most telling first
    Row((256, 64, 112, 112), 2, 0, 4),
    Row((256, 64, 112, 112), 3, 1, 3),
    Row((64, 256, 56, 56), 1, 0, 4),
    Row((8, 64, 112, 112), 3, 1, 3),
    Row((8, 64, 112, 112), 2, 0, 4),
    Row((4, 512, 28, 28), 2, 0, 4),
]
KINDS: list[dict[str, Any]] = [
    dict(dtype=torch.float32),
    dict(dtype=torch.float16, channels_last=True),
    dict(dtype=torch.bfloat16, channels_last=True),
]
ROWS = [replace(row, **kind) for row in LAYERS for kind in KINDS]
DRY_ROWS = [replace(row, shape=(2, 4, 12, 14)) for row in (*LAYERS[:3], ROWS[5])]


def ours(row: Row, **changes: Any) -> Module:
    if row.pool == 1:
        return FusedBlurPool(row.taps, **changes)
    return FusedMaxBlurPool(row.pool, 2, row.pad, filter_size=row.taps, **changes)


def eager(row: Row, device: torch.device) -> tuple[dict[str, Module], dict[str, str]]:
    """The layers of other packages, and the reasons why some are missing."""
    found: dict[str, Module] = {"unfused": ours(row, backend="reference")}
    missing: dict[str, str] = {}

    def chain(blur: nn.Module) -> nn.Module:
        maximum = [nn.MaxPool2d(row.pool, 1, row.pad)] if row.pool > 1 else []
        return nn.Sequential(*maximum, blur).to(device=device, dtype=row.dtype)

    try:
        from antialiased_cnns import BlurPool

        found["antialiased_cnns"] = chain(BlurPool(row.shape[1], filt_size=row.taps))
    except ImportError:
        missing["antialiased_cnns"] = "not installed"
    try:
        from timm.layers import BlurPool2d

        if row.taps % 2:
            found["timm"] = chain(BlurPool2d(row.shape[1], filt_size=row.taps))
        else:
            missing["timm"] = "pads otherwise with an even filter"
    except ImportError:
        missing["timm"] = "not installed"
    try:
        from kornia.filters import MaxBlurPool2D

        if row.pool > 1 and row.pad == 0:
            found["kornia"] = MaxBlurPool2D(row.taps, stride=2, max_pool_size=row.pool).to(device)
        else:
            missing["kornia"] = "has no padding of the max, and no blur without one"
    except ImportError:
        missing["kornia"] = "not installed"
    return found, missing


def compiled(row: Row, backend: str) -> dict[str, Module]:
    """What a user could write and give to torch.compile: three things to try."""
    taps, (top, bottom, left, right) = binomial_taps(row.taps), row.geometry.blur_padding

    def shifted_max(x: Tensor) -> Tensor:
        k, p = row.pool, row.pad
        if p:
            x = F.pad(x, (p, p, p, p), value=-torch.inf)
        h, w = x.shape[2] - k + 1, x.shape[3] - k + 1
        m = x[:, :, :h, :w]
        for i in range(k):
            for j in range(k):
                m = torch.maximum(m, x[:, :, i : i + h, j : j + w])
        return m

    def shifted_blur(m: Tensor) -> Tensor:
        m = F.pad(m, (left, right, top, bottom), mode="reflect")
        h, w = m.shape[2] - row.taps + 1, m.shape[3] - row.taps + 1
        rows = sum(t * m[:, :, i : i + h : 2] for i, t in enumerate(taps))
        return sum(t * rows[:, :, :, j : j + w : 2] for j, t in enumerate(taps))  # type: ignore[index,return-value]

    def slices(x: Tensor) -> Tensor:
        return shifted_blur(shifted_max(x))

    def pool_and_slices(x: Tensor) -> Tensor:
        return shifted_blur(F.max_pool2d(x, row.pool, 1, row.pad) if row.pool > 1 else x)

    def unfused(x: Tensor) -> Tensor:
        return chain(x)

    chain = ours(row, backend="reference")
    functions = {"compiled unfused": unfused, "compiled slices": slices}
    if row.pool > 1:
        functions["compiled max_pool2d + slices"] = pool_and_slices
    return {
        name: torch.compile(function, dynamic=False, backend=backend)
        for name, function in functions.items()
    }


def forward(layer: Module, x: Tensor, _: Tensor) -> Callable[[], object]:
    def run() -> Tensor:
        with torch.no_grad():
            return layer(x)

    return run


def training_forward(layer: Module, x: Tensor, _: Tensor) -> Callable[[], object]:
    leaf = x.detach().requires_grad_()
    return lambda: layer(leaf)


def backward(layer: Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    return lambda: torch.autograd.grad(y, leaf, dy, retain_graph=True)


def both(layer: Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    leaf = x.detach().requires_grad_()
    return lambda: torch.autograd.grad(layer(leaf), leaf, dy)


MODES = {
    "forward": forward,
    "training forward": training_forward,
    "backward": backward,
    "forward + backward": both,
}


def difference(row: Row, name: str, layer: Module, x: Tensor, rounding: float) -> str | None:
    """What is wrong with a layer's result and gradient on the first and last image, if anything.

    The judge is the unfused chain in float64. Errors count against the largest result, in units in
    the last place of the row's dtype, of which ``rounding`` are allowed.
    """
    # kornia pads with zeros; torch.maximum shares the gradient of a tie, common in 16 bits, out.
    judge = ours(row, backend="reference", padding_mode="zeros" if name == "kornia" else "reflect")
    shares_ties = name == "compiled slices" and row.dtype != torch.float32
    with torch.backends.cudnn.flags(allow_tf32=False):
        sample = x[[0, -1]].contiguous(memory_format=row.memory_format)
        mine, exact = sample.clone().requires_grad_(), sample.double().requires_grad_()
        y, want = layer(mine), judge(exact)
        if y.shape != want.shape:
            return f"shape {list(y.shape)}, not {list(want.shape)}"
        dy = torch.randn_like(y)
        (dx,) = torch.autograd.grad(y, mine, dy)
        (want_dx,) = torch.autograd.grad(want, exact, dy.double())
    pairs = [("result", y, want), ("gradient", dx, want_dx)]
    for what, got, truth in pairs[:1] if shares_ties else pairs:
        unit = torch.finfo(row.dtype).eps * truth.abs().max().item()
        error = (got.double() - truth).abs().max().item() / unit
        if not error <= rounding:
            return f"the {what} is off by {error:.3g} units in the last place of the largest"
    return None
