"""Data, training and resuming of examples/figures.py, on generated images."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from . import fashion_files

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "examples").exists(), reason="runs from a source tree only"
)
TRAIN, LABELS = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def part(name: str) -> ModuleType:
    pytest.importorskip("rich", reason="the script needs it")
    return importlib.import_module(f"examples.science.{name}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fashion_files.write(tmp_path / "raw")


def test_loads_what_was_written(folder: Path) -> None:
    fashion = part("data").load(folder)
    counts = fashion_files.NAMES
    assert [len(fashion.train[0]), len(fashion.test[0])] == [counts["train"], counts["t10k"]]
    assert fashion.train[1].tolist() == [i % 10 for i in range(counts["train"])]
    generator = torch.Generator().manual_seed(0)
    first = fashion_files.photographs(fashion.train[1], generator)
    assert torch.equal(fashion.train[0][:, 0], first.to(torch.uint8))
    few = part("data").load(folder, 20, 10)
    assert torch.equal(few.train[0], fashion.train[0][:20])
    assert len(few.test[1]) == 10
    assert few.digest() != fashion.digest()


def test_finds_the_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named itself, as torchvision's folder, and in the known places."""
    data = part("data")
    assert data.find(folder) == folder
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.parent.mkdir(parents=True)
    folder.rename(raw)
    assert data.find(tmp_path / "data") == raw
    monkeypatch.chdir(tmp_path)
    assert data.find() == Path("data/FashionMNIST/raw")
    monkeypatch.setattr(data, "PLACES", (tmp_path / "nowhere",))
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder.*torchvision.*--data"):
        data.find()


@pytest.mark.parametrize("name", [TRAIN, LABELS])
def test_a_missing_file(folder: Path, name: str) -> None:
    data = part("data")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {name}.*dataset-fashion-mnist"):
        data.find(folder)
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        data.load(folder)


@pytest.mark.parametrize("name", [TRAIN, LABELS])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_file_cut_short(folder: Path, name: str, keep: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=rf"{name} (is damaged|must start)"):
        part("data").load(folder)


def rewrite(path: Path, start: bytes | None = None, **changes: Any) -> None:
    content = gzip.decompress(path.read_bytes())
    content = content if start is None else start + content[len(start) :]
    path.write_bytes(gzip.compress(content[: changes.get("length")], 1))


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        (TRAIN, b"\0\0\x08\x01", r"must start with the bytes 00 00 08 03.*got 00 00 08 01"),
        (LABELS, b"\0\0\x08\x03", r"must start with the bytes 00 00 08 01.*got 00 00 08 03"),
        (LABELS, b"\0\0\x0d\x01", r"uint8 with 1 dimension, got 00 00 0d 01"),
        (LABELS, b"\0\0\x08\x01\0\0\0\xc9", r"must have 209 bytes unpacked.*got 208"),
        (LABELS, b"\0\0\x08\x01\0\0\0\xc8\x0a", r"has the class 10, of 10 from 0"),
    ],
)
def test_another_kind_of_file(folder: Path, name: str, start: bytes, message: str) -> None:
    rewrite(folder / name, start)
    with pytest.raises(ValueError, match=f"{name}.*{message}|{message}"):
        part("data").load(folder)


def test_a_file_that_is_not_gzip(folder: Path) -> None:
    (folder / TRAIN).write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=f"{TRAIN} is damaged.*Not a gzipped file"):
        part("data").load(folder)


def test_as_many_labels_as_images(folder: Path) -> None:
    labels = fashion_files.pack(torch.arange(7))
    (folder / LABELS).write_bytes(gzip.compress(labels))
    with pytest.raises(ValueError, match="has 200 t10k images, but 7 labels"):
        part("data").load(folder)


@pytest.fixture
def plan(folder: Path, tmp_path: Path) -> Any:
    runs, training, measuring = part("runs"), part("training"), part("measuring")
    (tmp_path / "work").mkdir()
    return runs.Plan(
        folder=folder,
        work=tmp_path / "work",
        train_images=64,
        test_images=20,
        recipe=training.Recipe(epochs=1, batch_size=16),
        measures=measuring.Measures(shifted_images=20, curves=10, step=10, near=10),
    )


def test_shifts_move_images_and_nothing_else(folder: Path) -> None:
    data, training = part("data"), part("training")
    images = data.load(folder).train[0][:50]
    moved = training.shifted(
        data.centred(images, 2 * data.MARGIN), torch.Generator().manual_seed(0)
    )
    assert moved.shape == (50, 1, data.CANVAS, data.CANVAS)
    inks = [
        x[0].nonzero().amin(0) - y[0].nonzero().amin(0)
        for x, y in zip(moved, data.centred(images), strict=True)
    ]
    shifts = torch.stack(inks)
    assert shifts.amin(0).tolist() == [-data.MARGIN] * 2
    assert shifts.amax(0).tolist() == [data.MARGIN] * 2
    sums = moved.double().sum((1, 2, 3)), data.centred(images).double().sum((1, 2, 3))
    torch.testing.assert_close(*sums)


def test_one_seed_gives_all_poolings_the_same_weights() -> None:
    networks = part("networks")
    for network in networks.NETWORKS:
        nets = [networks.build(network, name, 3) for name in networks.POOLINGS]
        weights = [[p.flatten() for p in net.parameters()] for net in nets]
        assert all(map(torch.equal, weights[0], each) for each in weights)
        x = torch.rand(2, 1, 40, 40)
        results = [net.eval()(x) for net in nets]
        for i, one in enumerate(results):
            assert not any(torch.allclose(one, other) for other in results[:i])


