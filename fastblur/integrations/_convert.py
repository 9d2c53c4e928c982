"""What the callbacks of this folder, and the runner of timm's scripts, do to a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import nn

from ..surgery import antialias_, fuse_
from ..surgery.report import Report

_log = logging.getLogger("fastblur.integrations")


class Converter:
    """Runs ``antialias_``, if asked, and ``fuse_`` on a model.

    Logs their reports: at INFO what changed, as a WARNING that nothing did.

    Args:
        antialias: whether to run ``antialias_``; a mapping holds its keyword arguments.
        fuse: the keyword arguments of ``fuse_``.

    Raises:
        TypeError: ``antialias`` is neither a bool nor a mapping, or an argument has an unknown
            name.
    """

    def __init__(self, antialias: bool | Mapping[str, Any], fuse: Mapping[str, Any]) -> None:
        if not isinstance(antialias, (bool, Mapping)):
            raise TypeError(
                f"antialias must be True, False or a dict of antialias_'s arguments, got "
                f"{antialias!r}"
            )
        self.antialias, self.fuse = antialias, fuse
        self._options = {} if isinstance(antialias, bool) else antialias
        signature(antialias_).bind(None, **self._options)
        signature(fuse_).bind(None, **fuse)

    def __call__(self, model: nn.Module) -> None:
        """Changes the model in place. A second call changes nothing."""
        reports: dict[str, Report[Any]] = {}
        if self.antialias is not False:
            reports["antialias_"] = antialias_(model, **self._options)
        reports["fuse_"] = fused = fuse_(model, **self.fuse)
        if any(report.changed for report in reports.values()):
            level = logging.INFO
        else:
            level = logging.DEBUG if fused.already else logging.WARNING
        for name, report in reports.items():
            _log.log(level, "%s:\n%s", name, report)
