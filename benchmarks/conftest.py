"""Options of the benchmarks, and how races get into pytest-benchmark."""

from __future__ import annotations

import shlex
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import fastblur
from fastblur._backends import compiled

from .timing import Clock, Race, cache_bytes

PACKAGES = ("torch", "fastblur", "triton", "antialiased_cnns", "timm", "kornia", "torchvision")
SUMMARY = pytest.StashKey[list[str]]()


class Tape:
    """A timer for pytest-benchmark that plays back what was timed before.

    Rivals must take turns, and pytest-benchmark times one function after the other. So all of them
    are timed in one race, and each test then hands in the times of one.
    """

    def __init__(self) -> None:
        self.moments: deque[float] = deque()

    def load(self, seconds: Iterable[float]) -> None:
        """Each time becomes a beginning and an end."""
        self.moments = deque(moment for second in seconds for moment in (0.0, second))

    def __call__(self) -> float:
        return self.moments.popleft()


TAPE = Tape()


class Recorder:
    """Hands the times of one rival to pytest-benchmark, and what else is known to its JSON file."""

    def __init__(self, benchmark: BenchmarkFixture, config: pytest.Config) -> None:
        self.benchmark, self.config = benchmark, config

    def __call__(self, race: Race, name: str, facts: dict[str, Any]) -> None:
        seconds = race.seconds[name]
        if self.benchmark.enabled:
            TAPE.load(seconds)
        self.benchmark.group = f"{facts['label']} {facts['mode']}"
        self.benchmark.pedantic(lambda: None, rounds=len(seconds))
        self.benchmark.extra_info |= facts | {
            "cold": race.cold,
            "calls_per_timing": race.repeats,
            "page_faults": statistics.median(race.faults[name]),
        }
        mine = race.times[name]
        line = f"{self.benchmark.group} | {name} | {mine.median:.4f} ms"
        if "fraction_of_limit" in facts:
            line += f" | {facts['fraction_of_limit']:.2f} of the limit"
        self.config.stash.setdefault(SUMMARY, []).append(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastblur's benchmarks")
    group.addoption("--full", action="store_true", help="all rows, dtypes, modes and rivals")
    group.addoption("--device", choices=("cpu", "cuda"), help="by default cuda if there is one")
    group.addoption(
        "--simd",
        default=None,
        metavar="LEVEL",
        help="level of fastblur's CPU kernels: avx512, avx2 or generic; the others' is torch's own "
        "matter (ATEN_CPU_CAPABILITY)",
    )
    group.addoption("--threads", type=int, default=None, help="of the CPU; torch's default")
    group.addoption("--rounds", type=int, default=9, help="timings of each rival (%(default)s)")
    group.addoption(
        "--seconds",
        type=float,
        default=None,
        help="that a race may take before it ends after fewer rounds, but at least 3 "
        "(1.5, or 20 with --full)",
    )


def pytest_configure(config: pytest.Config) -> None:
    level = config.getoption("--simd")
    if level is not None:
        if compiled.C is None:
            raise pytest.UsageError(f"--simd {level}: {compiled.WHY_NOT}")
        try:
            compiled.C.cpu.set_target(level)
        except ValueError as error:
            raise pytest.UsageError(f"--simd: {error}") from error
    for option in ("--rounds", "--threads"):
        value = config.getoption(option)
        if value is not None and value < 1:
            raise pytest.UsageError(f"{option} must be at least 1, got {value}")
    if config.getoption("--threads") is not None:
        torch.set_num_threads(config.getoption("--threads"))
    if chosen_device(config).type == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch sees no CUDA device")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.benchmark(timer=TAPE))


def chosen_device(config: pytest.Config) -> torch.device:
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(config.getoption("--device") or automatic)


@pytest.fixture(scope="session")
def clock(pytestconfig: pytest.Config) -> Clock:
    return Clock(chosen_device(pytestconfig))


@pytest.fixture(scope="session")
def limits(pytestconfig: pytest.Config) -> Callable[[], dict[str, Any]]:
    """How long a race that starts now may be: arguments of ``Comparison.race``."""
    option = pytestconfig.getoption
    seconds = option("--seconds") or (20.0 if option("--full") else 1.5)
    rounds = 1 if option("--benchmark-disable") else option("--rounds")
    return lambda: {"rounds": rounds, "deadline": time.monotonic() + seconds}


@pytest.fixture
def record(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Recorder:
    return Recorder(benchmark, pytestconfig)


def command(arguments: Iterable[str]) -> str:
    """Of a run, without where its files went."""
    words, arguments = ["pytest"], [str(argument) for argument in arguments]
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.startswith("--benchmark") and before != "--benchmark-json":
            words.append(shlex.quote(argument))
    return " ".join(words)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    device = chosen_device(config)
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    machine_info["fastblur"] = {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "cache_bytes": cache_bytes(device),
        "versions": versions,
        "torch_simd": torch.backends.cpu.get_cpu_capability(),
        "simd": None if compiled.C is None else compiled.C.cpu.target(),
        "build": None if compiled.C is None else compiled.BUILD,
        "command": command(config.invocation_params.args),
    }


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash.get(SUMMARY, [])
    if lines:
        terminalreporter.section(
            f"medians, rivals in turn, {torch.get_num_threads()} CPU threads, "
            f"fastblur {fastblur.__version__}"
        )
    for line in lines:
        terminalreporter.write_line(line)
