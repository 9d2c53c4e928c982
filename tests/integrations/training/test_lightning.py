"""The callback for Lightning, with the trainers of both of its packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from .tiny import assert_same_weights, batches, blurred, erase, is_fused, plain, weights

pytest.importorskip("lightning.pytorch", exc_type=ImportError)
from fastblur.integrations.lightning import FastBlur

Trained = Callable[..., Any]


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def package(request: pytest.FixtureRequest) -> ModuleType:
    found: ModuleType = pytest.importorskip(request.param)
    return found


@pytest.fixture
def train(package: ModuleType, tmp_path: Path) -> Trained:
    """Trains a network for some epochs, from a checkpoint or from its start."""

    def run(module: Any, epochs: int, callbacks: Any = None, resume: Path | None = None) -> Any:
        trainer = package.Trainer(
            max_epochs=epochs,
            callbacks=callbacks,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, batches(), ckpt_path=resume)
        return trainer

    return run


@pytest.fixture
def lit(package: ModuleType) -> Callable[[nn.Module], Any]:
    """Makes a LightningModule of a network."""

    class Lit(package.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net
            self.optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
            self.fused_before = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(x)
            return out

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            self.fused_before = is_fused(self.net)
            return self.optimizer  # made before the callback ran

    return Lit


@pytest.mark.parametrize(
    ("network", "options"), [(blurred, {}), (plain, {"antialias": True})], ids=["fuse", "antialias"]
)
class TestFit:
    def test_fuses_before_optimizers_are_made(
        self, lit: Any, train: Trained, network: Any, options: Any
    ) -> None:
        module = lit(network())
        parameters, before = list(module.parameters()), weights(module)
        train(module, 1, FastBlur(**options))  # a single callback, not in a list
        assert module.fused_before
        # The optimizer is older than the change, and trains the same objects.
        assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))
        assert all(
            not torch.equal(p, old)
            for p, old in zip(module.parameters(), before.values(), strict=True)
        )

    def test_a_resumed_run_ends_as_one_without_a_stop(
        self, lit: Any, train: Trained, network: Any, options: Any, tmp_path: Path
    ) -> None:
        whole = lit(network())
        train(whole, 2, [FastBlur(**options)])
        checkpoint = tmp_path / "one.ckpt"
        train(lit(network()), 1, [FastBlur(**options)]).save_checkpoint(checkpoint)
        resumed = lit(network())
        erase(resumed)
        trainer = train(resumed, 2, [FastBlur(**options)], resume=checkpoint)
        assert trainer.current_epoch == 2
        assert_same_weights(whole, resumed)


def test_fused_and_unfused_runs_resume_each_other(lit: Any, train: Trained, tmp_path: Path) -> None:
    for first, second in ((None, FastBlur()), (FastBlur(), None)):
        checkpoint = tmp_path / f"{first is None}.ckpt"
        train(lit(blurred()), 1, first).save_checkpoint(checkpoint)
        module = lit(blurred())
        assert train(module, 2, second, resume=checkpoint).current_epoch == 2


def test_only_the_submodule_changes(lit: Any, train: Trained) -> None:
    module = lit(plain())
    module.teacher = plain()
    train(module, 1, FastBlur(antialias=True, submodule="net"))
    assert str(module.teacher) == str(plain())
    assert is_fused(module.net)


def test_other_stages(lit: Any, package: ModuleType) -> None:
    module = lit(plain())
    quiet = dict(logger=False, enable_progress_bar=False, accelerator="cpu")
    trainer = package.Trainer(callbacks=FastBlur(antialias=True), **quiet)
    images = DataLoader([batch[0] for batch in batches()], batch_size=None)  # type: ignore[arg-type]
    trainer.predict(module, images)
    assert is_fused(module.net)
