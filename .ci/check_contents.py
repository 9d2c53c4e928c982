"""Holds an sdist and a wheel to what they should have in them: KIND SDIST WHEEL."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

kind, sdist, wheel = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
wrong: list[str] = []


def check(condition: bool, message: str) -> None:
    if not condition:
        wrong.append(message)


tracked = set(subprocess.check_output(["git", "ls-files"], text=True).split("\n")) - {""}
modules = {name for name in tracked if name.startswith("fastblur/")}
sources = {name for name in tracked if name.startswith("csrc/") and "." in PurePosixPath(name).name}

with tarfile.open(sdist) as archive:
    packed = {name.partition("/")[2] for name in archive.getnames()}
tests = {name for name in tracked if name.startswith(("testing/", "tests/"))}
needed = modules | sources | tests | {"setup.py", "pyproject.toml", "LICENSE", "README.md"}
check(needed <= packed, f"the sdist lacks {sorted(needed - packed)}")
binary = [name for name in packed if name.endswith((".so", ".o", ".pyc"))]
check(not binary, f"the sdist has {binary}")

with zipfile.ZipFile(wheel) as archive:
    files = {name for name in archive.namelist() if not name.endswith("/")}
    metadata_folder = next(name.split("/")[0] for name in files if ".dist-info/" in name)
    tags = email.message_from_bytes(archive.read(f"{metadata_folder}/WHEEL"))
    metadata = email.message_from_bytes(archive.read(f"{metadata_folder}/METADATA"))

inside = {name for name in files if not name.startswith(metadata_folder)}
compiled = {name for name in inside if PurePosixPath(name).match("fastblur/_C.*.so")}
check(inside - compiled == modules, f"the wheel differs by {sorted((inside - compiled) ^ modules)}")
check(len(compiled) == (kind != "pure"), f"the wheel has the extensions {sorted(compiled)}")
check(f"{metadata_folder}/licenses/LICENSE" in files, "the wheel lacks its licence")
check(metadata["License-Expression"] == "Apache-2.0", "the wheel's metadata name no licence")
check("torch>=" in "".join(metadata.get_all("Requires-Dist", [])), "the wheel does not need torch")
python = f"cp{sys.version_info.major}{sys.version_info.minor}"
here = "py3-none-any" if kind == "pure" else rf"{python}-{python}-(many)?linux_"
check(re.match(here, tags["Tag"]) is not None, f"the wheel's tag is {tags['Tag']}")
size = wheel.stat().st_size / 1e6
check(size < 60, f"the wheel has {size:.0f} MB")

for message in wrong:
    print(f"{wheel.name}: {message}", file=sys.stderr)
print(f"{sdist.name}: {len(packed)} entries; {wheel.name}: {len(files)} files")
sys.exit(bool(wrong))
