"""The compiled backends, for CPUs and CUDA devices: kernels of ``fastblur._C``.

``_C`` does not depend on torch. It takes a ``Plan``, which is a checked geometry, and sizes and
addresses. ``_dispatch/operators.py`` checks the tensors, and ``calls.py`` allocates them.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._dispatch import autograd
from .._dispatch.operators import Arguments, Kernels, Operators, Size
from .._geometry import FIELDS, Geometry
from .._geometry.upsampling import Operation
from .backend import Backend, Codes, in_words
from .calls import CompiledCall, Plan, UpsamplingCall
from .specialised import is_specialised

_REINSTALL = "pip install --no-cache-dir --force-reinstall --no-deps, from the sources"


class Compiled(Backend):
    """Base of the CPU and CUDA backends."""

    alignment: int
    codes_dtype: torch.dtype

    def __init__(self) -> None:
        self.plans = functools.lru_cache(maxsize=1024)(functools.partial(Plan, self))
        self.calls = functools.lru_cache(maxsize=256)(CompiledCall)
        self.upsampling_calls = functools.lru_cache(maxsize=256)(UpsamplingCall)

    @property
    def extension(self) -> Any:
        """``fastblur._C``; only if the backend can run."""
        return C

    @property
    def library(self) -> Any:
        """The submodule of the extension for this backend."""
        return getattr(C, self.name)

    @property
    def operators(self) -> Operators:
        """The family that both backends share."""
        return OPERATORS

    def place(self, x: Tensor) -> tuple[int, ...]:
        """Where a call on ``x`` runs: the last arguments of the kernels."""
        raise NotImplementedError

    def call(
        self, geometry: Arguments, size: Size, channels_last: bool, beside: Tensor
    ) -> CompiledCall:
        """Checks a call; see ``_dispatch/operators.py``."""
        plan = self.plans(geometry)
        return self.calls(plan, size, channels_last, beside.dtype, beside.device)

    def kernels(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> str:
        call = self.call(geometry.arguments(), size, channels_last, beside)
        return f"{in_words(geometry)} ({call.native.specialisation()})"

    def direct(
        self, operation: Operation, device: torch.device
    ) -> Callable[[Tensor], Tensor | None] | None:
        make = _direct_path() if device.type == self.device_type else None
        if make is None:
            return None
        if isinstance(operation, Geometry):
            return make(self.plans(operation.arguments()), self.calls, device)
        if any(operation.repeated):
            return None
        return make(self.plans(operation.blur.arguments()), self.upsampling_calls, device)


@functools.cache
def _direct_path() -> Callable[..., Callable[[Tensor], Tensor | None]] | None:
    try:
        from .._dispatch.direct import Direct
    except Exception:  # an unknown torch version may lack what it imports
        return None
    return Direct


class Cpu(Compiled):
    """Codes are bit planes. Their rows are as long as the longer of x and m, in whole bytes."""

    name = device_type = "cpu"
    alignment = 1  # any address works
    codes_dtype = torch.uint8

    def why_not(self, device: torch.device) -> str | None:
        if C is None:
            return WHY_NOT
        if device.type not in ("cpu", "meta"):
            return f"it runs on the CPU only, and the input is on {device.type!r}"
        return None

    def place(self, x: Tensor) -> tuple[int, ...]:
        """The number of threads."""
        return (torch.get_num_threads(),)

    def codes(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> Codes:
        images, channels, height, width = size
        m_h, _ = geometry.pooled_size(height, width)
        row = width + max(0, 2 * geometry.padding[1] - geometry.kernel_size[1] + 1)
        units, step = (1, channels) if channels_last else (channels, 1)
        row_bytes = (row * step + 7) // 8
        return (images, units * geometry.code_bits * m_h * row_bytes), self.codes_dtype

    def kernels(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> str:
        kernels = super().kernels(geometry, size, channels_last, beside)
        return f"{self.library.target()}, {kernels}"


class Cuda(Compiled):
    """Codes are words in groups of four: tiles of a specialised kernel, or bit planes."""

    name = device_type = "cuda"
    alignment = 16  # the widest access; torch aligns its own memory to more
    codes_dtype = torch.int32

    def why_not(self, device: torch.device) -> str | None:
        if C is None:
            return WHY_NOT
        if not CUDA_ARCHS:
            return (
                "fastblur was built without CUDA (build it with FASTBLUR_CUDA=1 to see what is "
                "missing)"
            )
        if device.type != "cuda":
            return f"it runs on CUDA devices only, and the input is on {device.type!r}"
        if torch.version.hip:  # ROCm devices are called cuda too
            return "it runs on NVIDIA GPUs only, and this torch is built for AMD GPUs"
        # What the compiler traces cannot come from a cache; it asks once anyway.
        ask = why_not_gpu if torch.compiler.is_compiling() else _why_not_known_gpu
        return ask(0 if device.index is None else device.index)

    def place(self, x: Tensor) -> tuple[int, ...]:
        """Device and stream."""
        index = x.get_device()
        return index, torch._C._cuda_getCurrentRawStream(index)

    def codes(self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> Codes:
        images, channels, height, width = size
        m_h, m_w = geometry.pooled_size(height, width)
        if is_specialised(geometry, size, beside.dtype):
            tile_bytes = channels * _tile_rows(geometry, m_h) * ((m_w + 3) // 4)
            code_bytes = tile_bytes * _tile_code_bytes(geometry)
        else:
            code_bytes = (channels * m_h * m_w + 31) // 32 * geometry.code_bits * 4
        return (images, (code_bytes + 15) // 16 * 4), self.codes_dtype


def why_not_gpu(index: int) -> str | None:
    """Why no kernel runs on an NVIDIA GPU, or None."""
    if not torch.cuda.is_available():  # a fake tensor: nothing runs
        return None
    problem = _problem()
    if problem is not None:
        return problem
    gpu = torch.cuda.get_device_properties(index)
    if any(_runs(arch, gpu.major, gpu.minor) for arch in CUDA_ARCHS):
        return None
    return (
        f"it was built for {', '.join(CUDA_ARCHS)}, and the GPU has compute capability "
        f"{gpu.major}.{gpu.minor} (rebuild with TORCH_CUDA_ARCH_LIST={gpu.major}.{gpu.minor})"
    )


_why_not_known_gpu = functools.cache(why_not_gpu)


def _problem() -> str | None:
    problem: str | None = C.cuda.problem()
    return problem


# Like torch.compiler.assume_constant_result, which would import the compiler and triton.
_problem._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _runs(arch: str, major: int, minor: int) -> bool:
    """CUDA's rule: sm_80 runs on 8.0 and later 8.x, compute_80 on 8.0 and later, sm_90a on 9.0."""
    kind, number = arch.split("_")
    built = divmod(int(number.rstrip("af")), 10)
    if number.endswith("a"):
        return built == (major, minor)
    if kind == "sm" or number.endswith("f"):
        return built[0] == major and built[1] <= minor
    return built <= (major, minor)


