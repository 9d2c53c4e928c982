"""From a run of the benchmarks to the page: options, files, tables. No time counts."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastblur import FusedMaxBlurPool
from fastblur._backends import compiled

from ..conftest import needs_extension

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").exists():
    pytest.skip("runs from a source tree only", allow_module_level=True)
for name in ("matplotlib", "pytest_benchmark", "rich"):
    pytest.importorskip(name, reason="the benchmarks need it")

from benchmarks import baselines, report, roofline, test_models, timing, workloads  # noqa: E402
from benchmarks.comparison import Comparison  # noqa: E402
from benchmarks.conftest import command  # noqa: E402
from benchmarks.pages import results, tables  # noqa: E402


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", *arguments]
    # pytest-benchmark writes no file in what it takes for a worker of pytest-xdist.
    env = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)


def tiny_networks(name: str) -> dict[str, nn.Module]:
    def make() -> nn.Module:
        conv = nn.Conv2d(3, 4, 3, padding=1)
        return nn.Sequential(conv, FusedMaxBlurPool(), nn.Flatten(), nn.LazyLinear(1000))

    nets = {variant: make() for variant in test_models.VARIANTS}
    for net in nets.values():
        net(torch.zeros(1, 3, 8, 8))
        net.load_state_dict(nets["fused"].state_dict())
    return nets


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A short run of two layers and of the levels."""
    if compiled.C is None:
        pytest.skip("the run compares the levels of the compiled extension")
    file = tmp_path_factory.mktemp("run") / "results.json"
    chosen = "test_levels or (1x64x112x112 and NCHW)"
    done = run("--rounds=2", f"--benchmark-json={file}", "--benchmark-quiet", "-q", "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1x64x112x112 max3 p1 f3 float32 NCHW full | fastblur |" in done.stdout
    return json.loads(file.read_text()) | {"file": file}


def test_a_run_writes_down_what_was_asked(finished: dict[str, Any]) -> None:
    entries = finished["benchmarks"]
    assert {entry["extra_info"]["kind"] for entry in entries} == {"layer", "levels"}
    for entry in entries:
        info, seconds = entry["extra_info"], entry["stats"]["data"]
        assert len(seconds) == 2
        median = sum(seconds) / 2
        assert info["gb_per_s"] == pytest.approx(info["bytes"] / median / 1e9)
        assert info["fraction_of_limit"] == pytest.approx(info["limit_ms"] / 1e3 / median)
        assert info["threads"] >= 1
        assert info["cold"] is True
        assert info["page_faults"] >= 0
        assert info["peak_bytes"] > 0
        assert ("saved_bytes" in info) == (info["mode"] != "forward")
    one_race = [e for e in entries if e["group"] == entries[0]["group"]]
    assert len(one_race) > 2
    assert len({entry["extra_info"]["limit_ms"] for entry in one_race}) == 1
    machine = finished["machine_info"]["fastblur"]
    assert torch.__version__.startswith(machine["versions"]["torch"].split("+")[0])
    assert machine["simd"] == compiled.C.cpu.targets()[0]  # type: ignore[union-attr]


BEGIN, END = "<!-- benchmarks.report: begin -->", "<!-- benchmarks.report: end -->"


def test_report(finished: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"# A page\n{BEGIN}\nold\n{END}\nafter\n")
    out = tmp_path / "out"
    assert report.main([str(finished["file"]), "--out", str(out), "--page", str(page)]) == 0
    text, rest = page.read_text(), (page.parent / "page_tables.md").read_text()
    assert text.startswith("# A page\n")
    assert text.endswith("after\n")
    assert "old" not in text.split()
    assert "[All rows](page_tables.md)" in text
    assert rest.startswith("# A page: tables\n")
    for part in (text, rest, (out / "results.md").read_text()):
        assert "Nothing in this part is a GPU measurement" in part
        assert f"torch {torch.__version__.split('+')[0]}" in part
    for name in ("limit.png", "memory.png"):
        for folder in (out, page.parent / "figures" / "page"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert f"(figures/page/{name})" in text
    loaded = results.load(out / "results.json")  # the short file says the same
    assert report.filled(loaded, page) == text
    assert report.tables_page(loaded, page) == rest


def test_tables_show_what_was_timed(finished: dict[str, Any]) -> None:
    loaded = results.load(finished["file"])
    ours = next(
        row for row in loaded["rows"] if (row["rival"], row["mode"]) == (baselines.OURS, "full")
    )
    named = {
        row["rival"]: row
        for row in loaded["rows"]
        if (row["label"], row["mode"]) == (ours["label"], "full")
    }
    del named[baselines.OURS]
    fastest = min(named.values(), key=lambda row: row["ms"])

    def line_of(text: str, *keys: str) -> str:
        return next(
            line for line in text.splitlines() if all(f"| {ours[key]} " in line for key in keys)
        )

    line = line_of(report.details(loaded), "layer", "dtype", "layout", "mode")
    assert f"{ours['ms']:.3g} [{ours['low_ms']:.3g}, {ours['high_ms']:.3g}]" in line
    assert f"{fastest['rival']}: {fastest['ms']:.3g} [" in line
    short = line_of(report.summary(loaded, "."), "layer", "dtype")
    assert f" {ours['ms']:.3g} |" in short
    for text in (line, short):
        assert f"{fastest['ms'] / ours['ms']:.1f} times" in text
        assert f"{ours['fraction_of_limit']:.0%}" in text


def test_summary_sorts_by_layout() -> None:
    """One line a layer; what did not run in a layout is left open there."""
    common = {"layer": "a", "dtype": "float32", "mode": "full", "fraction_of_limit": 0.5}
    common |= {"low_ms": 1.0, "high_ms": 9.0}
    rows = [
        common | {"layout": layout, "rival": rival, "ms": ms}
        for layout, rival, ms in (
            ("NCHW", baselines.OURS, 2.0),
            ("NCHW", baselines.TIMM, 5.0),
            ("NHWC", baselines.TIMM, 7.0),
        )
    ]
    line = tables.summary(rows).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["a", "float32", "2", "50%", "2.5 times", "-", "-", "-"]


def test_table_of_upsampling() -> None:
    common = {"label": "a NCHW", "layer": "a", "dtype": "float32", "layout": "NCHW", "mode": "full"}
    common |= {"kind": "upsampling", "low_ms": 1.0, "high_ms": 9.0, "fraction_of_limit": 0.5}
    rows = [
        common | {"rival": rival, "ms": ms}
        for rival, ms in ((baselines.OURS, 2.0), (baselines.TRANSPOSED, 5.0))
    ]
    line = tables.upsampling(rows).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["a", "float32", "NCHW", "full"]
    assert cells[4:] == ["2 [1, 9]", "50%", "2.5 times"]


def test_tables_of_what_the_short_run_leaves_out(
    finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks, the calls with nothing to compute, torch.compile."""
    monkeypatch.setattr(test_models, "networks", tiny_networks)
    load = test_models.Load(8, 8, torch.float32)
    monkeypatch.setattr(test_models, "LOADS", {"cpu": load})
    cpu = torch.device("cpu")
    steps = test_models.Steps("tiny", True, cpu)
    assert steps.missing == {}
    assert steps.facts["fused"]["peak_bytes"] > steps.facts["fused"]["parameter_bytes"] > 0
    timed = {"ms": 2.0, "low_ms": 1.0, "high_ms": 4.0, "min_ms": 1.0, "rounds": 3}
    common = {"kind": "model", "label": "tiny NHWC", "layer": "tiny", "layout": "NHWC"}
    common |= {"dtype": "float32"}
    common |= {"mode": "training step", "batch": 8, "pixels": 8} | timed
    more = [common | facts | {"rival": name} for name, facts in steps.facts.items()]
    more[0]["ms"] = 1.0
    names = (baselines.OURS, baselines.COMPILED_OURS, baselines.UNFUSED)
    small = Comparison(workloads.OVERHEAD, timing.Clock(cpu), names, compiler="eager")
    more += [
        {"kind": kind} | timed | small.facts(name, "full") | {"fraction_of_limit": 0.5}
        | {"gb_per_s": 1.0, "limit_ms": 1.0, "page_faults": 1234, "cold": False}
        for kind in ("overhead", "layer")
        for name in small.rivals
    ]  # fmt: skip
    loaded = results.load(finished["file"]) | {"rows": more}
    text = report.summary(loaded, ".")
    assert "| tiny    | NHWC | fused   | 1 [1, 4] |" in text.replace("      1 [", " 1 [")
    assert "0.50" in text
    text = report.details(loaded)
    assert "2000.0" in text
    assert " 1234 |" in text
    assert "## torch.compile" in text


def test_gpu_results_say_so(finished: dict[str, Any]) -> None:
    loaded = results.load(finished["file"])
    loaded |= {"run": loaded["run"] | {"device": "cuda", "gpu": "GPU X"}}
    for text in (report.summary(loaded, "."), report.details(loaded)):
        assert "**Measured on a GPU: GPU X.**" in text
        assert "Nothing in this part" not in text


def test_page_needs_its_marks() -> None:
    for page in ("", BEGIN, f"{END}{BEGIN}", f"{BEGIN * 2}{END}"):
        with pytest.raises(ValueError, match="once each"):
            report.fill(page, "new")


def test_report_refuses_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(SystemExit):
        report.main([str(other)])
    assert "holds no results of these benchmarks" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["performance.md", "performance_gpu.md"])
def test_page_says_what_was_measured(name: str) -> None:
    """No figure of the generated parts was typed by hand or is left over from another run."""
    page = ROOT / "docs" / name
    loaded = results.load(page.parent / report.beside(page) / "results.json")
    assert report.filled(loaded, page) == page.read_text()
    assert report.tables_page(loaded, page) == report.tables_of(page).read_text()


@pytest.mark.parametrize("name", ["performance.md", "performance_gpu.md"])
def test_page_has_few_tables(name: str) -> None:
    """The long ones are on the page of tables."""
    lines = (ROOT / "docs" / name).read_text().splitlines()
    heads = [i for i, line in enumerate(lines) if re.fullmatch(r"\|( ?-+:? ?\|)+", line)]
    assert len(heads) <= 4
    for i in heads:
        following = itertools.takewhile(lambda line: line.startswith("|"), lines[i + 1 :])
        assert len(list(following)) <= 13


@needs_extension
def test_roofline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes is what the page of performance shows."""
    monkeypatch.setattr(roofline, "CALLS", 1)
    monkeypatch.setattr(roofline, "WORKLOADS", [workloads.Workload((1, 2, 12, 12), 2, 0, 4)])
    monkeypatch.setattr(roofline, "LARGER", (2, 3))
    file = tmp_path / "roofline.json"
    monkeypatch.setattr(sys, "argv", ["roofline", "--out", str(file)])
    threads = torch.get_num_threads()
    assert roofline.main() == 0
    torch.set_num_threads(threads)
    found = json.loads(file.read_text())
    assert found["simd"] == compiled.C.cpu.target()  # type: ignore[union-attr]
    assert [row["layout"] for row in found["rows"]] == ["NCHW", "NHWC"]
    for row in found["rows"]:
        assert all(ns > 0 for ns in (*row["training forward"], *row["backward"]))
        assert f"{row['backward'][1]:.1f} |" in tables.in_cache([row])


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--simd=mmx"], "must be one of"),
        (["--device=cuda"], "torch sees no CUDA device"),
        (["--rounds=0"], "--rounds must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(options: list[str], message: str) -> None:
    if "--device=cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run(*options, "--collect-only")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    if compiled.C is not None or "--simd=mmx" not in options:
        assert message in done.stderr


def test_options_choose() -> None:
    short = run("--collect-only", "-q").stdout
    full = run("--collect-only", "-q", "--full", "--simd=generic").stdout
    assert set(short.splitlines()[:-2]) < set(full.splitlines())
    assert "training_forward-fastblur" in full
    assert "64x64x10x10" in full
    assert "64x64x10x10" not in short
    assert short.count("test_training_step") == 6


def test_command_without_where_files_went() -> None:
    arguments = ["benchmarks", "--benchmark-quiet", "--benchmark-json", "/x.json", "--simd", "avx2"]
    assert command(arguments) == "pytest benchmarks --simd avx2"
    assert command(["--benchmark-json=/x.json", "-k", "a or b"]) == "pytest -k 'a or b'"
