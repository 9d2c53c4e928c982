"""What the script does, one function a section; each returns one line for the report."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from testing.measure import peak_bytes

from ..baselines import COMPILED, MODES, OURS, field
from ..comparison import Comparison
from ..timing import LIMIT, Clock, Race, Runner, Times
from ..workloads import DTYPES, GPU, Workload
from .model import VARIANTS, step
from .session import Session, query_gpu

EXERCISE = str(Path(__file__).with_name("exercise.py"))
KINDS = [(DTYPES[0], False), (DTYPES[1], True), (DTYPES[2], True)]
WORKLOADS = [
    replace(workload, dtype=d, channels_last=last) for workload in GPU for d, last in KINDS
]
DRY_WORKLOADS = [replace(workload, shape=(2, 4, 12, 14)) for workload in (*GPU[:3], GPU[5])]


def tests(session: Session) -> str:
    """The tests that need a GPU: the case list and what it cannot show."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--tb=short", "--maxfail=25"]
    command += ["-p", "no:cacheprovider"]
    if session.dry:
        command += ["tests/gpu/test_cuda_device.py"]
    elif importlib.util.find_spec("xdist"):
        command += ["-n", "4"]
    code, last = session.command("tests", command, limit=0.5 * session.left)
    if code:
        session.fail(f"tests: {last} (exit status {code}; see tests.txt)")
    return last


def sanitizer(session: Session) -> str:
    """Every kernel under each of compute-sanitizer's tools."""
    script = [sys.executable, EXERCISE, "--device", session.device.type]
    if session.dry:
        code, last = session.command("exercise", [*script, "--seconds", "2"])
        if code:
            session.fail(f"exercise: {last}")
        return last
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if shutil.which(program) is None:
        return "skipped: compute-sanitizer is not installed"
    notes = []
    tools = ("memcheck", "racecheck", "initcheck", "synccheck")
    for number, tool in enumerate(tools):
        share = max(session.left / (len(tools) - number), min(session.left, 40))
        if share < 20:
            notes.append(f"{tool}: no time left")
            continue
        seconds = str(min(0.5 * share, 60))  # its start and its summary take the rest
        command = [program, "--tool", tool, "--error-exitcode", "9", *script, "--seconds", seconds]
        # Without torch's pool each tensor is an allocation of its own, with guarded ends.
        code, last = session.command(tool, command, limit=share, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        notes.append(f"{tool}: {'stopped, ' if code == 124 else ''}{last.strip('= ')}")
        if code not in (0, 124):
            session.fail(f"{tool}: {last} (exit status {code}; see {tool}.txt)")
    return "; ".join(notes)


def layers(session: Session) -> str:
    """Each layer against the layers of other packages."""
    return _layers(
        session, lambda workload: field(workload, session.device.type, compiled=False), "layers", 10
    )


def compilers(session: Session) -> str:
    """Each layer against what torch.compile makes of three ways to write it."""
    return _layers(session, lambda workload: [OURS, *COMPILED], "torch.compile", 60)


def _layers(
    session: Session, names_of: Callable[[Workload], list[str]], section: str, longest: float
) -> str:
    """``longest`` is what one layer may take, in seconds, until one has taken longer."""
    clock = Clock(session.device)
    workloads = DRY_WORKLOADS if session.dry else WORKLOADS
    done = 0
    for workload in workloads:
        if session.left < longest and not session.dry:
            break
        start = time.monotonic()
        try:
            compiler = "eager" if session.dry else "inductor"
            _layer(session, Comparison(workload, clock, names_of(workload), compiler), section)
        except torch.OutOfMemoryError as error:
            session.results["rows"].append(
                _note(section, workload, OURS, f"out of memory: {error}")
            )
        gc.collect()
        if not session.dry:
            torch.cuda.empty_cache()
        done += 1
        longest = max(longest, time.monotonic() - start)
    return f"{done} of {len(workloads)} layers" + (
        "; then the budget ended" if done < len(workloads) else ""
    )


def _layer(session: Session, comparison: Comparison, section: str) -> None:
    """Times one layer against its rivals."""
    record, workload = session.results["rows"].append, comparison.workload
    for name, why in comparison.wrong.items():
        record(_note(section, workload, name, f"WRONG, so not timed: {why}"))
        if name == OURS:
            session.fail(why)
    for name, why in comparison.missing.items():
        record(_note(section, workload, name, why))
    if OURS not in comparison.rivals:
        return
    for mode in MODES:
        times = comparison.race(mode, session.rounds, session.deadline).times
        for name in comparison.rivals:
            facts = comparison.facts(name, mode)
            if name == OURS and not facts["ran"].startswith(session.device.type):
                session.fail(f"{workload}: ran {facts['ran']}")
            record(_row(section, workload, times, name) | facts)
        record(_row(section, workload, times, LIMIT) | {"rival": LIMIT, "mode": mode})


def _note(section: str, layer: object, name: str, note: str) -> dict[str, Any]:
    return {"section": section, "layer": str(layer), "rival": name, "note": note}


def _row(section: str, layer: object, times: dict[str, Times], name: str) -> dict[str, Any]:
    mine = times[name].median
    return {
        "section": section,
        "layer": str(layer),
        "ms": asdict(times[name]),
        "times ours": mine / times[OURS].median,
        "fraction of limit": times[LIMIT].median / mine if LIMIT in times else None,
    }


def training(session: Session) -> str:
    """Training steps of a small anti-aliased network, with each kind of pooling."""
    clock = Clock(session.device)
    done = []
    kinds = [(torch.bfloat16, True), (torch.float32, False)]
    for dtype, channels_last in kinds[:1] if session.dry else kinds:
        what = f"{str(dtype).removeprefix('torch.')} {'NHWC' if channels_last else 'NCHW'}"
        steps: dict[str, Runner] = {}
        memory: dict[str, int | None] = {}
        for name, pooling in VARIANTS.items():
            try:
                run = step(pooling, session.device, dtype, channels_last, session.dry)
                run()
                memory[name] = peak_bytes(run, session.device)
                steps[name] = run
            except (ImportError, torch.OutOfMemoryError) as error:
                note = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                session.results["rows"].append(_note("training step", what, name, note))
        # As it would run: one step after the other, with whatever Python adds.
        race = Race(clock, steps, cold=False)
        race.run(session.rounds, deadline=session.deadline)
        times = race.times
        for name in times:
            entry = {"rival": name, "mode": "step", "peak_bytes": memory[name]}
            session.results["rows"].append(_row("training step", what, times, name) | entry)
        done.append(what)
        del steps
        gc.collect()
    return ", ".join(done)


@contextlib.contextmanager
def clocks(session: Session, when: str) -> Any:
    """Notes the clocks and the temperature before and after."""
    if session.dry:
        yield
        return
    noted = session.results.setdefault("clocks", {})
    noted[f"before {when}"] = query_gpu()
    yield
    noted[f"after {when}"] = query_gpu()
