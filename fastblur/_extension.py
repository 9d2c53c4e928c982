"""Loads the compiled extension, or keeps the reason why there is none."""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module, util
from pathlib import Path
from types import ModuleType

import torch

_REINSTALL = (
    "pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps, from the sources"
)


def _load() -> tuple[ModuleType | None, str | None]:
    name = f"{__package__}._C"
    spec = util.find_spec(name)
    if spec is None:
        sources = Path(__file__).parent.parent
        if (sources / "setup.py").exists():
            return None, (
                f"the compiled extension is not installed: fastblur was imported from its sources "
                f"in {sources}, where it has not been built (start Python elsewhere, or with -P, "
                f"to import the fastblur that pip installed; or build it there: pip install "
                f"--no-build-isolation --editable .)"
            )
        return None, (
            "the compiled extension is not installed: fastblur was built without a C++ compiler "
            f"(install one, then: {_REINSTALL})"
        )
    # Before loading: what does not fit may also load, and crash later.
    reason = why_not_for(Path(spec.origin or "").with_name("_built_for.json"))
    if reason is None:
        try:
            return import_module(name), None
        except ImportError as error:
            reason = (
                f"the compiled extension does not load with torch {torch.__version__}; build it "
                f"again ({_REINSTALL}): {error}"
            )
    # Unlike a missing extension, a broken one is nobody's intention.
    _warn(f"fastblur: {reason}")
    return None, reason


def _warn(text: str) -> None:
    """At the line that imports fastblur: what is between it and here depends on the import."""
    frame = sys._getframe()
    while frame.f_back is not None and _imports(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    warnings.warn_explicit(text, RuntimeWarning, frame.f_code.co_filename, frame.f_lineno)


def _imports(module: str) -> bool:
    """Whether the module is fastblur's, or of the import system."""
    return module.partition(".")[0] in (__package__, "importlib", "_frozen_importlib")


def why_not_for(record: Path) -> str | None:
    """Why what was built for the torch in `record` is not for this torch; None if it is.

    torch keeps its binary interface within a minor version. An extension with CUDA kernels also
    needs torch's own CUDA libraries, of the same major version; one without them does not care.
    """
    try:
        built = json.loads(record.read_text())
    except FileNotFoundError:  # a module from elsewhere: loading will tell
        return None
    cuda = built["cuda"]
    same_torch = _numbers(built["torch"], 2) == _numbers(torch.__version__, 2)
    if same_torch and (cuda is None or _numbers(cuda, 1) == _numbers(torch.version.cuda, 1)):
        return None
    here = f"torch {torch.__version__}"
    if same_torch:
        here += f" with CUDA {torch.version.cuda}" if torch.version.cuda else " without CUDA"
    made = f"torch {built['torch']}" + (f" with CUDA {cuda}" if cuda else "")
    return (
        f"the compiled extension was built for {made}, and this is {here}: build it again "
        f"({_REINSTALL}), or install the torch that it was built for"
    )


def _numbers(version: str | None, count: int) -> list[str]:
    return [] if version is None else version.split("+")[0].split(".")[:count]


C, WHY_NOT = _load()
