"""What the build refuses, and that it says what is missing; the builds themselves are CI's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SETUP = Path(__file__).parent.parent / "setup.py"
pytestmark = pytest.mark.skipif(not SETUP.exists(), reason="runs from a source tree only")

needs_cuda_torch = pytest.mark.skipif(
    torch.version.cuda is None, reason="torch is a build without CUDA, which is said first"
)


def setup(**environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py, without building, in this environment with changes; "" unsets."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FASTBLUR_")}
    return subprocess.run(
        [sys.executable, SETUP, "--name"],
        cwd=SETUP.parent,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (dict(FASTBLUR_CUDA="yes"), "FASTBLUR_CUDA must be '0', '1' or unset, got 'yes'"),
        (dict(FASTBLUR_BUILD="2"), "FASTBLUR_BUILD must be '0', '1' or unset, got '2'"),
        (dict(FASTBLUR_CUDA="1", FASTBLUR_BUILD="0"), "FASTBLUR_BUILD=0 for none"),
        (dict(FASTBLUR_CUDA="1", CXX="no-such-compiler"), "there is no C++ compiler"),
        pytest.param(
            dict(FASTBLUR_CUDA="1", CUDA_HOME="/nowhere"),
            "FASTBLUR_CUDA=1, but CUDA_HOME is /nowhere, which has no bin/nvcc",
            marks=needs_cuda_torch,
        ),
        pytest.param(
            dict(FASTBLUR_CUDA="1", CUDA_HOME="", CUDA_PATH="", PATH="/nowhere", CXX="/bin/sh"),
            "FASTBLUR_CUDA=1, but there is no nvcc",
            marks=needs_cuda_torch,
        ),
    ],
    ids=str,
)
def test_refuses(environment: dict[str, str], message: str) -> None:
    done = setup(**environment)
    assert done.returncode == 1
    assert message in done.stderr


@needs_cuda_torch
def test_refuses_a_toolkit_of_another_version(tmp_path: Path) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 7.5, V7.5.17'\n")
    nvcc.chmod(0o755)
    done = setup(FASTBLUR_CUDA="1", CUDA_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "is CUDA 7.5, torch is built for CUDA" in done.stderr
    done = setup(CUDA_HOME=str(tmp_path))  # not asked for: the CPU's kernels alone
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a build with CUDA")
def test_refuses_a_torch_without_cuda() -> None:
    assert "is a build without CUDA" in setup(FASTBLUR_CUDA="1").stderr
