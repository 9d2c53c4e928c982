"""Loads the compiled extension, or keeps the reason why there is none."""

from __future__ import annotations

import warnings
from importlib import import_module, util
from types import ModuleType


def _load() -> tuple[ModuleType | None, str | None]:
    name = f"{__package__}._C"
    if util.find_spec(name) is None:
        return None, (
            "the compiled extension is not installed: fastblur was built without a C++ compiler "
            "(install one, then: pip install --no-build-isolation --force-reinstall --no-deps "
            "from the sources)"
        )
    try:
        return import_module(name), None
    except ImportError as error:
        # Unlike a missing extension, a broken one is nobody's intention.
        reason = (
            f"the compiled extension does not load with this torch; rebuild fastblur against it "
            f"({error})"
        )
        warnings.warn(f"fastblur: {reason}", RuntimeWarning, stacklevel=4)
        return None, reason


C, WHY_NOT = _load()
