"""What the build chooses, what it refuses, and that it says why; the builds themselves are CI's."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from fastblur._backends.compiled import _runs

SETUP = Path(__file__).parents[2] / "setup.py"
pytestmark = pytest.mark.skipif(not SETUP.exists(), reason="runs from a source tree only")

VARIABLES = ("CUDA_HOME", "CUDA_PATH", "CXX", "TORCH_CUDA_ARCH_LIST")
KNOWN = "compute_75 compute_80 compute_90 compute_100 compute_120"


def setup(
    *arguments: str, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs setup.py without building; `path` comes first on PATH."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("FASTBLUR_") and key not in VARIABLES
    }
    if path is not None:
        clean["PATH"] = f"{path}{os.pathsep}{clean['PATH']}"
    return subprocess.run(
        [sys.executable, SETUP, *(arguments or ["--name"])],
        cwd=SETUP.parent,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def program(path: Path, output: str, status: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"echo '{line}'\n" for line in output.splitlines())
    path.write_text(f"#!/bin/sh\n{lines}exit {status}\n")
    path.chmod(0o755)


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """Stands in for a CUDA toolkit."""
    program(tmp_path / "cuda" / "bin" / "nvcc", KNOWN.replace(" ", "\n"))
    return tmp_path / "cuda"


def chosen(toolkit: Path, gpus: str | None, **environment: str) -> str:
    """What a build with this toolkit says, on a machine with these GPUs."""
    tools = toolkit.parent / "tools"
    program(tools / "nvidia-smi", gpus or "no devices were found", status=0 if gpus else 6)
    # "build" is what makes setup.py speak; --help ends it there.
    done = setup("build", "--help", path=tools, CUDA_HOME=str(toolkit), **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (dict(FASTBLUR_CUDA="yes"), "FASTBLUR_CUDA must be '0', '1' or unset, got 'yes'"),
        (dict(FASTBLUR_BUILD="2"), "FASTBLUR_BUILD must be '0', '1' or unset, got '2'"),
        (dict(FASTBLUR_CUDA="1", FASTBLUR_BUILD="0"), "FASTBLUR_BUILD=0 for none"),
        (dict(FASTBLUR_CUDA="1", CXX="no-such-compiler"), "there is no C++ compiler"),
        (
            dict(FASTBLUR_CUDA="1", CUDA_HOME="/nowhere"),
            "FASTBLUR_CUDA=1, but CUDA_HOME is /nowhere, which has no bin/nvcc",
        ),
        (
            dict(FASTBLUR_CUDA="1", PATH="/nowhere", CXX="/bin/sh"),
            "FASTBLUR_CUDA=1, but there is no nvcc",
        ),
    ],
    ids=str,
)
def test_refuses(environment: dict[str, str], message: str) -> None:
    done = setup(**environment)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("listed", ["9", "Hopper", "9.0+ptx", "8.0 x"])
def test_refuses_an_architecture_that_it_cannot_read(toolkit: Path, listed: str) -> None:
    done = setup(CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST=listed)
    assert done.returncode == 1
    assert f"got {listed.split()[-1]!r}" in done.stderr


@pytest.mark.parametrize(
    ("listed", "built"),
    [
        ("8.0", "sm_80"),
        ("9.0;8.0+PTX", "sm_80, sm_90, compute_80"),
        (" 7.5 9.0a 12.0+PTX", "sm_75, sm_90a, sm_120, compute_120"),
        ("10.0f; 8.0", "sm_80, sm_100f"),
    ],
)
def test_builds_for_the_architectures_listed(toolkit: Path, listed: str, built: str) -> None:
    assert f"kernels for {built}, by" in chosen(toolkit, None, TORCH_CUDA_ARCH_LIST=listed)


@pytest.mark.parametrize(
    ("gpus", "built"),
    [
        ("9.0\n9.0", "sm_90"),
        ("8.0\n12.0", "sm_80, sm_120"),
        ("13.0", "sm_120, compute_120"),  # newer than the toolkit
        ("7.0\n7.5", "sm_75"),  # and older
    ],
)
def test_builds_for_the_gpus_that_are_there(toolkit: Path, gpus: str, built: str) -> None:
    assert f"kernels for {built}, by" in chosen(toolkit, gpus)


def test_builds_for_every_generation_if_asked(toolkit: Path) -> None:
    built = "sm_75, sm_80, sm_90, sm_100, sm_120, compute_100"
    assert f"kernels for {built}, by" in chosen(toolkit, "9.0", FASTBLUR_CUDA="1")
    for gpu in ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"):
        major, minor = map(int, gpu.split("."))
        assert any(_runs(arch, major, minor) for arch in built.split(", ")), gpu
    # An older toolkit: PTX of the last one that it knows.
    program(toolkit / "bin" / "nvcc", "compute_80\ncompute_90")
    assert "kernels for sm_80, sm_90, compute_90, by" in chosen(toolkit, None, FASTBLUR_CUDA="1")


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [(None, "there is no GPU (FASTBLUR_CUDA=1 or"), ("7.0", "knows none of the GPUs, 7.0")],
)
def test_builds_for_the_cpu_and_says_why(toolkit: Path, gpus: str | None, reason: str) -> None:
    said = chosen(toolkit, gpus)
    assert "building for the CPU only: " in said
    assert reason in said
    assert said.count("fastblur: ") == 1


def test_builds_nothing_where_there_is_no_compiler() -> None:
    done = setup("build", "--help", CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler found, installing without" in done.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm")
def test_the_extension_has_nothing_of_torch() -> None:
    sources = [path.read_text() for path in (SETUP.parent / "csrc").rglob("*") if path.is_file()]
    assert sources
    assert not [text for text in sources if any(w in text for w in ("ATen", "c10", "torch/"))]
    for module in (SETUP.parent / "fastblur").glob("_C.*.so"):
        symbols = subprocess.check_output(["nm", "-DC", module], text=True)
        assert "PyInit__C" in symbols
        assert not [line for line in symbols.splitlines() if "at::" in line or "c10::" in line]
        assert "torch" not in symbols


@pytest.mark.parametrize(
    ("machine", "ours"), [("x86_64", "x86_64-linux"), ("aarch64", "sbsa-linux")], ids=str
)
def test_takes_the_libraries_of_this_machine(tmp_path: Path, machine: str, ours: str) -> None:
    """Of a toolkit that can compile for both, and has no folder that is named for neither."""
    for name in ("x86_64-linux", "sbsa-linux"):
        (tmp_path / "targets" / name / "lib").mkdir(parents=True)
    with mock.patch("platform.machine", return_value=machine), mock.patch("setuptools.setup"):
        script = runpy.run_path(str(SETUP))
    flags = script["link_flags"](script["Cuda"](tmp_path, ["sm_90"]))
    folders = [flag for flag in flags if flag.startswith("-L")]
    assert folders == [f"-L{tmp_path}/targets/{ours}/lib"]
