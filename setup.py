"""Build of the compiled extension ``fastblur._C``; everything else is in pyproject.toml.

Environment:
    FASTBLUR_BUILD   ``1``: the extension must build, ``0``: pure Python, unset: build it if there
                     is a C++ compiler and otherwise install pure Python, saying so.
    CXX              the compiler, as usual.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def compiler() -> str | None:
    """The path of the C++ compiler that the build would use, if there is one."""
    command = os.environ.get("CXX", "c++").split()
    return shutil.which(command[0]) if command else None


def extensions() -> dict[str, object]:
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.cpp"))
    flags = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
    # With -fopenmp, ATen's parallel_for uses torch's own thread pool; without it, it runs serially.
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    extension = CppExtension(
        "fastblur._C",
        sources,
        depends=sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h")),
        extra_compile_args={"cxx": flags + openmp},
        extra_link_args=openmp,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


wanted = os.environ.get("FASTBLUR_BUILD", "")
if wanted not in ("", "0", "1"):
    sys.exit(f"FASTBLUR_BUILD must be '0', '1' or unset, got {wanted!r}")
if wanted == "1" and compiler() is None:
    sys.exit("FASTBLUR_BUILD=1, but there is no C++ compiler (set CXX or install one)")
build = wanted != "0" and compiler() is not None
if wanted == "" and not build:
    print(
        "fastblur: no C++ compiler found, installing without the compiled kernels", file=sys.stderr
    )
setup(**(extensions() if build else {}))