def _tile_code_bytes(geometry: Geometry) -> int:
    pool = geometry.kernel_size[0]
    bits = 16 * (pool - 1) + (8 if geometry.relu and pool < 3 else 0)
    return 4 if bits > 16 else (bits + 7) // 8


def _tile_rows(geometry: Geometry, m_h: int) -> int:
    """Number of tile rows, two rows of the pooled map each; TileRows in csrc/cuda/codes.h."""
    f, ahead = len(geometry.taps_h), geometry.kernel_size[0] - 1 - geometry.padding[0]
    shift = (2 if ahead > 1 else 1) if f >= 4 else (ahead + 1) // 2
    first_row = -2 * shift - (f - 1) // 2 + f - 2
    return (m_h - 1 - first_row) // 2 + 1


CPU, CUDA = Cpu(), Cuda()


def codes_of(geometry: Geometry, size: Size, channels_last: bool, beside: Tensor) -> Codes:
    """The codes of the backend for the device of ``beside``."""
    backend = CUDA if beside.device.type == "cuda" else CPU
    return backend.codes(geometry, size, channels_last, beside)


OPERATORS = Operators("max_blur_pool", codes_of)


def _load() -> tuple[Any, str | None]:
    """Loads the extension and registers its operators; returns None and a reason if that fails."""
    if util.find_spec("fastblur._C") is None:
        sources = Path(__file__).parents[2]
        if (sources / "setup.py").exists():
            return None, (
                f"the compiled extension is not installed: fastblur was imported from its sources "
                f"in {sources}, where it has not been built (build it there with pip install "
                f"--editable ., or start Python elsewhere to import the installed fastblur)"
            )
        return None, (
            "the compiled extension is not installed: fastblur was built without a C++ compiler "
            f"(install one, then: {_REINSTALL})"
        )
    try:
        extension = import_module("fastblur._C")
        kernels: dict[str, Kernels] = {"CPU": CPU}
        if extension.build_info()["cuda"]:
            kernels["CUDA"] = CUDA
        OPERATORS.define(kernels)
        autograd.register(OPERATORS)
        return extension, None
    except Exception as error:  # whatever failed, the reference can run
        reason = (
            f"the compiled extension does not load with torch {torch.__version__} "
            f"({type(error).__name__}: {error}); install fastblur again ({_REINSTALL})"
        )
    # A missing extension may be intended, a broken one is not.
    _warn(f"fastblur: {reason}")
    return None, reason


