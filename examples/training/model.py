"""The network, its optimiser and its schedule."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch
import torchvision
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

import fastblur

from .options import TIMM


def build(args: Namespace, classes: int) -> tuple[nn.Module, list[Any]]:
    """The network on its device, and the reports of `antialias_` and `fuse_`."""
    if args.arch.startswith(TIMM):
        import timm

        model = timm.create_model(args.arch.removeprefix(TIMM), num_classes=classes)
    else:
        model = torchvision.models.get_model(args.arch, weights=None, num_classes=classes)
    reports: list[Any] = []
    if args.antialias is not None:
        reports.append(fastblur.antialias_(model, args.antialias))
    if args.fuse:
        reports.append(fastblur.fuse_(model))
    model.to(args.device)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    return model, reports


def make_optimizer(model: nn.Module, args: Namespace) -> torch.optim.Optimizer:
    """SGD; weight decay for matrices and kernels, not for biases and the scales of norms."""
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(
        groups, lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, args: Namespace, steps_per_epoch: int
) -> LRScheduler:
    """The learning rate per step: a linear rise, then a cosine to 0."""
    warm = round(args.warmup_epochs * steps_per_epoch)
    cosine = CosineAnnealingLR(optimizer, max(args.epochs * steps_per_epoch - warm, 1))
    if warm == 0:
        return cosine
    line = LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
    return SequentialLR(optimizer, [line, cosine], milestones=[warm])
