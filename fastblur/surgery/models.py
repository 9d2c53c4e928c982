"""Checks that a model can be changed in place."""

from __future__ import annotations

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
        raise TypeError("model must not be compiled: call this first, then torch.compile")
