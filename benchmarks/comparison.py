"""One layer and all its rivals: set up once, checked, then timed and weighed."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._inductor.utils import fresh_cache

from fastblur import explain
from testing.measure import peak_bytes, saved_bytes

from .baselines import MODES, Call, Rival, Unavailable, at_level, make
from .timing import LIMIT, Clock, Race, limit
from .verify import Judge, WrongResult
from .workloads import Workload


class Comparison:
    """The rivals of one workload.

    Attributes:
        rivals: those that run and are right.
        missing: of the others, why they cannot take part.
        wrong: of the others, what is wrong with their results.
    """

    def __init__(
        self, workload: Workload, clock: Clock, names: Iterable[str], compiler: str = "inductor"
    ) -> None:
        """Makes all the layers, calls each in each mode and checks what it returns.

        Args:
            workload: the layer and its input.
            clock: of the device to use.
            names: of the rivals.
            compiler: backend of torch.compile.
        """
        self.workload, self.clock, self.device = workload, clock, clock.device
        torch.manual_seed(0)
        self.x, self.dy = workload.input(self.device), workload.output_gradient(self.device)
        self.rivals: dict[str, Rival] = {}
        self.missing: dict[str, str] = {}
        self.wrong: dict[str, str] = {}
        self._first_calls: defaultdict[tuple[str, bool], float] = defaultdict(float)
        torch._dynamo.reset()
        judge = Judge(workload, self.x, self.dy)
        for name in names:
            try:
                rival = make(name, workload, self.device, compiler)
                with at_level(rival.level), _no_tf32():
                    self._admit(name, rival, judge)
            except WrongResult as error:
                self.wrong[name] = str(error)
            except Unavailable as error:
                self.missing[name] = str(error)
            except Exception as error:  # what a rival cannot run is a finding
                if "fastblur" in name:
                    raise
                self.missing[name] = f"raises {type(error).__name__}: {_first_line(error)}"
            else:
                self.rivals[name] = rival

    def _admit(self, name: str, rival: Rival, judge: Judge) -> None:
        """The first calls, which may compile: those of training before the one without grad."""
        for mode in ("training forward", "full", "backward", "forward"):
            call = self._call(rival, mode)
            with fresh_cache() if rival.compiled else nullcontext():
                start = time.perf_counter()
                got = call()
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                self._first_calls[name, mode == "forward"] += time.perf_counter() - start
            if not rival.yardstick:
                judge.check(name, rival, mode, got)

    def _call(self, rival: Rival, mode: str) -> Call:
        return MODES[mode](rival, self.x, self.dy)

    def race(
        self, mode: str, rounds: int, deadline: float, cold: bool = True, repeats: int = 1
    ) -> Race:
        """All rivals in turn, and among them the copy of the bytes that must be moved."""
        runners: dict[str, Any] = {
            name: self._call(rival, mode) for name, rival in self.rivals.items()
        }
        if cold:
            runners[LIMIT] = limit(self.workload.traffic(mode), self.device)
        race = Race(self.clock, runners, cold, repeats)
        gc.collect()
        with at_level(None), _no_tf32():
            race.run(rounds, deadline=deadline)
        return race

    def weigh(self, name: str, mode: str) -> dict[str, int]:
        """Bytes: at most allocated during the call, and kept for backward if there is one."""
        rival = self.rivals[name]
        with at_level(rival.level):
            call = self._call(rival, mode)
            if call.before is not None:
                call.before()
            found = {"peak_bytes": peak_bytes(call.run, self.device)}
            if mode != "forward":
                found["saved_bytes"] = saved_bytes(self._call(rival, "training forward"))
        return found

    def facts(self, name: str, mode: str) -> dict[str, Any]:
        """What is known of a call without timing it."""
        workload, rival = self.workload, self.rivals[name]
        found: dict[str, Any] = {
            "label": str(workload),
            "layer": workload.layer,
            "dtype": workload.kind,
            "layout": workload.layout,
            "mode": mode,
            "rival": name,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "input_bytes": self.x.nbytes,
            "bytes": workload.traffic(mode).total,
        }
        if rival.compiled:
            found["compile_s"] = self._first_calls[name, mode == "forward"]
        elif "fastblur" in name:
            found["ran"] = self._kernel(rival)
        return found | self.weigh(name, mode)

    def _kernel(self, rival: Rival) -> str:
        with at_level(rival.level):
            found = explain(self.x, rival.layer)  # type: ignore[arg-type]
        return f"{found.backend}: {found.specialisation}"


def _no_tf32() -> AbstractContextManager[None]:
    """As in the check, so in the race: float32 is float32 for all, on GPUs too."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=False, allow_tf32=False
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
