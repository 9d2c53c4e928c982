"""`fuse_` in front of the Trainer of transformers, and examples/hf_trainer.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fastblur

from .tiny import assert_same_weights, batches, erase, is_fused, weights

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
    "OMP_NUM_THREADS": "1",
}
EXAMPLE = Path(__file__).parents[3] / "examples" / "hf_trainer.py"


def ordinary() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=2
    )
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config)
    fastblur.antialias_(model)
    fastblur.fuse_(model)
    return model


def of_timm(fuse: bool = True) -> Any:
    pytest.importorskip("timm")
    config = transformers.TimmWrapperConfig(architecture="resnetblur18", num_labels=2)
    torch.manual_seed(0)
    model = transformers.TimmWrapperForImageClassification(config)
    if fuse:
        fastblur.fuse_(model)
    return model


def train(model: Any, steps: int, folder: Path, resume: Path | None = None) -> Any:
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        save_steps=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    images, labels = batches().dataset.tensors  # type: ignore[attr-defined]
    data = [dict(pixel_values=x, labels=y) for x, y in zip(images, labels, strict=True)]
    trainer = transformers.Trainer(model, arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


@pytest.mark.parametrize("make", [ordinary, of_timm])
def test_a_resumed_run_ends_as_one_without_a_stop(make: Any, tmp_path: Path) -> None:
    whole, resumed = make(), make()
    erase(resumed)
    before = weights(whole)
    train(whole, 4, tmp_path / "whole")
    assert any(not torch.equal(p, before[name]) for name, p in whole.named_parameters())
    train(resumed, 4, tmp_path / "resumed", tmp_path / "whole" / "checkpoint-2")
    assert_same_weights(whole, resumed)
    assert is_fused(whole)


def test_a_fused_model_is_saved_as_an_unfused_one(tmp_path: Path) -> None:
    model = of_timm()
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert_same_weights(model, loaded)
    assert not is_fused(loaded)


def test_an_anti_aliased_model_is_loaded_as_the_page_says(tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    model, loaded = ordinary(), ordinary()
    with torch.no_grad():
        model.classifier[1].weight.fill_(1.0)
    model.save_pretrained(tmp_path)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert_same_weights(model, loaded)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="runs from a source tree only")
def test_example(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--steps", "20", "--out", tmp_path],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "strided layers anti-aliased" in done.stdout
    assert "2 of 2 fused" in done.stdout
    assert re.search(r"'eval_accuracy': '?[\d.]+", done.stdout)
