"""What all layers share: the way to a backend, and how they print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from . import _backends
from ._backends import BackendName
from ._geometry import FILTER_SIZE
from ._geometry.upsampling import Operation
from .functional import run


class _Path(NamedTuple):
    """What a layer knows about a device: its direct path there, if one exists."""

    operation: Operation | None = None
    backend: BackendName = "auto"
    device: torch.device | None = None
    direct: Callable[[Tensor], Tensor | None] | None = None


_is_compiling = torch.compiler.is_compiling  # bound once, because every call asks
_NOT_KEPT = {"_path", "_together"}  # left out of copies and files


class Layer(nn.Module):
    """Base of all layers: a backend, a direct path to it, and the arguments to print."""

    backend: BackendName
    _path = _Path()

    def __init__(self, backend: BackendName, shown: dict[str, Any]) -> None:
        super().__init__()
        _backends.check_name(backend)
        self.backend = backend
        self._shown = {name: _plain(value) for name, value in shown.items()}

    @property
    def one_dimensional(self) -> bool:
        """Whether the layer is 1-D: inputs are [N, C, L] or [C, L]."""
        return False

    def compute(self, input: Tensor, operation: Any) -> Tensor:
        """Runs an operation: the layer's own, or one that includes the modules that joined it."""
        if _is_compiling():
            return run(input, operation, self.backend)
        known, backend, device, direct = self._path
        if known is not operation or backend != self.backend:
            device = direct = None
        if direct and (y := direct(input)) is not None:
            return y
        y = run(input, operation, self.backend)
        if isinstance(input, Tensor) and device != input.device:
            self._find_path(operation, input.device)
        return y

    def _find_path(self, operation: Operation, device: torch.device) -> None:
        direct = _backends.choose(self.backend, device).direct(operation, device)
        self._path = _Path(operation, self.backend, device, direct)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name not in _NOT_KEPT}

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by ``torch.jit.script``, which cannot compile the layers."""
        raise NotImplementedError(
            f"torch.jit.script cannot compile {type(self).__name__}: use torch.export, or "
            f"torch.jit.trace of the whole model"
        )

    def extra_repr(self) -> str:
        """The arguments: the first ones always, the others if they are not the default."""
        return ", ".join(f"{name}={value!r}" for name, value in self._shown.items())


def shown_filter(filter_size: Any, taps: Any) -> dict[str, Any]:
    """The argument that set the taps, for printing."""
    if taps is not None:
        return {"taps": taps}
    return {"filter_size": FILTER_SIZE if filter_size is None else filter_size}


def unusual(blur_padding: Any, padding_mode: str, relu: bool, backend: str) -> dict[str, Any]:
    """The remaining arguments that are not the default, for printing."""
    return not_default(
        blur_padding=(_plain(blur_padding), "same"),
        padding_mode=(padding_mode, "reflect"),
        relu=(relu, False),
        backend=(backend, "auto"),
    )


def not_default(**given: tuple[Any, Any]) -> dict[str, Any]:
    """The values that differ from their defaults, of pairs of both."""
    return {name: value for name, (value, default) in given.items() if value != default}


def _plain(value: Any) -> Any:
    """Converts arrays, tensors and their scalars to ints and tuples, which print as code."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
