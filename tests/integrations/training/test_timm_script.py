"""The runner of timm's scripts, with a small one and with timm's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastblur.integrations.timm_script import main

pytest.importorskip("timm")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
    "OMP_NUM_THREADS": "1",
}
TIMM = os.environ.get("FASTBLUR_TIMM")  # a clone of pytorch-image-models

# It imports and calls as train.py of timm does.
SCRIPT = """
import sys
import timm
from timm.models import create_model
from timm.task import distillation
from beside import CHANNELS
if __name__ == "__main__":
    model = create_model(sys.argv[2], pretrained=False, in_chans=CHANNELS)
    print(sys.argv[1:], type(model.maxpool).__name__, [type(m).__name__ for m in model.maxpool])
    print(timm.create_model is create_model, distillation.create_model is create_model)
"""


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastblur.integrations.timm_script", *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    (folder / "beside.py").write_text("CHANNELS = 1")
    return folder / "train.py"


@pytest.mark.parametrize(("flags", "model"), [((), "resnetblur18"), (("--antialias",), "resnet18")])
def test_create_model_returns_fused_models(
    script: Path, tmp_path: Path, flags: tuple[str, ...], model: str
) -> None:
    done = run(*flags, script, "--model", model, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    # The script has all arguments behind its name, and what lies beside it.
    assert first.startswith(f"['--model', '{model}', '--help'] ")
    assert first.endswith("['MaxPool2d', 'FilteredPool']")
    # Only the script has this create_model, and not the teacher of a distillation.
    assert second == "True False"


def test_without_the_flag_nothing_is_anti_aliased(script: Path, tmp_path: Path) -> None:
    done = run(script, "--model", "resnet18", cwd=tmp_path)
    assert "nothing to fuse" in done.stderr
    assert done.returncode != 0  # its maxpool is no Sequential


def test_without_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "the following arguments are required: script" in capsys.readouterr().err


@pytest.mark.skipif(not TIMM, reason="set FASTBLUR_TIMM to a clone of pytorch-image-models")
def test_the_real_script(tmp_path: Path) -> None:
    """One epoch, then a resumed one, then timm's validation without fastblur."""
    Image = pytest.importorskip("PIL.Image")
    for part in ("train", "validation"):
        for label in range(2):
            folder = tmp_path / "data" / part / str(label)
            folder.mkdir(parents=True)
            for i in range(4):
                Image.effect_noise((64, 64), 40 + 40 * label).convert("RGB").save(
                    folder / f"{i}.png"
                )
    common = ["--data-dir=data", "--num-classes=2", "--img-size=64", "--device=cpu", "-b=4", "-j=1"]
    common += ["--model=resnetblur18"]
    options = [*common, "--warmup-epochs=0", "--output=out"]
    assert TIMM
    one = run(Path(TIMM) / "train.py", *options, "--experiment=one", "--epochs=1", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    assert "4 of 4 fused" in one.stderr
    last = str(tmp_path / "out" / "one" / "last.pth.tar")
    more = [*options, "--experiment=two", "--epochs=2", f"--resume={last}"]
    two = run(Path(TIMM) / "train.py", *more, cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    validate = [Path(TIMM) / "validate.py", *common, "--split=validation", f"--checkpoint={last}"]
    plain = subprocess.run(
        [sys.executable, *validate], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert plain.returncode == 0, plain.stderr
    fused = torch.load(last, map_location="cpu", weights_only=False)["state_dict"]
    import timm

    assert fused.keys() == timm.create_model("resnetblur18", num_classes=2).state_dict().keys()
