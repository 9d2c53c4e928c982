"""Builds, checks and times fastblur on the NVIDIA GPU of this machine, within a budget of minutes.

Writes results.json and results.md, and the output of the programs that it runs, to a folder, and
returns 1 if anything was wrong. Needs torch with CUDA, rich and pytest; rivals that are not
installed are left out. With --device cpu it runs through on tiny inputs, for CI: what it then times
is no GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def parse() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="build/gpu", help="folder (%(default)s)")
    parser.add_argument("--minutes", type=float, default=9.0, help="budget (%(default)s)")
    parser.add_argument("--rounds", type=int, default=25, help="timings of each (%(default)s)")
    parser.add_argument(
        "--build",
        choices=("auto", "yes", "no"),
        default="auto",
        help="build fastblur from these sources, editable, for this GPU; auto: if the one that is "
        "installed cannot run on it",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dry-run", action="store_const", const="cpu", dest="device")
    parser.add_argument("--only", nargs="*", metavar="SECTION", help="run these sections alone")
    return parser.parse_args()


def must_build(options: Namespace) -> bool:
    if options.device == "cpu" or options.build != "auto":
        return options.build == "yes"
    # In a child, since an extension that is loaded cannot be replaced.
    ask = (
        "import sys, torch; from fastblur import _backends as b;"
        "sys.exit(b.choose('auto', torch.device('cuda', 0)).name != 'cuda')"
    )
    return subprocess.run([sys.executable, "-c", ask], cwd=ROOT).returncode != 0


def build() -> None:
    import torch

    major, minor = torch.cuda.get_device_capability()
    command = (
        f"{sys.executable} -m pip install -v --no-build-isolation --no-deps --editable".split()
    )
    settings = {"FASTBLUR_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
    subprocess.run([*command, str(ROOT)], check=True, env=os.environ | settings)


def main() -> int:
    options = parse()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no CUDA device; --device cpu runs the script without one.")
    from benchmarks.gpu.session import Session, facts

    session = Session(options)
    if must_build(options):
        session.section("build", lambda _: build() or "built for this GPU")
    from benchmarks.gpu import report, sections

    session.results["facts"] = facts(session)
    plan = {
        "layers": (sections.layers, 10.0),
        "tests": (sections.tests, 60.0),
        "training step": (sections.training, 20.0),
        "sanitizer": (sections.sanitizer, 60.0),
        "torch.compile": (sections.compilers, 60.0),
    }
    for name, (run, needs) in plan.items():
        if options.only is None or name in options.only:
            with sections.clocks(session, name):
                session.section(name, run, needs)
            report.write(session.results, session.out)  # whatever comes next, this is kept
    for path in report.write(session.results, session.out):
        print(path)
    return 1 if session.results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
