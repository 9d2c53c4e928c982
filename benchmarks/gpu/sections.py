"""What the script does, one function a section; each returns one line for the report."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastblur import explain

from .model import VARIANTS, step
from .rivals import (
    DRY_ROWS,
    MODES,
    OURS,
    ROWS,
    Module,
    Row,
    compiled,
    difference,
    eager,
    ours,
)
from .session import Session, query_gpu
from .timing import Clock, Runner, Times, peak_bytes, saved_bytes

EXERCISE = str(Path(__file__).with_name("exercise.py"))
OURS_ROUNDING, THEIR_ROUNDING = 4.0, 16.0  # units in the last place of the largest result
COPY = "copy of as many bytes"


def tests(session: Session) -> str:
    """The tests that need a GPU: the case list and what it cannot show."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--tb=short", "--maxfail=25"]
    command += ["-p", "no:cacheprovider"]
    if session.dry:
        command += ["tests/test_cuda_device.py"]
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
    return _layers(session, lambda row: eager(row, session.device), "layers", 10)


def compilers(session: Session) -> str:
    """Each layer against what torch.compile makes of three ways to write it."""
    backend = "eager" if session.dry else "inductor"
    return _layers(session, lambda row: (compiled(row, backend), {}), "torch.compile", 60)


def _layers(
    session: Session,
    rivals_of: Callable[[Row], tuple[dict[str, Module], dict[str, str]]],
    section: str,
    longest: float,
) -> str:
    """``longest`` is what one layer may take, in seconds, until one has taken longer."""
    clock = Clock(session.device)
    rows = DRY_ROWS if session.dry else ROWS
    done = 0
    for row in rows:
        if session.left < longest and not session.dry:
            break
        start = time.monotonic()
        torch._dynamo.reset()
        try:
            _layer(session, clock, row, *rivals_of(row), section)
        except torch.OutOfMemoryError as error:
            session.results["rows"].append(_note(section, row, OURS, f"out of memory: {error}"))
        gc.collect()
        if not session.dry:
            torch.cuda.empty_cache()
        done += 1
        longest = max(longest, time.monotonic() - start)
    return f"{done} of {len(rows)} layers" + ("; then the budget ended" if done < len(rows) else "")


def _layer(
    session: Session,
    clock: Clock,
    row: Row,
    rivals: dict[str, Module],
    missing: dict[str, str],
    section: str,
) -> None:
    """Checks one layer and times it against its rivals."""
    record = session.results["rows"].append
    x = row.input(session.device)
    mine = ours(row)
    wrong = difference(row, OURS, mine, x, OURS_ROUNDING)
    if wrong:
        session.fail(f"{row}: {wrong}")
        record(_note(section, row, OURS, f"WRONG, so not timed: {wrong}"))
        return
    with torch.no_grad():
        dy = torch.randn_like(mine(x))
    contenders: dict[str, Module] = {OURS: mine}
    for name, layer in rivals.items():
        try:
            wrong = difference(row, name, layer, x, THEIR_ROUNDING)
            for make in MODES.values():  # a first call of each on the whole input: it may compile
                make(layer, x, dy)()
        except Exception as error:  # a rival's failure is a finding, not ours
            wrong = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            gc.collect()
        if wrong:
            missing[name] = wrong
        else:
            contenders[name] = layer
    for name, why in missing.items():
        record(_note(section, row, name, why))

    memory = {
        name: {
            "peak_bytes": peak_bytes(MODES["forward + backward"](layer, x, dy), session.device),
            "saved_bytes": saved_bytes(_on_leaf(layer, x)),
        }
        for name, layer in contenders.items()
    }
    found = explain(x, mine)
    if found.backend != session.device.type:
        session.fail(f"{row}: ran on {found.backend}, because {found.refused}")
    backend = {OURS: f"{found.backend}: {found.specialisation}"}
    for mode, make in MODES.items():
        bytes_ = _bytes(mode, x, dy, found.bytes_saved or 0)
        runners: dict[str, Runner] = {n: make(layer, x, dy) for n, layer in contenders.items()}
        source = torch.empty(bytes_ // 2, dtype=torch.uint8, device=session.device)
        target = torch.empty_like(source)
        runners[COPY] = lambda source=source, target=target: target.copy_(source)  # type: ignore[misc]
        times = clock.race(runners, session.rounds, session.deadline)
        for name in times:
            entry = {"rival": name, "mode": mode, "bytes": bytes_, "ran": backend.get(name)}
            record(_row(section, row, times, name) | entry | memory.get(name, {}))
        del runners, source, target


def _on_leaf(layer: Module, x: Tensor) -> Callable[[], Tensor]:
    leaf = x.detach().requires_grad_()
    return lambda: layer(leaf)


def _bytes(mode: str, x: Tensor, y: Tensor, codes: int) -> int:
    """That a call must move, whoever makes it: no rival can do with less, as a fused kernel."""
    one_way = x.nbytes + y.nbytes
    if mode == "forward":
        return one_way
    return (one_way + codes) * (2 if mode == "forward + backward" else 1)


def _note(section: str, row: object, name: str, note: str) -> dict[str, Any]:
    return {"section": section, "layer": str(row), "rival": name, "note": note}


def _row(section: str, row: object, times: dict[str, Times], name: str) -> dict[str, Any]:
    mine = times[name].median
    return {
        "section": section,
        "layer": str(row),
        "ms": asdict(times[name]),
        "times ours": mine / times[OURS].median,
        "fraction of copy": times[COPY].median / mine if COPY in times else None,
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
        times = clock.race(steps, session.rounds, session.deadline, cold=False)
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
