"""Build of the compiled extension ``fastblur._C``; everything else is in pyproject.toml.

Environment:
    FASTBLUR_BUILD        ``1``: the extension must build, ``0``: pure Python, unset: build it if
                          there is a C++ compiler and otherwise install pure Python, saying so.
    FASTBLUR_CUDA         ``1``: it must have CUDA kernels, ``0``: none, unset: it has them for the
                          GPUs of this machine, if there are any and a CUDA toolkit.
    TORCH_CUDA_ARCH_LIST  the architectures instead, as torch takes them: "8.0;9.0+PTX". Unset, and
                          with FASTBLUR_CUDA=1: DEFAULT_ARCHS.
    CUDA_HOME             the toolkit (or CUDA_PATH); unset: that of the nvcc on PATH.
    FASTBLUR_SANITIZE     what -fsanitize= takes, for ``.ci/sanitize``; unset: nothing.
    CXX, CXXFLAGS, LDFLAGS, MAX_JOBS
                          the compiler, more for it, and how many to run at a time, as usual.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# One for each generation, where the toolkit knows it. The PTX serves 11.0 and what comes after 12.
DEFAULT_ARCHS = ("7.5", "8.0", "9.0", "10.0+PTX", "12.0")
SANITIZE = os.environ.get("FASTBLUR_SANITIZE", "")
THREADS = [] if sys.platform == "darwin" else ["-fopenmp"]
# Where a toolkit has what belongs to this machine, besides folders that are named for none.
TOOLKIT_TARGET = "sbsa-linux" if platform.machine() == "aarch64" else "x86_64-linux"


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


def compiler() -> list[str] | None:
    """The command of the C++ compiler that the build would use, if there is one."""
    command = shlex.split(os.environ.get("CXX", "c++"))
    return command if command and shutil.which(command[0]) else None


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Cuda(NamedTuple):
    """The toolkit to build with, and the architectures to build for."""

    root: Path
    archs: list[str]  # "sm_90", and "compute_90" for PTX

    def existing(self, *folders: str) -> list[Path]:
        """Those of the folders that the toolkit has; their places differ by distribution."""
        here = [self.root / folder for folder in folders]
        return [folder for folder in here if folder.exists()]


def cuda_root() -> Path:
    """The root of the CUDA toolkit; RuntimeError if there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if not home:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise RuntimeError("there is no nvcc (put it on PATH, or set CUDA_HOME to the toolkit)")
        # It may be a script that starts another, so it is asked where it really is.
        command = [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull]
        plan = subprocess.run(command, capture_output=True, text=True).stderr
        top = re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE)
        home = top[1].strip() if top else str(Path(nvcc).resolve().parent.parent)
    root = Path(home).resolve()
    if not (root / "bin" / "nvcc").exists():
        raise RuntimeError(f"CUDA_HOME is {root}, which has no bin/nvcc")
    return root


