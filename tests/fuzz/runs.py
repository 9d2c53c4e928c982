"""Runs of the fuzzer in parts: the processes, the corpus, and the tally that all parts add to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import build, seeded

CORPUS, SEEDS, FOUND = (build.CACHE / name for name in ("corpus", "seeds", "found"))
CASES = build.HERE / "cases.txt"
LIBFUZZER = (
    # By edges alone, every input of the corpus alike: counting how rare each feature is takes
    # longer than the runs.
    "-entropic=0",
    "-use_counters=0",
    "-len_control=0",
    "-print_funcs=0",  # the symbolizer takes gigabytes
    "-rss_limit_mb=0",  # Linux counts what the parent had before it started this program
    "-malloc_limit_mb=2048",
    "-max_len=96",
    "-detect_leaks=0",
    "-timeout=60",
    "-verbosity=1",
)
ASAN = "detect_leaks=0:malloc_context_size=0:quarantine_size_mb=1:max_redzone=64"


class Finding(NamedTuple):
    """An input that failed, and what is wrong."""

    file: Path
    text: str


class NamedCase(NamedTuple):
    """A line of cases.txt."""

    name: str
    data: bytes
    sentence: str


def cases() -> list[NamedCase]:
    """The committed cases: NAME HEX SENTENCE."""
    found = []
    for line in CASES.read_text().splitlines():
        if line and not line.startswith("#"):
            name, data, sentence = line.split(maxsplit=2)
            found.append(NamedCase(name, bytes.fromhex(data), sentence))
    return found


def write_cases() -> list[Path]:
    """The committed cases as files."""
    SEEDS.mkdir(parents=True, exist_ok=True)
    for case in cases():
        (SEEDS / case.name).write_bytes(case.data)
    return [SEEDS / case.name for case in cases()]


def why_not(kind: str) -> str | None:
    """The reason why the runs of one kind cannot be built here, or None."""
    from tests.cuda_on_host import build as host

    return host.why_not() if kind == "cuda" else None if kind == "installed" else build.why_not()


def build_cuda() -> Path:
    """Builds the runs of CUDA's kernels: by g++, few of them specialised, without a sanitizer."""
    from tests.cuda_on_host import build as host
    from tests.cuda_on_host.defines import FEW

    own = ("input/case", "input/repeat", "oracle/oracle", "oracle/compare", "oracle/report")
    sources = [build.HERE / f"{name}.cpp" for name in (*own, "kernels/cuda")]
    sources += [build.ROOT / "csrc" / "plan.cpp"]
    kernels = sorted((build.ROOT / "csrc" / "cuda").rglob("*.cu"))
    program = host.Build("plain", defines=FEW, folders=[build.HERE])
    return program.executable("fuzz", [*sources, *kernels])


PROGRAMS: dict[str, Callable[[], Path]] = {
    "full": lambda: build.fuzzer(build.FULL),
    "quick": seeded.program,
    "installed": build.installed,
    "cuda": build_cuda,
}


