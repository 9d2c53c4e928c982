"""Runs of a model on an example, before and after a change, that leave the model as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# Relative norms. Fused layers round differently; a wrong layer differs by its own size.
_ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.1}


def check_example(example: Any) -> None:
    """Raises TypeError unless it is None, a tensor, or a tuple of arguments."""
    if not (example is None or isinstance(example, (Tensor, tuple))):
        raise TypeError(
            f"example must be a tensor or a tuple of the model's arguments, got "
            f"{type(example).__name__}"
        )


@dataclass(frozen=True)
class Run:
    """One call of a model.

    Attributes:
        outputs: all leaves of its result.
        structure: of the result.
        gradients: of the tensors in the example; None where there is none.
    """

    outputs: list[Any]
    structure: Any
    gradients: list[Tensor | None]

    @classmethod
    def of(cls, model: nn.Module, example: Any) -> Run:
        """Calls the model in its present modes, with a fixed random seed."""
        arguments = example if isinstance(example, tuple) else (example,)
        leaves, form = pytree.tree_flatten(arguments)
        leaves = [_own(leaf) for leaf in leaves]
        wanted = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        with torch.inference_mode(False), torch.enable_grad(), _left_as_it_was(model, leaves):
            outputs, structure = pytree.tree_flatten(model(*pytree.tree_unflatten(leaves, form)))
            parts = [_weighed(y) for y in outputs if isinstance(y, Tensor) and y.requires_grad]
            gradients: list[Tensor | None] = [None] * len(wanted)
            if parts and wanted:
                gradients = list(torch.autograd.grad(parts, wanted, allow_unused=True))
        return cls([_detached(y) for y in outputs], structure, gradients)

    def check(
        self, model: nn.Module, example: Any, what: str, *, same_numbers: bool = True
    ) -> None:
        """Runs the changed model and compares. ``what`` names the change in errors: "fused".

        Raises:
            RuntimeError: the run fails, or its result differs.
        """
        try:
            now = Run.of(model, example)
        except Exception as error:
            raise RuntimeError(
                f"the {what} model fails on example, so the change was undone: {error}"
            ) from error
        unlike = self.difference(now) if same_numbers else self.difference_of_kind(now)
        if unlike is not None:
            raise RuntimeError(
                f"the {what} model differs on example, so the change was undone: {unlike}"
            )

    def difference(self, other: Run) -> str | None:
        """How outputs or input gradients of the other run differ, or None."""
        if (unlike := self.difference_of_kind(other)) is not None:
            return unlike
        for name, ours, theirs in (
            ("output", self.outputs, other.outputs),
            ("gradient of the input", self.gradients, other.gradients),
        ):
            for a, b in zip(ours, theirs, strict=True):
                if (unlike := _difference(a, b)) is not None:
                    return f"the {name} {unlike}"
        return None

    def difference_of_kind(self, other: Run) -> str | None:
        """How structure, shapes or finiteness of the other run differ, or None."""
        if self.structure != other.structure:
            return f"the result is {other.structure}, not {self.structure}"
        for a, b in zip(self.outputs, other.outputs, strict=True):
            if not isinstance(a, Tensor) or not isinstance(b, Tensor):
                continue
            if a.shape != b.shape:
                return f"the shape of an output is {tuple(b.shape)}, not {tuple(a.shape)}"
            if torch.isfinite(a).all() and not torch.isfinite(b).all():
                return "an output is not finite"
        return None


def _difference(a: Any, b: Any) -> str | None:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        same = a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
        return None if same else f"is {b!r}, not {a!r}"
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"is {b.dtype}{list(b.shape)}, not {a.dtype}{list(a.shape)}"
    if not a.is_floating_point():
        return None if torch.equal(a, b) else "has other values"
    x, y = (torch.nan_to_num(t.double()) for t in (a, b))
    apart, size = (x - y).norm().item(), x.norm().item()
    same = torch.equal(a.isnan(), b.isnan()) and apart <= _ALLOWED.get(a.dtype, 0.1) * size
    return (
        None if same else f"is off by {apart:.3g} (norm of the difference; its own is {size:.3g})"
    )


def _own(leaf: Any) -> Any:
    """A copy of a leaf of the example, which requires grad if it can."""
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach().clone()
    return leaf.requires_grad_() if leaf.is_floating_point() else leaf


def _detached(y: Any) -> Any:
    return y.detach() if isinstance(y, Tensor) else y


def _weighed(y: Tensor) -> Tensor:
    """A weighted sum, with another weight for each entry."""
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device)
    return (y.double() * weight.view(y.shape)).sum() if not y.is_complex() else y.abs().sum()


@contextmanager
def _left_as_it_was(model: nn.Module, leaves: list[Any]) -> Iterator[None]:
    """Restores buffers, random state and train/eval modes afterwards."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    tables = [(module, dict(module._buffers)) for module in model.modules()]
    tensors = [*(leaf for leaf in leaves if isinstance(leaf, Tensor)), *model.parameters()]
    devices = {t.device for t in tensors if t.is_cuda}
    with torch.random.fork_rng(devices=[device.index for device in devices]):
        torch.manual_seed(0)
        try:
            yield
        finally:
            for module, table in tables:
                module._buffers.update(table)
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    with torch.no_grad():
                        buffer.copy_(before)
            for module, training in modes:
                module.training = training
