"""The doctor: ``python -m fastblur`` reports what is installed and whether it is correct."""

from __future__ import annotations

import importlib.util
import platform
import sys

import torch

from . import __version__, _backends
from ._backends import compiled
from ._geometry import Geometry

# Run on a map of odd size with many ties, to cover borders, tails and the tie rule.
CHECKS = {
    "max 2, 4 taps": Geometry.resolve(),
    "max 3, 3 taps": Geometry.resolve(kernel_size=3, padding=1, filter_size=3),
    "blur, 5 taps": Geometry.resolve(kernel_size=1, filter_size=5),
    "relu, max 2": Geometry.resolve(relu=True),
}


def facts() -> dict[str, str]:
    """Versions and features of the build, by name."""
    found = {
        "fastblur": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }
    extension = compiled.C
    if extension is None:
        found["extension"] = f"none: {compiled.WHY_NOT}"
    else:
        info = compiled.BUILD
        openmp = "with OpenMP" if info["openmp"] else "without OpenMP: one thread"
        found["extension"] = f"built by {info['compiler']}, {openmp}"
        usable = ", ".join(extension.cpu.targets())
        try:
            found["CPU target"] = f"{extension.cpu.target()} (usable: {usable})"
        except ValueError as error:
            found["CPU target"] = f"ERROR: {error}"
        archs = ", ".join(compiled.CUDA_ARCHS)
        found["CUDA"] = f"{info['cuda']}, for {archs}" if archs else "none: built without it"
    found["GPU"] = "none visible"
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties()
        found["GPU"] = f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}"
    if importlib.util.find_spec("triton") is None:
        found["triton"] = "not installed"
    else:
        from importlib.metadata import version

        found["triton"] = version("triton")
    return found


def self_check(backend: _backends.Backend) -> str | None:
    """Compares a backend with the reference, forward and backward; returns the difference."""
    try:
        return _first_difference(backend)
    except Exception as error:  # any failure is a finding
        return f"{type(error).__name__}: {error}"


def _first_difference(backend: _backends.Backend) -> str | None:
    generator = torch.Generator().manual_seed(0)
    for name, geometry in CHECKS.items():
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = torch.randint(-4, 5, (2, 19, 13, 21), generator=generator).float()
            x = x.to(memory_format=memory_format)
            results = []
            # The reference runs on the CPU, where no TensorFloat-32 rounds its convolution.
            both = (backend.run, backend.device_type), (_backends.REFERENCE.run, "cpu")
            for run, where in both:
                leaf = x.to(where).requires_grad_()
                y = run(leaf, geometry)
                weight = torch.linspace(-1, 1, y.numel()).view(y.shape).to(where)
                (dx,) = torch.autograd.grad((y * weight).sum(), leaf)
                results.append((y.detach().cpu(), dx.cpu()))
            for what, mine, judge in zip(("output", "gradient"), *results, strict=True):
                if not torch.allclose(mine, judge, rtol=1e-5, atol=1e-5):
                    worst = (mine - judge).abs().max().item()
                    return f"{what} of {name!r} in {memory_format} differs by {worst:.2g}"
    return None


def main() -> int:
    """Prints the findings; returns 1 if a usable backend gives wrong results."""
    for name, value in facts().items():
        print(f"{name:<10} {value}")
    failed = False
    for backend in _backends.BACKENDS:
        reason = backend.why_not(torch.device(backend.device_type))
        if reason is None and backend.device_type == "cuda" and not torch.cuda.is_available():
            reason = "no GPU is visible"
        if reason is not None:
            verdict = f"not usable: {reason}"
        else:
            wrong = self_check(backend)
            failed |= wrong is not None
            verdict = f"WRONG: {wrong}" if wrong else "agrees with the reference"
            if backend is _backends.REFERENCE:
                verdict = "used for the comparison"
        print(f"{'backend':<10} {backend.name}: {verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