class Campaign:
    """All runs of one kind, by the name in PROGRAMS.

    Attributes:
        kind: of the build.
        tally: what all parts counted, by name.
        build_seconds: what the build took.
    """

    def __init__(self, kind: str) -> None:
        start = time.monotonic()
        self.kind = kind
        self.program = PROGRAMS[kind]()
        self.build_seconds = time.monotonic() - start
        self.file = build.CACHE / f"tally-{kind}.json"
        self.tally: dict[str, float] = {}
        core = build.changed_sources([]).name  # another core starts from nothing
        if self.file.exists():
            earlier = json.loads(self.file.read_text())
            self.tally = earlier["tally"] if earlier["core"] == core else {}
        self.core = core

    @property
    def total(self) -> int:
        """Runs so far."""
        return int(self.tally.get("runs", 0))

    def line(self) -> str:
        """Where the campaign is."""
        seconds = max(self.tally.get("seconds", 0), 1e-9)
        edges = int(self.tally.get("largest edges", 0))
        return f"{self.total} runs, {self.total / seconds:.0f}/s, {edges} edges"

    def run_again(self, inputs: Sequence[Path]) -> Finding | None:
        """Runs files, once each."""
        for file in inputs:
            found = self._finding(file)
            if found is not None:
                return found
        return None

    def run_part(self, runs: int, jobs: int, seconds: float) -> Finding | None:
        """Runs so many more cases in each of some processes."""
        for folder in (CORPUS, FOUND, SEEDS):
            folder.mkdir(parents=True, exist_ok=True)
        before = set(FOUND.iterdir())
        start = time.monotonic()
        parts = [self._start(runs, job, seconds) for job in range(jobs)]
        for process, log, tally in parts:
            status = process.wait()
            text = log.read_text(errors="replace")
            if status == 0:
                self._add(runs, text, tally)
        self.tally["seconds"] = self.tally.get("seconds", 0) + time.monotonic() - start
        self.tally["parts"] = self.tally.get("parts", 0) + 1
        self.file.write_text(json.dumps({"core": self.core, "tally": self.tally}, indent=1))
        for process, log, _ in parts:
            if process.returncode != 0:
                new = [
                    file for file in FOUND.iterdir() if file not in before and file.stat().st_size
                ]
                text = log.read_text(errors="replace")
                if not new:
                    raise RuntimeError(f"status {process.returncode}: {text[-3000:]}")
                return self._finding(new[0]) or Finding(new[0], f"not again: {words_of(text)}")
        return None

    def _start(
        self, runs: int, job: int, seconds: float
    ) -> tuple[subprocess.Popen[bytes], Path, Path]:
        seed = int(self.tally.get("parts", 0)) * 64 + job + 1
        log, tally = (build.CACHE / f"{self.kind}-{job}.{end}" for end in ("log", "json"))
        tally.unlink(missing_ok=True)
        if self.kind in ("full", "quick"):
            limit = f"-max_total_time={max(1, int(seconds))}"
            arguments = [
                f"-runs={runs}",
                f"-seed={seed}",
                limit,
                *LIBFUZZER,
                f"-artifact_prefix={FOUND}/",
                str(CORPUS),
                str(SEEDS),
            ]
        else:
            last = FOUND / f"{self.kind}-{seed}"
            files = sorted(CORPUS.iterdir())[:5000] if CORPUS.exists() else []
            arguments = ["--runs", str(runs), str(seed), str(last), *map(str, files)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(self.program), *arguments],
                stdout=out,
                stderr=out,
                env={**os.environ, "ASAN_OPTIONS": ASAN, "FUZZ_TALLY": str(tally)},
            )
        return process, log, tally

    def _add(self, runs: int, log: str, tally: Path) -> None:
        counts: dict[str, float] = json.loads(tally.read_text())
        done = re.search(r"DONE +cov: (\d+)", log)
        if done:
            counts["largest edges"] = int(done[1])
            made = re.search(r"Done (\d+) runs", log)
            assert made is not None
            counts["runs"] = int(made[1])
        for name, value in counts.items():
            old = self.tally.get(name, 0)
            self.tally[name] = max(old, value) if name.startswith("largest") else old + value

    def _finding(self, file: Path) -> Finding | None:
        done = subprocess.run(
            [str(self.program), str(file)],
            capture_output=True,
            env={**os.environ, "ASAN_OPTIONS": ASAN, "FUZZ_DESCRIBE": "1"},
            check=False,
        )
        text = done.stderr.decode(errors="replace")
        return None if done.returncode == 0 else Finding(file, words_of(text))


def words_of(log: str) -> str:
    """The lines of a log that say what is wrong."""
    lines = re.findall(r"^(?:fuzz|cuda_on_host): .*|^.*ERROR: .*|^.*runtime error: .*", log, re.M)
    frames = re.findall(r"^ +#\d+ .*csrc/.*", log, re.M)[:4]
    return "\n".join([*lines, *frames]) or log[-2000:]


def record() -> Path:
    """Writes what the campaigns found to tests/records/fuzz.json."""
    from testing import records

    found = [case for case in cases() if "Found" in case.sentence]
    opened = [case.name for case in found if "Open:" in case.sentence]
    figures: dict[str, Any] = {"findings": len(found), "open": opened}
    for kind in ("full", "installed", "cuda"):
        file = build.CACHE / f"tally-{kind}.json"
        if file.exists():
            tally = json.loads(file.read_text())["tally"]
            kept = ("runs", "refused", "ran", "valid", "seconds", "largest edges")
            figures[kind] = {
                name.removeprefix("largest "): round(tally[name])
                for name in sorted(tally)
                if name.startswith(kept)
            }
            figures[f"bits of {kind}"] = bits(tally)
    return records.write("fuzz", "python -m tests.fuzz --runs 10000000", figures)


def bits(tally: dict[str, float]) -> dict[str, str]:
    """Of each pair of targets, operator and type: how often their bits differ, and by how much."""
    found = {}
    for name in sorted(tally):
        if not name.endswith(" compared"):
            continue
        name = name.removesuffix(" compared")
        text = f"{tally.get(f'{name} different', 0):.0f} of {tally[f'{name} compared']:.0f} differ"
        if f"{name} different" in tally:
            ulps, sums = (tally[f"largest {unit} {name}"] for unit in ("ulps", "roundings"))
            text += f", at most {ulps:.0f} ulps and {sums:.2f} roundings of the terms"
        for why in ("in the sign of a zero", "where a sum overflows"):
            text += f", {tally.get(f'{name} different {why}', 0):.0f} {why}"
        found[name] = text
    return found
