"""Build of the compiled extension ``fastblur._C``; everything else is in pyproject.toml.

Environment:
    FASTBLUR_BUILD        ``1``: the extension must build, ``0``: pure Python, unset: build it if
                          there is a C++ compiler and otherwise install pure Python, saying so.
    FASTBLUR_CUDA         ``1``: it must have CUDA kernels, ``0``: none, unset: it has them if torch
                          and a CUDA toolkit of the same major version are there. A visible GPU
                          plays no part.
    CUDA_HOME             the toolkit (or CUDA_PATH); unset: that of the nvcc on PATH.
    TORCH_CUDA_ARCH_LIST  the architectures, as torch takes them; unset: DEFAULT_ARCHS.
    FASTBLUR_SANITIZE     what -fsanitize= takes, for ``.ci/sanitize``; unset: nothing.
    CXX, MAX_JOBS         the compiler, and how many to run at a time, as usual.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
# One for each generation, where the toolkit knows it; the last also as PTX, for what comes after.
DEFAULT_ARCHS = ("8.0", "9.0", "10.0", "12.0")


def wanted(name: str) -> bool | None:
    """An environment variable that is 1, 0 or unset."""
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        sys.exit(f"{name} must be '0', '1' or unset, got {value!r}")
    return value == "1" if value else None


def say(text: str) -> None:
    """Tells the user once: setup.py runs for the metadata too."""
    if {"build", "build_ext", "bdist_wheel", "editable_wheel", "develop"} & set(sys.argv):
        print(f"fastblur: {text}", file=sys.stderr)


def compiler() -> str | None:
    """The path of the C++ compiler that the build would use, if there is one."""
    command = os.environ.get("CXX", "c++").split()
    return shutil.which(command[0]) if command else None


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cuda_toolkit() -> tuple[Path | None, str]:
    """The root of the CUDA toolkit to build with, or None and the reason."""
    import torch

    if torch.version.cuda is None:
        return None, f"torch {torch.__version__} is a build without CUDA"
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if not home:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            return None, "there is no nvcc (put it on PATH, or set CUDA_HOME to the toolkit)"
        # It may be a script that starts another, so it is asked where it really is.
        command = [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull]
        plan = subprocess.run(command, capture_output=True, text=True).stderr
        top = re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE)
        home = top[1].strip() if top else str(Path(nvcc).resolve().parent.parent)
    root = Path(home).resolve()
    if not (root / "bin" / "nvcc").exists():
        return None, f"CUDA_HOME is {root}, which has no bin/nvcc"
    release = re.search(r"release (\d+)\.(\d+)", output_of(root / "bin" / "nvcc", "--version"))
    version = ".".join(release.groups()) if release else "unknown"
    if version.split(".")[0] != torch.version.cuda.split(".")[0]:
        return None, (
            f"the toolkit in {root} is CUDA {version}, torch is built for CUDA "
            f"{torch.version.cuda}, and their major versions must be equal"
        )
    return root, ""


def cpp_extension() -> object:
    """torch.utils.cpp_extension, without its remark that there is no GPU."""
    logging.disable(logging.WARNING)
    from torch.utils import cpp_extension

    logging.disable(logging.NOTSET)
    return cpp_extension


def arch_flags(toolkit: Path, torch_build: object) -> list[str]:
    known = output_of(toolkit / "bin" / "nvcc", "--list-gpu-arch").split()
    default = [arch for arch in DEFAULT_ARCHS if f"compute_{arch.replace('.', '')}" in known]
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(default) + "+PTX")
    return torch_build._get_cuda_arch_flags()


def extensions(toolkit: Path | None) -> dict[str, object]:
    if toolkit is not None:
        os.environ["CUDA_HOME"] = str(toolkit)  # torch guesses it on import
    torch_build = cpp_extension()

    def files(*patterns: str) -> list[str]:
        found = [path for pattern in patterns for path in (ROOT / "csrc").rglob(pattern)]
        return sorted(str(path.relative_to(ROOT)) for path in found)

    flags = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
    # With -fopenmp, ATen's parallel_for uses torch's own thread pool; without it, it runs serially.
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    sanitize = []
    if os.environ.get("FASTBLUR_SANITIZE"):
        sanitize = [f"-fsanitize={os.environ['FASTBLUR_SANITIZE']}", "-fno-sanitize-recover=all"]
        # Python's own -fwrapv would make every overflow lawful.
        flags += [*sanitize, "-fno-wrapv", "-O1", "-g1", "-fno-omit-frame-pointer"]
    compile_args = {"cxx": flags + openmp}
    if toolkit is None:
        make = torch_build.CppExtension
        sources = [path for path in files("*.cpp") if not path.startswith("csrc/cuda/")]
    else:
        make = torch_build.CUDAExtension
        sources = files("*.cpp", "*.cu")
        archs = arch_flags(toolkit, torch_build)
        built = ",".join(sorted(re.findall(r",code=(\w+)", " ".join(archs)), key=arch_order))
        compile_args["cxx"].append(f"-DFASTBLUR_CUDA_ARCHS={built}")
        # torch takes the operators of the 16-bit types away; the kernels use them.
        types = ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_CONVERSIONS")
        operators = [f"-U__CUDA_NO_{name}__" for name in types]
        # 128: "loop is not reachable", of loops that a template argument makes empty.
        quiet = ["-diag-suppress=128", "-Xcompiler=-Wno-psabi"]
        compile_args["nvcc"] = ["-O3", "-Xfatbin=-compress-all", *quiet, *operators, *archs]
    extension = make(
        "fastblur._C",
        sources,
        depends=files("*.h", "*.cuh"),
        extra_compile_args=compile_args,
        extra_link_args=openmp + sanitize,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": recording(torch_build, toolkit)}}


def recording(torch_build: object, toolkit: Path | None) -> type:
    """The build command, that also writes down which torch it built for: fastblur/_extension.py."""
    import torch

    cuda = None if toolkit is None else torch.version.cuda
    built_for = json.dumps({"torch": torch.__version__, "cuda": cuda}) + "\n"

    class Build(torch_build.BuildExtension):
        def build_extension(self, ext: object) -> None:
            super().build_extension(ext)
            module = Path(self.get_ext_fullpath(ext.name))
            module.with_name("_built_for.json").write_text(built_for)

        def copy_extensions_to_source(self) -> None:
            super().copy_extensions_to_source()  # of an editable installation
            (ROOT / "fastblur" / "_built_for.json").write_text(built_for)

    return Build


def arch_order(arch: str) -> tuple[bool, int]:
    """Machine code before PTX, each from old to new."""
    kind, _, number = arch.partition("_")
    return kind != "sm", int(re.sub(r"\D", "", number))


build, cuda = wanted("FASTBLUR_BUILD"), wanted("FASTBLUR_CUDA")
if cuda and build is False:
    sys.exit("FASTBLUR_CUDA=1 asks for compiled kernels, and FASTBLUR_BUILD=0 for none")
if (build or cuda) and compiler() is None:
    name = "FASTBLUR_BUILD" if build else "FASTBLUR_CUDA"
    sys.exit(f"{name}=1, but there is no C++ compiler (set CXX or install one)")
toolkit = None
if build is not False and compiler() is None:
    say("no C++ compiler found, installing without the compiled kernels")
    build = False
if build is not False and cuda is not False:
    toolkit, why_not = cuda_toolkit()
    if cuda and toolkit is None:
        sys.exit(f"FASTBLUR_CUDA=1, but {why_not}")
    if toolkit is None:
        say(f"building for the CPU only: {why_not}")
setup(**({} if build is False else extensions(toolkit)))
