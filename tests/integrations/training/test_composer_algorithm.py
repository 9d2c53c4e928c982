"""The algorithm for Composer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from .tiny import assert_same_weights, batches, blurred, erase, is_fused, plain, weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Composer, at a torch that is newer than it asks for
    composer = pytest.importorskip("composer")
from composer.algorithms import BlurPool
from composer.models import ComposerClassifier

from fastblur.integrations.composer_algorithm import FastBlur


def classifier(network: nn.Module) -> Any:
    return ComposerClassifier(network, num_classes=2)


def trainer(model: Any, epochs: int, algorithms: Any, **options: Any) -> Any:
    return composer.Trainer(
        model=model,
        optimizers=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        train_dataloader=batches(),
        max_duration=f"{epochs}ep",
        algorithms=algorithms,
        device="cpu",
        progress_bar=False,
        seed=0,
        **options,
    )


def train(*arguments: Any, **options: Any) -> None:
    trainer(*arguments, **options).fit()


CASES = pytest.mark.parametrize(
    ("network", "algorithms"),
    [
        (blurred, lambda: [FastBlur()]),
        (plain, lambda: [FastBlur(antialias=True)]),
        (plain, lambda: [BlurPool(), FastBlur()]),
    ],
    ids=["fuse", "antialias", "behind BlurPool"],
)


@CASES
def test_fuses(network: Any, algorithms: Any) -> None:
    """The optimizer is older than the change, and trains the same objects."""
    model = classifier(network())
    before = weights(model)
    train(model, 1, algorithms())
    after = list(model.parameters())
    assert len(before) == len(after)
    assert all(not torch.equal(p, old) for p, old in zip(after, before.values(), strict=True))
    assert is_fused(model)


def test_fuses_what_blurpool_made() -> None:
    model = classifier(plain())
    train(model, 1, [BlurPool(), FastBlur()])
    assert [type(model.module[i]).__name__ for i in (2, 3)] == ["FilteredPool", "BlurredConv2d"]


def test_fuses_when_the_trainer_is_made() -> None:
    model = classifier(plain())
    parameters = list(model.parameters())
    trainer(model, 1, FastBlur(antialias=True))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert is_fused(model)


@CASES
def test_a_resumed_run_ends_as_one_without_a_stop(
    network: Any, algorithms: Any, tmp_path: Path
) -> None:
    whole, resumed = classifier(network()), classifier(network())
    erase(resumed)
    train(whole, 2, algorithms())
    train(classifier(network()), 1, algorithms(), save_folder=str(tmp_path))
    train(resumed, 2, algorithms(), load_path=str(tmp_path / "latest-rank0.pt"))
    assert_same_weights(whole, resumed)


def test_its_repr_makes_another_one() -> None:
    """Composer writes it into checkpoints."""
    algorithm = FastBlur({"filter_size": 3}, relu=False)
    assert repr(algorithm) == "FastBlur(antialias={'filter_size': 3}, relu=False)"
    assert repr(eval(repr(algorithm))) == repr(algorithm)