def _warn(text: str) -> None:
    """Warns at the line that imports fastblur, however many frames lie between."""
    frame = sys._getframe()
    while frame.f_back is not None and _imports(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    warnings.warn_explicit(text, RuntimeWarning, frame.f_code.co_filename, frame.f_lineno)


def _imports(module: str) -> bool:
    """Whether the module belongs to fastblur or the import system."""
    return module.partition(".")[0] in ("fastblur", "importlib", "_frozen_importlib")


C, WHY_NOT = _load()
BUILD: dict[str, Any] = {} if C is None else C.build_info()
# "sm_90" for machine code, "compute_90" for PTX; empty if built without CUDA.
CUDA_ARCHS: tuple[str, ...] = tuple(BUILD["cuda_archs"]) if BUILD.get("cuda") else ()


class MaxBlurPoolFunction(autograd.MaxBlurPool):
    """``(x, *arguments) -> (y, codes)`` by the compiled operators, differentiable in both modes.

    ``arguments`` are those of ``torch.ops.fastblur.max_blur_pool_forward`` between ``x`` and
    ``need_codes``: kernel_size, stride, padding, taps_h, taps_w, blur_padding, padding_mode, relu,
    channels_last. ``x`` is [N, C, H, W] in float32, float64, float16 or bfloat16. ``codes`` is an
    opaque tensor, the only one kept for backward. Most users want
    :func:`fastblur.functional.max_blur_pool2d`.

    Raises:
        RuntimeError: the compiled extension is not installed.
        TypeError: the number of arguments is wrong.
    """

    @classmethod
    def apply(cls, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Runs the operation; derivatives of any order work."""
        if C is None:
            raise RuntimeError(f"MaxBlurPoolFunction cannot run: {WHY_NOT}")
        names = (*FIELDS, "channels_last")
        if len(arguments) != len(names):
            raise TypeError(
                f"MaxBlurPoolFunction.apply takes x and {', '.join(names)}, all by position, "
                f"got x and {len(arguments)} more"
            )
        result: tuple[Tensor, Tensor] = autograd.MaxBlurPool.apply(OPERATORS, x, *arguments)
        return result
