"""From a public function to a backend: what calls in one, two and three dimensions share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from torch.jit._trace import TracerWarning
from torch.overrides import handle_torch_function

from . import _backends
from ._backends import Backend
from ._dispatch.autograd import is_tracing
from ._dispatch.operators import autocast
from ._dispatch.plain import is_overridden


class Checkable(Protocol):
    """The arguments of a call: of :class:`Geometry`, :class:`Upsampling` or :class:`Volume`."""

    def check_input(self, x: Tensor) -> None: ...
    def plain(self) -> dict[str, Any]: ...


def run(
    input: Tensor,
    operation: Checkable,
    backend: str,
    public: Callable[..., Tensor],
    compute: Callable[[Backend, Tensor, Any], Tensor],
    dims: int,
) -> Tensor:
    """Checks the input, chooses the backend and runs it.

    Args:
        input: of ``dims`` axes, or without the batch.
        operation: what to run.
        backend: its name, or "auto".
        public: the function that a ``__torch_function__`` is told of.
        compute: runs the operation on a batch.
        dims: 4 or 5.
    """
    if is_overridden(input):
        plain = operation.plain() | dict(backend=backend)
        y: Tensor = handle_torch_function(public, (input,), input, **plain)
        return y
    if is_tracing():
        # The checks read sizes and taps, which makes the tracer warn needlessly.
        with warnings.catch_warnings(action="ignore", category=TracerWarning):
            return _run(input, operation, backend, compute, dims)
    return _run(input, operation, backend, compute, dims)


def _run(
    input: Tensor,
    operation: Checkable,
    backend: str,
    compute: Callable[[Backend, Tensor, Any], Tensor],
    dims: int,
) -> Tensor:
    operation.check_input(input)
    chosen = _backends.choose(backend, input.device)
    x = autocast(input)
    if x.dim() == dims:
        return compute(chosen, x, operation)
    return compute(chosen, x.unsqueeze(0), operation).squeeze(0)
