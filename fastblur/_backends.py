"""Which backend runs a call, and why not another."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from . import _autograd, _extension, _ops, _reference
from ._geometry import Geometry

BackendName: TypeAlias = Literal["auto", "cpu", "cuda", "triton", "reference"]


@dataclass(frozen=True)
class Backend:
    """One way to run the op.

    Attributes:
        name: what ``backend=`` calls it.
        device_type: where it is at home; tests and the doctor run it there.
        run: ``(x [N, C, H, W], geometry) -> y``, for checked input.
        why_not: the reason why it cannot run on a device, or None if it can.
        plain_call: a short cut of ``run`` for plain tensors, if there is one; see ``_ops``.
        keeps_codes: whether it keeps codes for backward (else whatever autograd keeps).
    """

    name: str
    device_type: str
    run: Callable[[Tensor, Geometry], Tensor]
    why_not: Callable[[torch.device], str | None]
    keeps_codes: bool
    plain_call: Callable[[Geometry, torch.device], Any] | None = None


def _why_not_cpu(device: torch.device) -> str | None:
    if not _ops.AVAILABLE:
        return _extension.WHY_NOT
    if device.type not in ("cpu", "meta"):
        return f"it runs on the CPU only, and the input is on {device.type!r}"
    return None


def _why_not_cuda(device: torch.device) -> str | None:
    if not _ops.AVAILABLE:
        return _extension.WHY_NOT
    if not _ops.CUDA_ARCHS:
        return (
            "fastblur was built without CUDA (FASTBLUR_CUDA=1 makes the build say what is missing)"
        )
    if device.type != "cuda":
        return f"it runs on CUDA devices only, and the input is on {device.type!r}"
    # What the compiler traces cannot come from a cache; it asks once anyway.
    ask = _why_not_gpu if torch.compiler.is_compiling() else _why_not_known_gpu
    return ask(0 if device.index is None else device.index)


def _why_not_gpu(index: int) -> str | None:
    if not torch.cuda.is_available():  # a fake tensor: nothing will run
        return None
    gpu = torch.cuda.get_device_properties(index)
    if any(_runs(arch, gpu.major, gpu.minor) for arch in _ops.CUDA_ARCHS):
        return None
    return (
        f"it was built for {', '.join(_ops.CUDA_ARCHS)}, and the GPU has compute capability "
        f"{gpu.major}.{gpu.minor} (rebuild with TORCH_CUDA_ARCH_LIST={gpu.major}.{gpu.minor})"
    )


_why_not_known_gpu = functools.cache(_why_not_gpu)


def _runs(arch: str, major: int, minor: int) -> bool:
    """CUDA's rule: sm_80 runs on 8.0 and later 8.x, compute_80 on all later, sm_90a on 9.0."""
    kind, number = arch.split("_")
    built = divmod(int(number.rstrip("af")), 10)
    if number.endswith("a"):
        return built == (major, minor)
    if kind == "sm" or number.endswith("f"):
        return built[0] == major and built[1] <= minor
    return built <= (major, minor)


_HAS_TRITON = importlib.util.find_spec("triton") is not None  # which does not import it


def _why_not_triton(device: torch.device) -> str | None:
    if not _HAS_TRITON:
        return (
            "triton is not installed (pip install triton; PyTorch's own builds for CUDA and ROCm "
            "bring it, and those for XPU pytorch-triton-xpu)"
        )
    if device.type not in ("cuda", "xpu"):  # ROCm's devices are called cuda too
        return f"it runs on GPUs only (CUDA, ROCm, XPU), and the input is on {device.type!r}"
    return _why_no_triton()


@functools.cache
def _load_triton() -> str | None:
    """Registers the operators, or tells why there are none."""
    try:
        importlib.import_module(f"{__package__}._triton")
    except ImportError as error:
        return f"triton does not load ({error})"
    return None


def _why_no_triton() -> str | None:
    return _load_triton()


# As torch.compiler.assume_constant_result does, which imports the compiler, and that triton.
_why_no_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _run_triton(x: Tensor, geometry: Geometry) -> Tensor:
    from . import _triton  # not with fastblur: triton takes its time

    return _autograd.max_blur_pool(x, geometry, _triton)


# In the order in which "auto" tries them. Nothing measured says that Triton's kernels are faster
# than the compiled ones, so they come after those for the same devices.
BACKENDS = (
    Backend("cuda", "cuda", _autograd.max_blur_pool, _why_not_cuda, True, _ops.plain_call),
    Backend("triton", "cuda", _run_triton, _why_not_triton, keeps_codes=True),
    Backend("cpu", "cpu", _autograd.max_blur_pool, _why_not_cpu, True, _ops.plain_call),
    Backend("reference", "cpu", _reference.max_blur_pool, lambda device: None, keeps_codes=False),
)
*_, REFERENCE = BACKENDS
NAMES = ("auto", *(backend.name for backend in BACKENDS))


def check_name(name: str) -> None:
    """Raises ValueError unless a backend, or "auto", has this name."""
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(map(repr, NAMES))}, got {name!r}")


def choose(name: str, device: torch.device) -> Backend:
    """The backend that runs a call; the reference, whatever the name, while it goes into ONNX.

    Raises:
        ValueError: no backend has this name.
        RuntimeError: it has been named and cannot run; ``"auto"`` never raises.
    """
    check_name(name)
    if _goes_into_onnx():
        return REFERENCE
    for backend in BACKENDS:
        if name not in ("auto", backend.name):
            continue
        reason = backend.why_not(device)
        if reason is None:
            return backend
        if name != "auto":
            raise RuntimeError(f"backend {name!r} cannot run: {reason}")
    raise AssertionError("the reference runs everywhere")


def _goes_into_onnx() -> bool:
    """Whether ``torch.onnx.export`` is capturing the call: an ONNX file has standard operators."""
    # The second question imports the exporter, so it is asked of captured calls alone.
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