def test_blur_first_is_in_front_of_all_that_subsamples() -> None:
    networks = part("networks")
    for network, convolutions, pools in (("ResNet", 2, 1), ("CNN", 0, 3)):
        net = networks.build(network, networks.FIRST, 0)
        kinds = []
        for path, module in net.named_modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.MaxPool2d) and module.stride in (
                2,
                (2, 2),
            ):
                first, second = net.get_submodule(path.rpartition(".")[0]).children()
                assert second is module
                x = torch.rand(1, 32, 12, 12)[:, : getattr(module, "in_channels", 32)]
                blurred = first(x)
                assert blurred.shape == x.shape
                assert blurred.std() < 0.7 * x.std()
                kinds.append(type(module).__name__)
        assert kinds.count("Conv2d") == convolutions
        assert kinds.count("MaxPool2d") == pools


def test_resumes_from_weights_and_figures(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run made is taken as it is; what another protocol made is made anew."""
    runs, training = part("runs"), part("training")
    fashion, job = plan.load(), part("runs").Job("CNN", "blur 3", True, 0)
    digest = fashion.digest()
    runs.Worker.plan, runs.Worker.fashion, runs.Worker.digest = plan, fashion, digest
    monkeypatch.setattr(runs.Worker, "tick", lambda: None)
    assert runs.found(job, plan, digest) is None
    runs.Worker.run(job)
    figures = runs.found(job, plan, digest)
    assert 0 <= figures["accuracy"] <= 1
    weights = runs.trained(job, plan, fashion, digest, None).state_dict()

    calls = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda *a, **k: calls.append(1) or train(*a, **k))
    (plan.work / f"{job.name}.json").unlink()
    runs.Worker.run(job)  # from the weights
    assert not calls
    assert runs.found(job, plan, digest) == figures

    for other in (
        replace(plan, recipe=replace(plan.recipe, learning_rate=0.05)),
        replace(plan, train_images=48),
    ):
        assert runs.found(job, other, digest) is None
        again = runs.trained(job, other, other.load(), digest, lambda: None).state_dict()
        assert any(not torch.equal(again[key], weights[key]) for key in weights)
    assert len(calls) == 2
    assert runs.found(job, plan, "other data") is None
    assert runs.found(job, replace(plan, measures=replace(plan.measures, pairs=2)), digest) is None
    assert runs.found(replace(job, seed=1), plan, digest) is None


def test_training_is_reproducible_and_learns(folder: Path) -> None:
    data, networks, training = part("data"), part("networks"), part("training")
    fashion, recipe = data.load(folder), training.Recipe(epochs=2, batch_size=20)
    losses = [
        training.train(
            networks.build("CNN", "blur 2", 0), fashion.train, recipe, shifts=shifts, seed=seed
        )
        for shifts, seed in ((True, 0), (True, 0), (False, 0), (True, 1))
    ]
    assert losses[0] == losses[1]
    assert losses[0] not in losses[2:]
    assert sum(losses[0][-10:]) < sum(losses[0][:10]) / 2


def running(work: Path) -> list[int]:
    """Processes whose command line, or whose parent's, names this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inside = os.readlink(entry / "cwd") == str(work)
        except OSError:
            continue
        if inside:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_quick_run_goes_on_after_a_kill(folder: Path, tmp_path: Path) -> None:
    """Killed after its first network, with its processes; started again it keeps that one."""
    page_of, pictures = part("page"), part("drawing").PICTURES
    here, work = tmp_path / "here", tmp_path / "here" / "work"
    here.mkdir()
    page = here / "page.md"
    parts = (
        f"<!-- figures.py: begin {name} -->\nold\n<!-- figures.py: end {name} -->\n"
        for name in page_of.PARTS
    )
    page.write_text("\n".join(["before", *parts, "after\n"]))
    command = [sys.executable, "-m", "examples.figures", "--quick", "--data", str(folder)]
    command += ["--work", str(work), "--out", str(here), "--page", str(page)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    kept = dict(cwd=here, env=environment, text=True)

    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, **kept)
    until = time.monotonic() + 300
    while not (done := sorted(work.glob("*.json"))):
        assert first.poll() is None
        assert time.monotonic() < until
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    while running(here):
        assert time.monotonic() < until, "the processes outlived the one that started them"
        time.sleep(0.2)
    assert len(list(work.glob("*.json"))) < 24
    before = {path: path.stat().st_mtime_ns for path in done}

    again = subprocess.run(command, capture_output=True, timeout=900, **kept)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == before
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert len(json.loads((here / "science.json").read_text())["networks"]) == 24
    for name in pictures:
        (here / f"{name}.png").unlink()
    subprocess.run([*command, "--redraw"], check=True, capture_output=True, timeout=300, **kept)
    assert page.read_text() == text
    for name in pictures:
        assert (here / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_without_data_it_says_where_to_get_them(tmp_path: Path) -> None:
    part("drawing")
    command = [sys.executable, "-m", "examples.figures", "--data", str(tmp_path / "none")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"python -m examples.figures: {tmp_path / 'none'} is not a folder"
    )
    assert "Traceback" not in done.stderr
