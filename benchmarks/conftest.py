"""How the benchmarks time: rivals in turn, cold caches, medians; and the table at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

ROWS = pytest.StashKey[list[list[str]]]()


class Race:
    """Times functions one after the other, round by round, so that all meet the same conditions.

    The first is fastblur's and is what pytest-benchmark records; the others go to ``extra_info``.
    """

    def __init__(self, benchmark: BenchmarkFixture, rows: list[list[str]]) -> None:
        self.benchmark = benchmark
        self.rows = rows

    def __call__(
        self,
        label: str,
        runners: dict[str, Callable[[], object]],
        rounds: int = 9,
        repeats: int = 1,
        evict: bool = True,
    ) -> None:
        """Runs the race.

        Args:
            label: for the table.
            runners: what to call, by name; the first is ours.
            rounds: each runner is timed once in each, after one round that is thrown away.
            repeats: calls in one timing, for calls that take microseconds.
            evict: whether to empty the caches before each timing.
        """
        name, ours = next(iter(runners.items()))
        others = {key: run for key, run in runners.items() if key != name}
        times: dict[str, list[float]] = {key: [] for key in others}
        cold = torch.randn(16 * 2**20)  # 64 MiB, twice the largest common cache

        def before_ours() -> None:
            for key, run in others.items():
                if evict:
                    cold.mul_(1.0001)
                start = time.perf_counter()
                for _ in range(repeats):
                    run()
                times[key].append((time.perf_counter() - start) / repeats)
            if evict:
                cold.mul_(1.0001)

        def timed() -> None:
            for _ in range(repeats):
                ours()

        self.benchmark.pedantic(timed, setup=before_ours, rounds=rounds, warmup_rounds=1)
        mine = statistics.median(self.benchmark.stats.stats.data) / repeats
        medians = {key: statistics.median(values[1:]) for key, values in times.items()}
        self.benchmark.extra_info |= {
            "label": label,
            "threads": torch.get_num_threads(),
            "cold": evict,
            "median_ms": {name: mine * 1e3} | {key: t * 1e3 for key, t in medians.items()},
            "ratio": {key: t / mine for key, t in medians.items()},
        }
        self.rows.append(
            [label, f"{name} {mine * 1e3:.3f} ms"]
            + [f"{key} {t * 1e3:.3f} ms ({t / mine:.1f}x)" for key, t in medians.items()]
        )


@pytest.fixture
def race(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Race:
    return Race(benchmark, request.config.stash.setdefault(ROWS, []))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section(
            f"medians, rivals in turn, {torch.get_num_threads()} CPU threads, (times fastblur's)"
        )
    for row in rows:
        terminalreporter.write_line(" | ".join(row))
