"""As a package: another torch than it was built for, and no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastblur

from .conftest import needs_extension

HERE = Path(__file__).parent
INSTALLED = Path(fastblur.__file__).parent.parent
MINOR = ".".join(torch.__version__.split(".")[:2])
OTHER_MINOR = f"{MINOR}9.0"
CUDA = torch.version.cuda


def python(*arguments: str | Path, path: Path = HERE.parent) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd="/",
        # The package's own place too, for there is its metadata.
        env=os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{INSTALLED}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def linked(to: Path) -> None:
    """This fastblur once more, in `to`, as if it had been built for another torch."""
    package = to / "fastblur"
    package.mkdir()
    for entry in Path(fastblur.__file__).parent.iterdir():
        if entry.name not in ("_built_for.json", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    (package / "_built_for.json").write_text('{"torch": "1.2.3", "cuda": null}')


@pytest.mark.parametrize(
    ("built_torch", "built_cuda", "message"),
    [
        (torch.__version__, CUDA, None),
        (f"{MINOR}.99+local", None, None),
        ("1.2.3", None, f"built for torch 1.2.3, and this is torch {torch.__version__}: build it"),
        ("1.2.3", "9.1", "built for torch 1.2.3 with CUDA 9.1, and this is torch"),
        (torch.__version__, "9.1", f"built for torch {torch.__version__} with CUDA 9.1, and this"),
        (OTHER_MINOR, None, f"was built for torch {OTHER_MINOR}, and this is torch"),
    ],
    ids=str,
)
def test_fits_one_torch(
    tmp_path: Path, built_torch: str, built_cuda: str | None, message: str | None
) -> None:
    record = tmp_path / "_built_for.json"
    record.write_text(json.dumps({"torch": built_torch, "cuda": built_cuda}))
    reason = _extension.why_not_for(record)
    if message is None:
        assert reason is None
    else:
        assert reason is not None
        assert message in reason
        assert "pip install" in reason
        assert "\n" not in reason


def test_without_a_record_loading_tells(tmp_path: Path) -> None:
    assert _extension.why_not_for(tmp_path / "_built_for.json") is None


@needs_extension
def test_import_beside_another_torch(tmp_path: Path) -> None:
    """One warning, the reference runs, a backend asked for by name says why; nothing is loaded."""
    linked(tmp_path)
    done = python(
        "-c",
        "import sys, torch, fastblur\n"
        "assert fastblur.__file__.startswith(sys.argv[1]), fastblur.__file__\n"
        "assert 'fastblur._C' not in sys.modules\n"
        "fastblur.FusedMaxBlurPool()(torch.zeros(1, 1, 9, 9))\n"
        "try: fastblur.FusedMaxBlurPool(backend='cpu')(torch.zeros(1, 1, 9, 9))\n"
        "except RuntimeError as error: print(error)",
        str(tmp_path),
        path=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "backend 'cpu' cannot run: the compiled extension was built for torch 1.2.3" in (
        done.stdout
    )
    assert done.stderr.count("was built for torch 1.2.3, and this is torch") == 1


@needs_extension
@pytest.mark.parametrize(
    "line",
    ["from fastblur.surgery import fuse_", "import importlib; importlib.import_module('fastblur')"],
)
def test_the_warning_is_at_the_line_that_imports(tmp_path: Path, line: str) -> None:
    linked(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(f"import torch\n\n{line}\n")
    done = python(script, path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{script}:3: RuntimeWarning: fastblur: the compiled extension was built for" in (
        done.stderr
    )


@pytest.mark.parametrize("sources", [False, True])
def test_no_extension_where_fastblur_was_imported_from(tmp_path: Path, sources: bool) -> None:
    """In a clone of the sources Python imports those, whatever pip has installed."""
    linked(tmp_path)
    if sources:
        (tmp_path / "setup.py").touch()
    done = python(
        "-c",
        "import importlib.util as util\n"  # an editable fastblur would lend its extension
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'fastblur._C' else find(name, *a)\n"
        "import fastblur; print(fastblur.compiled.WHY_NOT)",
        path=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    where = f"was imported from its sources in {tmp_path}, where it has not been built"
    assert (where in done.stdout) == sources
    assert ("was built without a C++ compiler" in done.stdout) != sources


def test_touches_no_network() -> None:
    done = python(HERE / "offline.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reference: the judge" in done.stdout


def test_offline_can_fail() -> None:
    """A socket is an error there, so that the test above means something."""
    done = python(
        "-c",
        "import runpy, sys\n"
        "program = runpy.run_path(sys.argv[1])\n"
        "sys.addaudithook(program['refuse_sockets'])\n"
        "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)",
        HERE / "offline.py",
    )
    assert "where nothing may touch the network" in done.stderr