def gpus() -> list[str]:
    """The compute capabilities of the GPUs that are there."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        return sorted(set(re.findall(r"^\d+\.\d+$", output_of(*command), re.MULTILINE)))
    except (OSError, subprocess.CalledProcessError):
        return []


def choose_cuda(required: bool) -> Cuda:
    """What to build the CUDA kernels with and for; RuntimeError with the reason to build none."""
    listed = re.split(r"[\s;,]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    archs = [] if listed == [""] else listed
    found = [] if archs or required else gpus()
    if not (archs or required or found):
        raise RuntimeError(
            "there is no GPU (FASTBLUR_CUDA=1 or TORCH_CUDA_ARCH_LIST asks for CUDA kernels)"
        )
    root = cuda_root()
    known = known_archs(root)
    if found:
        archs = [arch for arch in found if arch in known]
        if any(number(arch) > number(known[-1]) for arch in found):
            archs.append(known[-1] + "+PTX")
        if not archs:
            raise RuntimeError(f"the toolkit in {root} knows none of the GPUs, {', '.join(found)}")
    if not archs:
        archs = [arch for arch in DEFAULT_ARCHS if arch.removesuffix("+PTX") in known]
        if not any(arch.endswith("+PTX") for arch in archs):
            archs[-1] += "+PTX"
    return Cuda(root, arch_codes(archs))


def number(arch: str) -> int:
    """75 of "7.5", "sm_75" or "compute_75"."""
    return int(re.sub(r"\D", "", arch))


def known_archs(root: Path) -> list[str]:
    """The architectures that the toolkit compiles for, from old to new."""
    listed = re.findall(r"compute_(\d+)(\d)", output_of(root / "bin" / "nvcc", "--list-gpu-arch"))
    return sorted((f"{major}.{minor}" for major, minor in listed), key=number)


def arch_codes(archs: list[str]) -> list[str]:
    """Names of machine code, from old to new, and then of PTX."""
    codes = set()
    for arch in archs:
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", arch)
        if match is None:
            sys.exit(f"TORCH_CUDA_ARCH_LIST has entries like '9.0' or '9.0+PTX', got {arch!r}")
        codes.add(f"sm_{match[1]}{match[2]}")
        if match[3]:
            codes.add(f"compute_{match[1]}{match[2]}")
    return sorted(codes, key=lambda code: (not code.startswith("sm"), number(code)))


def sources(*patterns: str) -> list[str]:
    found = [path for pattern in patterns for path in (ROOT / "csrc").rglob(pattern)]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


RULES = """\
ninja_required_version = 1.5
builddir = {folder}
rule cxx
  command = {cxx} -Icsrc -MMD -MF $out.d {cxxflags} $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = $in
rule nvcc
  command = {nvcc} -Icsrc -MD -MF $out.d {nvccflags} -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = $in
rule link
  command = {cxx} -shared $in -o $out {ldflags}
  description = $out
