"""The callback for fastai."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from .tiny import assert_same_weights, batches, blurred, erase, is_fused, plain, weights

pytest.importorskip("fastai")
from fastai.data.core import DataLoaders
from fastai.learner import Learner

from fastblur.integrations.fastai import FastBlur


def learner(network: nn.Module, path: Path, **options: Any) -> Any:
    data = DataLoaders(batches(), batches())
    return Learner(data, network, nn.CrossEntropyLoss(), path=path, lr=0.1, **options)


CASES = pytest.mark.parametrize(
    ("network", "options"), [(blurred, {}), (plain, {"antialias": True})], ids=["fuse", "antialias"]
)


@CASES
def test_fuses_when_the_learner_is_made(network: Any, options: Any, tmp_path: Path) -> None:
    model = network()
    parameters = list(model.parameters())
    learn = learner(model, tmp_path, cbs=FastBlur(**options))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert is_fused(learn.model)


@CASES
def test_a_saved_learner_continues(network: Any, options: Any, tmp_path: Path) -> None:
    """Two fits without a stop, and two learners with a file between them, end the same."""
    whole = learner(network(), tmp_path, cbs=FastBlur(**options))
    whole.fit(1)
    whole.fit(1)
    first = learner(network(), tmp_path, cbs=FastBlur(**options))
    first.fit(1)
    first.save("one")
    second = learner(network(), tmp_path, cbs=FastBlur(**options))
    erase(second.model)
    second.load("one")
    second.fit(1)
    assert_same_weights(whole.model, second.model)


@CASES
def test_for_one_fit(network: Any, options: Any, tmp_path: Path) -> None:
    """The optimizer is older than the change, and trains the same objects."""
    learn = learner(network(), tmp_path)
    learn.create_opt()
    before = weights(learn.model)
    learn.fit(1, cbs=FastBlur(**options))
    assert all(
        not torch.equal(p, old)
        for p, old in zip(learn.model.parameters(), before.values(), strict=True)
    )
    assert is_fused(learn.model)


def test_goes_before_callbacks_that_wrap_the_model(tmp_path: Path) -> None:
    from fastai.distributed import ParallelTrainer

    learn = learner(blurred(), tmp_path, cbs=[ParallelTrainer([]), FastBlur()])
    names = [type(callback).__name__ for callback in learn.ordered_cbs("before_fit")]
    assert names[0] == "FastBlur"
    learn.fit(1)


def test_a_vision_learner_keeps_its_parameter_groups(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    from fastai.vision.learner import vision_learner

    def groups(**options: Any) -> list[int]:
        learn = vision_learner(
            DataLoaders(batches(), batches()),
            models.resnet18,
            normalize=False,
            n_out=2,
            loss_func=nn.CrossEntropyLoss(),
            path=tmp_path,
            pretrained=False,
            **options,
        )
        learn.create_opt()
        return [len(group) for group in learn.opt.param_lists]

    assert groups(cbs=FastBlur(antialias=True)) == groups()
