"""The code of docs/integrations.md runs, and fuses."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from .tiny import batches, blurred, is_fused, plain

PAGE = Path(__file__).parents[3] / "docs" / "integrations.md"
SECTIONS = re.split(r"^#+ (.+)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
CODE = {
    title: "".join(re.findall(r"^```py\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    for title, text in zip(SECTIONS[::2], SECTIONS[1::2], strict=True)
}


def run(title: str, **names: Any) -> dict[str, Any]:
    exec(compile(CODE[title], str(PAGE), "exec"), names)
    return names


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("fastblur")
    monkeypatch.setattr(log, "level", log.level)
    monkeypatch.setattr(logging, "basicConfig", lambda: None)
    run("Training frameworks")
    assert log.level == logging.INFO


def test_lightning() -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Lit(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = blurred()

        def training_step(self, batch: Any, index: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            import torch

            return torch.optim.SGD(self.parameters(), 0.1)

    module = Lit()
    run("Lightning", module=module, data=batches())
    assert is_fused(module)


def test_fastai() -> None:
    DataLoaders = pytest.importorskip("fastai.data.core").DataLoaders
    data = batches()
    data.dataset.loss_func = nn.CrossEntropyLoss()  # type: ignore[attr-defined]
    names = run("fastai", dls=DataLoaders(data, data), model=plain())
    assert is_fused(names["model"])


def test_composer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = pytest.importorskip("composer.models")
    model = models.ComposerClassifier(plain(), num_classes=2)
    run("Composer", model=model, data=batches())
    assert is_fused(model)


def test_hf_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("timm")
    config = transformers.TimmWrapperConfig(architecture="resnetblur18", num_labels=2)
    transformers.TimmWrapperForImageClassification(config).save_pretrained(tmp_path / "model")
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to="none"
    )
    images, labels = batches().dataset.tensors  # type: ignore[attr-defined]
    data = [dict(pixel_values=x, labels=y) for x, y in zip(images, labels, strict=True)]
    names = run("Hugging Face Trainer", name=tmp_path / "model", arguments=arguments, data=data)
    assert is_fused(names["model"])
