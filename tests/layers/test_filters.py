"""Filters by name: the numbers of their sources, and everything that takes a name."""

from __future__ import annotations

import cmath
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastblur import FusedBlurPool, FusedBlurPool1d, FusedMaxBlurPool, FusedMaxBlurPool1d, explain
from fastblur import functional as fb
from fastblur._geometry.filters import FILTERS
from testing.judge import answer, binomial

from ..conftest import needs_extension

PAGE = Path(__file__).parents[2] / "docs" / "filters.md"
WAVELETS = [name for name in FILTERS if re.match("haar|db|bior|rbio", name)]
WINDOWS = [name for name in FILTERS if re.match("boxcar|triang", name)]
KAISERS = [name for name in FILTERS if name.startswith("kaiser")]


def test_each_family_is_compared_with_its_source() -> None:
    assert sorted(WAVELETS + WINDOWS + KAISERS) == sorted(FILTERS)


@pytest.mark.parametrize("name", FILTERS)
def test_sums_to_one(name: str) -> None:
    assert math.fsum(FILTERS[name]) == pytest.approx(1, abs=2e-16)


@pytest.mark.parametrize("name", WAVELETS)
def test_wavelets_are_those_of_wavecnet(name: str) -> None:
    """Correlated with rec_lo, the first tap at 2 i - (length / 2 - 1), zeros around, gain 2."""
    pywt = pytest.importorskip("pywt")
    row = torch.tensor(pywt.Wavelet(name).rec_lo, dtype=torch.float64)
    x = torch.randn(2, 3, 16, 26, dtype=torch.float64)
    before = len(row) // 2 - 1
    rows, columns = (
        torch.zeros(size // 2, size + 2 * len(row), dtype=torch.float64) for size in x.shape[2:]
    )
    for matrix in (rows, columns):
        for i, line in enumerate(matrix):
            start = 2 * i - before + len(row)
            line[start : start + len(row)] = row
    rows, columns = (m[:, len(row) : -len(row)] for m in (rows, columns))
    ours = fb.blur_pool2d(x, taps=name, padding_mode="zeros")
    torch.testing.assert_close(2 * ours, rows @ x @ columns.T, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["haar", "db2", "db3", "db4", "db5", "db6"])
def test_orthogonal_wavelets_are_those_of_dwt(name: str) -> None:
    pywt = pytest.importorskip("pywt")
    x = torch.randn(1, 40, dtype=torch.float64)
    (low, _) = pywt.dwt(x[0].numpy(), name, mode="zero")
    n = len(FILTERS[name])
    ours = fb.blur_pool1d(x, taps=name, padding_mode="zeros", blur_padding=n - 2)[0]
    torch.testing.assert_close(math.sqrt(2) * ours, torch.from_numpy(low), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["rbio2.2", "rbio3.3", "rbio4.4", "rbio5.5"])
def test_reversed_wavelets_have_the_filters_of_the_decomposition(name: str) -> None:
    pywt = pytest.importorskip("pywt")
    row = [v for v in pywt.Wavelet(name.replace("rbio", "bior")).dec_lo if abs(v) > 1e-14]
    assert FILTERS[name] == pytest.approx([v / math.sqrt(2) for v in row], rel=1e-11)


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_those_of_scipy(name: str) -> None:
    windows = pytest.importorskip("scipy.signal.windows")
    window = getattr(windows, name[:-1])(int(name[-1]))
    assert FILTERS[name] == pytest.approx((window / window.sum()).tolist(), rel=1e-15)


@pytest.mark.parametrize("name", KAISERS)
def test_windowed_sincs_are_those_of_scipy(name: str) -> None:
    signal = pytest.importorskip("scipy.signal")
    n, width = int(name.removeprefix("kaiser")), 4 * 0.6 / 2
    beta = signal.kaiser_beta(2.285 * (n // 2 - 1) * math.pi * width + 7.95)
    want = signal.firwin(n, 0.5, window=("kaiser", beta))
    assert FILTERS[name] == pytest.approx(want.tolist(), rel=1e-12)


def test_some_are_binomial() -> None:
    for name in ("bior2.2", "triang3"):
        assert FusedBlurPool(taps=name).geometry == FusedBlurPool(3).geometry
    for name in ("bior3.3", "triang4"):
        assert FusedBlurPool(taps=name).geometry == FusedBlurPool(4).geometry
    assert FILTERS["boxcar2"] == FILTERS["haar"]


def gain(row: tuple[float, ...], of_nyquist: float) -> float:
    return abs(sum(t * cmath.exp(-1j * math.pi * of_nyquist * k) for k, t in enumerate(row)))


def test_the_page_lists_each_with_its_gain() -> None:
    lines = re.findall(r"^\| `(\S+)` \| (\d+) \| (\S+) \| (\S+) \|$", PAGE.read_text(), re.M)
    rows = FILTERS | {f"filter_size={f}": tuple(binomial(f)) for f in (3, 4, 5)}
    assert [line[0] for line in lines][3:] == list(FILTERS)
    for name, taps, half, full in lines:
        row = rows[name]
        assert (int(taps), half, full) == (len(row), f"{gain(row, 0.5):.3f}", f"{gain(row, 1):.3f}")


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", FILTERS)
def test_value_and_gradient(name: str, backend: str) -> None:
    row = FILTERS[name]
    pad = ((len(row) - 1) // 2, len(row) // 2)
    x = torch.randn(2, 3, 21, 30, requires_grad=True)
    y = fb.max_blur_pool2d(x, 3, 2, 1, taps=name, backend=backend)  # type: ignore[arg-type]
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    want = answer(x, dy, (3, 3), (2, 2), (1, 1), row, row, pad + pad, "reflect")
    want.check(name, y, dx)


def test_everything_takes_names() -> None:
    x = torch.randn(2, 3, 20, 20)
    haar, row = FILTERS["haar"], (0.2, 0.6, 0.2)
    pairs: list[tuple[object, object]] = [
        ("haar", (haar, haar)),
        (("haar", "db2"), (haar, FILTERS["db2"])),
        (["haar", row], (haar, row)),
        ((torch.tensor(row, dtype=torch.float64), "haar"), (row, haar)),
    ]
    for taps, numbers in pairs:
        for layer in (FusedMaxBlurPool, FusedBlurPool):
            assert layer(taps=taps).taps == numbers  # type: ignore[arg-type]
        for call in (fb.max_blur_pool2d, fb.blur_pool2d):
            assert torch.equal(call(x, taps=taps), call(x, taps=numbers))  # type: ignore[arg-type]
    for layer_1d in (FusedMaxBlurPool1d, FusedBlurPool1d):
        assert layer_1d(taps="db2").taps == ((1.0,), FILTERS["db2"])
    for call_1d in (fb.max_blur_pool1d, fb.blur_pool1d):
        assert torch.equal(call_1d(x[0], taps="db2"), call_1d(x[0], taps=FILTERS["db2"]))
    assert explain(x, taps="haar").output_size == (2, 3, 10, 10)
    assert fb.blur_pool2d(x, 2, taps="haar").shape == (2, 3, 10, 10)
    with pytest.raises(ValueError, match=r"got filter_size=3 for \(2, 2\) taps"):
        fb.blur_pool2d(x, 3, taps="haar")


@needs_extension
def test_compiled_and_exported_programs_hold_numbers() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return fb.max_blur_pool2d(x, taps=("haar", "db2"))

    torch._dynamo.reset()
    x = torch.randn(1, 2, 12, 12)
    compiled = torch.compile(Net(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), Net()(x))
    for module in (Net(), FusedMaxBlurPool(taps=("haar", "db2"))):
        graph = torch.export.export(module, (x,)).graph
        (node,) = (n for n in graph.nodes if "fastblur" in str(n.target))
        assert (node.args[4], node.args[5]) == (list(FILTERS["haar"]), list(FILTERS["db2"]))
    torch._dynamo.reset()
