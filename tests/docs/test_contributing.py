"""The steps of docs/contributing/ for a filter length, followed in a copy of the CPU kernels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fastblur._backends import compiled

from ..mutants import kernels

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    compiled.C is None
    or "avx2" not in compiled.C.cpu.targets()
    or not (ROOT / "csrc").exists()
    or shutil.which("c++") is None,
    reason="compiles the AVX2 kernels of a source tree",
)


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """A copy of the sources with another set of sizes."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    file = tmp_path / "csrc/cpu/kernels/specialisation.h"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    return tmp_path


def test_a_filter_length_is_two_entries(tmp_path: Path) -> None:
    """Values and gradients of the whole case list, 6 taps included."""
    known = "using TapCounts = KnownSizes<2, 3, 4, 5>;"
    tree = changed(tmp_path, known, known.replace("5", "5, 6"))
    with pytest.raises(ValueError, match="every number of TapCounts must be in RowCounts"):
        kernels.try_kernels(tree, ["kernels fused 2"])
    file = tree / "csrc/cpu/kernels/specialisation.h"
    file.write_text(
        file.read_text().replace("KnownSizes<1, 2, 3, 4, 5>", "KnownSizes<1, 2, 3, 4, 5, 6>")
    )
    assert kernels.try_kernels(tree, ["kernels fused 2"]) is None


def test_a_window_that_the_codes_do_not_know_does_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = changed(tmp_path, "KnownSizes<1, 2, 3>;", "KnownSizes<1, 2, 3, 4>;")
    defines, dtype, _ = kernels.VARIANTS["fused 2"]
    monkeypatch.setitem(kernels.VARIANTS, "fused 4", (defines, dtype, 4))
    with pytest.raises(ValueError, match="knows the codes of windows of 1, 2 and 3"):
        kernels.try_kernels(tree, ["kernels fused 4"])
