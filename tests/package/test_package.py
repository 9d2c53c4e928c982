"""As a package: parts that do not load, and no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastblur

from ..conftest import needs_extension

HERE = Path(__file__).parent
INSTALLED = Path(fastblur.__file__).parent.parent


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


def linked(to: Path, **modules: str) -> None:
    """This fastblur once more, in `to`, without its extension, and with other modules."""
    package = to / "fastblur"
    package.mkdir()
    for entry in Path(fastblur.__file__).parent.iterdir():
        if not (entry.match("_C.*") or entry.stem in modules or entry.name == "__pycache__"):
            (package / entry.name).symlink_to(entry)
    for name, text in modules.items():
        (package / f"{name}.py").write_text(text)


BROKEN = {
    "ImportError": "raise ImportError('undefined symbol: _ZN8fastblur')",
    "OSError": "raise OSError('libgomp.so.1: cannot open shared object file')",
    "RuntimeError": "raise RuntimeError('an unknown error')",
    "AttributeError": "",  # as if it were another version's
}


@pytest.mark.parametrize("kind", BROKEN)
def test_import_with_a_broken_extension(tmp_path: Path, kind: str) -> None:
    """One warning; the reference runs, a backend asked for by name says why, as the doctor does."""
    linked(tmp_path, _C=BROKEN[kind])
    done = python(
        "-c",
        "import sys, torch, fastblur\n"
        "assert fastblur.__file__.startswith(sys.argv[1]), fastblur.__file__\n"
        "x = torch.zeros(1, 1, 9, 9)\n"
        "fastblur.FusedMaxBlurPool()(x)\n"
        "print(fastblur.explain(x))\n"
        "try: fastblur.FusedMaxBlurPool(backend='cpu')(x)\n"
        "except RuntimeError as error: print(error)\n"
        "import fastblur.__main__ as doctor\n"
        "sys.exit(doctor.main())",
        str(tmp_path),
        path=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "backend 'cpu' cannot run: the compiled extension does not load" in done.stdout
    assert "pip install" in done.stdout
    assert f"({kind}: " in done.stdout
    assert done.stderr.count("RuntimeWarning: fastblur: the compiled extension does not") == 1


@pytest.mark.parametrize(
    "line",
    ["from fastblur.surgery import fuse_", "import importlib; importlib.import_module('fastblur')"],
)
def test_the_warning_is_at_the_line_that_imports(tmp_path: Path, line: str) -> None:
    linked(tmp_path, _C=BROKEN["OSError"])
    script = tmp_path / "script.py"
    script.write_text(f"import torch\n\n{line}\n")
    done = python(script, path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{script}:3: RuntimeWarning: fastblur: the compiled extension does not load" in (
        done.stderr
    )


@needs_extension
def test_operators_that_cannot_be_registered() -> None:
    """By a torch that is not known yet, say: none of it is an error but where it is asked for."""
    done = python(
        "-c",
        "import torch\n"
        "def register_fake(*args, **rest): raise ValueError('no such thing')\n"
        "torch.library.register_fake = register_fake\n"
        "import fastblur\n"
        "x = torch.zeros(1, 1, 9, 9)\n"
        "fastblur.FusedMaxBlurPool()(x)\n"
        "print(fastblur.explain(x))\n"
        "print('triton', fastblur._backends.TRITON.why_not(torch.device('cuda')))\n",
    )
    assert done.returncode == 0, done.stderr
    assert "backend         reference" in done.stdout
    assert "not cpu         the compiled extension does not load with torch" in done.stdout
    assert "triton triton" in done.stdout
    assert "RuntimeWarning" in done.stderr


def test_a_triton_that_is_broken(tmp_path: Path) -> None:
    """Whatever it raises is a reason."""
    (tmp_path / "triton.py").write_text("raise ValueError('not this one')")
    done = python(
        "-c",
        "import torch\n"
        "from fastblur import _backends\n"
        "print(_backends.choose('auto', torch.device('xpu')).name)\n"
        "print(_backends.TRITON.why_not(torch.device('xpu')))",
        path=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reference\ntriton does not load (ValueError: not this one)")


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
        "from fastblur._backends import compiled; print(compiled.WHY_NOT)",
        path=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    where = f"was imported from its sources in {tmp_path}, where it has not been built"
    assert (where in done.stdout) == sources
    assert ("was built without a C++ compiler" in done.stdout) != sources


def test_a_clone_that_is_not_installed() -> None:
    done = python(
        "-c",
        "import importlib.metadata as m\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        "import fastblur; print(fastblur.__version__)",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0+unknown\n"


def test_touches_no_network() -> None:
    done = python(HERE / "offline.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reference: used for the comparison" in done.stdout


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