"""


def cxx_flags() -> list[str]:
    flags = ["-std=c++20", "-O3", "-g0", "-DNDEBUG", "-fPIC", "-fvisibility=hidden"]
    flags += ["-Wall", "-Wno-psabi", *THREADS]
    if SANITIZE:
        flags += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-O1", "-g1"]
        flags.append("-fno-omit-frame-pointer")
    return flags


def nvcc_flags(cuda: Cuda) -> list[str]:
    # 128: "loop is not reachable", of loops that a template argument makes empty.
    flags = ["-std=c++20", "-O3", "-DNDEBUG", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wno-psabi"]
    flags += ["--expt-relaxed-constexpr", "-diag-suppress=128", "-Xfatbin=-compress-all"]
    virtual = [re.sub(r"^sm", "compute", arch) for arch in cuda.archs]
    pairs = zip(virtual, cuda.archs, strict=True)
    return flags + [f"-gencode=arch={arch},code={code}" for arch, code in pairs]


def link_flags(cuda: Cuda | None) -> list[str]:
    flags = [*THREADS] if sys.platform != "darwin" else ["-undefined", "dynamic_lookup"]
    if SANITIZE:
        flags.append(f"-fsanitize={SANITIZE}")
    if cuda is not None:
        folders = cuda.existing("lib64", "lib", f"targets/{TOOLKIT_TARGET}/lib")
        flags += [f"-L{folder}" for folder in folders]
        flags += ["-lcudart_static", "-lrt", "-ldl", "-lpthread", "-Wl,--exclude-libs,ALL"]
    return flags


def shell(words: list[str], more: str = "") -> str:
    """A command, or its end, as a ninja file has it; `more`: a variable of the environment."""
    words = [shlex.join(words), *([os.environ.get(more, "")] if more else [])]
    return " ".join(words).replace("$", "$$")


def ninja_file(folder: str, module: str, cuda: Cuda | None) -> str:
    """The build of `module`; objects go to `folder`, and serve every Python but for one."""
    import pybind11

    nvcc = []
    if cuda is not None:
        nvcc = [str(cuda.root / "bin" / "nvcc")]
        nvcc += [f"-ccbin={os.environ['CXX']}"] if "CXX" in os.environ else []
    text = RULES.format(
        folder=folder,
        cxx=shell(compiler() or []),
        cxxflags=shell(cxx_flags(), "CXXFLAGS"),
        nvcc=shell(nvcc),
        nvccflags=shell(nvcc_flags(cuda)) if cuda else "",
        ldflags=shell(link_flags(cuda), "LDFLAGS"),
    )
    python = [f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
    cuda_flags = []
    if cuda is not None:
        headers = cuda.existing("include", f"targets/{TOOLKIT_TARGET}/include")
        cuda_flags = [f"-DFASTBLUR_CUDA_ARCHS={','.join(cuda.archs)}"]
        cuda_flags += [f"-isystem{path}" for path in headers]
    objects = []
    for path in map(Path, sources("*.cpp", "*.cu")):
        of_cuda, glue = path.parts[1] == "cuda", path.name == "bindings.cpp"
        if of_cuda and cuda is None:
            continue
        tag = f".{Path(module).name}" if glue else ""
        objects.append(f"{folder}/{path.with_suffix('').as_posix()}{tag}.o")
        rule = "nvcc" if path.suffix == ".cu" else "cxx"
        flags = (python if glue else []) + (cuda_flags if glue or of_cuda else [])
        text += f"build {objects[-1]}: {rule} {path.as_posix()}\n  flags = {shell(flags)}\n"
    return f"{text}build {module}: link {' '.join(objects)}\n"


class Build(build_ext):
    """Compiles with ninja, which builds anew what a change touches, on all cores."""

    cuda: Cuda | None = None

    def build_extension(self, ext: Extension) -> None:
        """Builds it out of the way, and copies it to where setuptools wants it."""
        scripts = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
        ninja = shutil.which("ninja", path=scripts)
        if ninja is None:
            sys.exit("fastblur needs ninja to build: pip install ninja")
        folder = "build/" + re.sub(r"\W+", "-", f"objects {SANITIZE}".strip())
        module = f"{folder}/{Path(self.get_ext_filename(ext.name)).name}"
        file = ROOT / f"{module}.ninja"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(ninja_file(folder, module, self.cuda))
        command = [ninja, "-f", file.relative_to(ROOT)]
        if "MAX_JOBS" in os.environ:
            command += ["-j", os.environ["MAX_JOBS"]]
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            sys.exit("fastblur did not compile; FASTBLUR_BUILD=0 installs it in pure Python")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / module, target)
        target.chmod(0o755)


build, asked = wanted("FASTBLUR_BUILD"), wanted("FASTBLUR_CUDA")
if asked and build is False:
    sys.exit("FASTBLUR_CUDA=1 asks for compiled kernels, and FASTBLUR_BUILD=0 for none")
if (build or asked) and compiler() is None:
    name = "FASTBLUR_BUILD" if build else "FASTBLUR_CUDA"
    sys.exit(f"{name}=1, but there is no C++ compiler (set CXX or install one)")
if build is not False and compiler() is None:
    say("no C++ compiler found, installing without the compiled kernels")
    build = False
if build is not False and asked is not False:
    try:
        Build.cuda = choose_cuda(bool(asked))
        say(f"CUDA kernels for {', '.join(Build.cuda.archs)}, by the toolkit in {Build.cuda.root}")
    except RuntimeError as reason:
        if asked:
            sys.exit(f"FASTBLUR_CUDA=1, but {reason}")
        say(f"building for the CPU only: {reason}")
extension = Extension("fastblur._C", sources("*.cpp", "*.cu"), depends=sources("*.h", "*.cuh"))
setup(**({} if build is False else dict(ext_modules=[extension], cmdclass=dict(build_ext=Build))))
