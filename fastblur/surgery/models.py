"""Which models can be changed in place, and that a change is all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def check_module(model: Any) -> None:
    """Raises TypeError if ``model`` is not a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def check_model(model: Any) -> None:
    """Raises TypeError if ``model`` is not a module, or is scripted, compiled or wrapped.

    Wrappers cannot be traced, so fewer layers would be found inside.
    """
    check_module(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model must not be scripted, got a ScriptModule")
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        name = type(model).__name__
        raise TypeError(f"model must be the module inside {name}: pass model.module")
    if hasattr(model, "_orig_mod"):
        raise TypeError("model must not be compiled yet: change it, then torch.compile it")


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Whatever is raised inside leaves every module of the model as it was."""
    saved = [
        (
            module,
            type(module),
            dict(vars(module)),
            {name: value.copy() for name, value in vars(module).items() if isinstance(value, dict)},
        )
        for module in model.modules()
    ]
    try:
        yield
    except BaseException:
        for module, kind, own, tables in saved:
            object.__setattr__(module, "__class__", kind)
            vars(module).clear()
            vars(module).update(own)
            for name, table in tables.items():
                own[name].clear()
                own[name].update(table)
        raise
