"""What the measures of stability have in common: the model's state, errors, plots, progress."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import FusedMaxBlurPool1d
from fastblur.metrics import (
    ShiftConsistency,
    feature_similarity,
    shift_consistency,
    shift_equivariance,
    stability_curve,
)


class Spot(nn.Module):
    """Knows where the brightest pixel is: one class for each place, so every shift changes it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Chain(nn.Module):
    """A small classifier with batch norm, dropout and an eval-mode part, for its state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.norm(self.conv(x)).relu())
        return self.head(F.max_pool2d(y, 2).mean((2, 3)))

    def train(self, mode: bool = True) -> Chain:
        """Keeps its batch norm frozen, as models in fine-tuning do."""
        super().train(mode)
        self.norm.eval()
        return self


def images(n: int = 12, size: int = 12) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def channel_means(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def run_all(net: Callable[[Tensor], Tensor]) -> list[Any]:
    x = images(4)
    return [
        shift_consistency(net, x, crop=8),
        stability_curve(net, x, torch.zeros(4, dtype=torch.int64), crop=8),
        feature_similarity(net, x[:1], 14),
    ]


def flags(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


def test_state_is_restored() -> None:
    net = Chain()
    net.train()
    net.conv.eval()  # a mixture that neither train() nor eval() would give back
    before, buffers = flags(net), {k: v.clone() for k, v in net.state_dict().items()}
    seen = []
    net.register_forward_pre_hook(
        lambda module, _: seen.append((flags(module), torch.is_inference_mode_enabled()))
    )
    for _ in run_all(net):
        assert flags(net) == before
    layer = nn.Sequential(nn.Dropout(), FusedMaxBlurPool1d())
    layer[1].eval()
    shift_equivariance(layer, torch.rand(8))
    assert flags(layer) == [True, True, False]
    assert all(not any(training) and inference for training, inference in seen)
    assert all(torch.equal(v, buffers[k]) for k, v in net.state_dict().items())
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("which", range(4))
def test_state_is_restored_after_an_error(which: int) -> None:
    net = Chain()
    net.train()
    before = flags(net)

    def fail(*_: object) -> None:
        assert not net.training
        raise RuntimeError("on purpose")

    handle = net.head.register_forward_hook(fail)
    x, y = images(2), torch.zeros(2, dtype=torch.int64)
    calls: list[Callable[[], object]] = [
        lambda: shift_consistency(net, x, crop=8),
        lambda: stability_curve(net, x, y, crop=8),
        lambda: feature_similarity(net, x, 14, layer="conv"),
        lambda: shift_equivariance(net, torch.rand(3, 8)),
    ]
    with pytest.raises(RuntimeError):
        calls[which]()
    handle.remove()
    assert flags(net) == before
    assert not net.conv._forward_hooks
    assert not torch.is_inference_mode_enabled()


def test_images_that_are_none() -> None:
    with pytest.raises(TypeError, match=r"images must be a tensor \[N, C, H, W\] or .*NoneType"):
        shift_consistency(Spot(), None, crop=8)  # type: ignore[arg-type]


def test_a_failed_update_counts_nothing() -> None:
    metric = ShiftConsistency(crop=8)
    with pytest.raises(ValueError, match="classes"):
        metric.update(lambda x: x, images())
    metric.update(channel_means, images())
    assert metric.compute().ids.tolist() == list(range(12))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: shift_consistency(Spot(), x), r"exactly one of crop .* circular=False"),
        (lambda x: shift_consistency(Spot(), x, crop=4, circular=True), "exactly one of crop"),
        (lambda x: shift_consistency(Spot(), x, crop=13), r"crop must fit .* 12 x 12, got \(13"),
        (lambda x: shift_consistency(Spot(), x, crop=0), "crop must be at least 1, got 0"),
        (lambda x: shift_consistency(Spot(), x, crop=(1, 2, 3)), r"pair .* got \(1, 2, 3\)"),
        (lambda x: shift_consistency(Spot(), x, crop=8, offsets=6), r"offsets must be at most \(5"),
        (lambda x: shift_consistency(Spot(), x, crop=8, pairs=0), "pairs must be at least 1"),
        (lambda x: shift_consistency(Spot(), x, crop=8, seed=-1), "seed must be at least 0"),
        (lambda x: shift_consistency(Spot(), x, crop=8, batch_size=0), "batch_size must be at"),
        (lambda x: shift_consistency(Spot(), x[0], crop=8), r"images must be \[N, C, H, W\]"),
        (lambda x: shift_consistency(Spot(), [x[0]], crop=8), r"a batch of images must be \[N"),
        (lambda x: shift_consistency(nn.Identity(), x, crop=8), r"model must return .* \[12, cl"),
        (lambda x: twice(x, [0, 1, 1]), "ids must be unique, got 1 again"),
        (lambda x: twice(x, [0.0, 1.0, 2.0]), "ids must be ints"),
        (lambda x: stability_curve(Spot(), x, crop=8), "labels must be given"),
        (lambda x: curve(x, [1] * 11), r"labels must have shape \[12\]"),
        (lambda x: curve(x, [999] * 12), r"labels must be in 0\.\.191, .* 999\.\.999"),
        (lambda x: curve(x[:0], []), "images must not be empty"),
        (
            lambda x: feature_similarity(Spot(), x, 11),
            r"at least the size of the patch, \(12, 12\)",
        ),
        (lambda x: feature_similarity(Spot(), x, 14, anchor=(3, 0)), r"anchor must be .* \(2, 2\)"),
        (lambda x: feature_similarity(Spot(), x, 14, step=0), "step must be at least 1"),
        (lambda x: feature_similarity(Spot(), x[0, 0], 14), r"patch must be .* \[12, 12\]"),
        (lambda x: feature_similarity(Chain(), x, 14, layer="c"), r"one of \['conv', .* got 'c'"),
        (lambda x: feature_similarity(Idle(), x, 14, layer="idle"), "'idle', which did not"),
        (lambda x: feature_similarity(lambda x: (x,), x, 14), "features must be .* got tuple"),
        (lambda x: feature_similarity(Spot(), x, 14, background=torch.ones(2)), "background must"),
        (
            lambda x: shift_equivariance(nn.MaxPool1d(3), torch.rand(8)),
            "multiple of the layer's stride",
        ),
        (
            lambda x: shift_equivariance(nn.MaxPool1d(5), torch.rand(8)),
            "multiple of the layer's stride",
        ),
        (lambda x: shift_equivariance(nn.AvgPool1d(20, 1), torch.rand(8)), "at least two periods"),
        (lambda x: shift_equivariance(nn.Flatten(), torch.rand(8)), r"layer must give \[1, C, L\]"),
        (lambda x: shift_equivariance(nn.MaxPool1d(2), torch.rand(8), []), "shifts must be"),
        (lambda x: shift_equivariance(nn.MaxPool1d(2), torch.rand(8), [0.5]), r"ints, .* \[0\.5\]"),
        (lambda x: shift_equivariance(nn.MaxPool1d(2), torch.arange(8)), "signal must be floating"),
    ],
)
def test_errors(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(images())


def twice(x: Tensor, ids: list[Any]) -> None:
    ShiftConsistency(crop=8).update(Spot(), x[:3], ids=torch.tensor(ids))


def curve(x: Tensor, labels: list[int]) -> None:
    stability_curve(Spot(), x, torch.tensor(labels, dtype=torch.int64), crop=8)


class Idle(Spot):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Identity()


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match=r"pairs must be an int, got 1\.5"):
        ShiftConsistency(crop=8, pairs=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a batch of images must be a tensor .* got str"):
        shift_consistency(Spot(), ["x"], crop=8)
    with pytest.raises(TypeError, match="layer='x' needs a model that is a module, got function"):
        feature_similarity(channel_means, images(), 14, layer="x")


def test_the_model_decides_on_the_device() -> None:
    net = Chain().to("meta")
    with pytest.raises(NotImplementedError, match="meta"):  # the images went there, not back
        shift_consistency(net, images(), crop=8)


def test_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="draws with matplotlib")
    monkeypatch.delenv("DISPLAY", raising=False)
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    consistency, curve, similarity = run_all(Chain())
    equivariance = shift_equivariance(nn.MaxPool1d(2), torch.rand(8))
    for result in (consistency, curve, similarity, equivariance):
        ax = result.plot()
        assert result.plot(ax) is ax
        ax.figure.canvas.draw()
        assert ax.get_xlabel()
        assert ax.get_ylabel()
    lines = equivariance.plot().lines
    assert lines[0].get_ydata() == pytest.approx(equivariance.distance.mean(1).tolist())
    one = curve.plot(image=2).lines[0].get_ydata()
    assert one == pytest.approx(curve.probability[2].tolist())
    # The points are means of pairs, all of them counted once.
    points = consistency.plot().lines[0].get_ydata()
    assert len(points) == 4
    assert sum(points) / 4 == pytest.approx(100 * consistency.consistency)
    # Rows of a heat map go down, also where two share their axis or one is drawn over.
    heat = similarity.plot(similarity.plot())
    assert heat.get_ylim()[0] > heat.get_ylim()[1]
    plt.close("all")


def test_plot_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"fastblur\[plot\]"):
        shift_equivariance(nn.MaxPool1d(2), torch.rand(8)).plot()


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    x = images()
    plain = shift_consistency(channel_means, x, crop=8, batch_size=5)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    without = shift_consistency(channel_means, x, crop=8, batch_size=5, progress=True)
    assert torch.equal(without.agreement, plain.agreement)
    assert capsys.readouterr() == ("", "")
    monkeypatch.undo()
    pytest.importorskip("rich", reason="the bar is rich's")
    shown = shift_consistency(channel_means, x, crop=8, batch_size=5, progress=True)
    assert torch.equal(shown.agreement, plain.agreement)
    assert "Shift consistency" in capsys.readouterr().out


def test_import_stays_light() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import fastblur; fastblur.metrics;"
        "print({m.split('.')[0] for m in set(sys.modules) - before} & {'matplotlib', 'rich'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
