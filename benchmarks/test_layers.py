"""One layer, fused against everything that people use or could write in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from fastblur._backends import compiled

from .baselines import (
    ADOBE,
    COMPILED_OURS,
    COMPILED_UNFUSED,
    MODES,
    ONE_OPERATOR,
    OURS,
    UNFUSED,
    field,
)
from .comparison import Comparison
from .conftest import Recorder, chosen_device
from .timing import LIMIT, Clock, Race
from .workloads import LEVELS, OVERHEAD, Workload, both_layouts, chosen, compiled_too, upsamplings


class Field(NamedTuple):
    """Who takes part in the comparisons of one workload."""

    workload: Workload
    names: tuple[str, ...]
    cold: bool = True
    repeats: int = 1

    def __str__(self) -> str:
        return str(self.workload) if self.repeats == 1 else f"{self.workload} warm"


class Comparisons:
    """The latest comparison and its races, so that all tests of a workload share them."""

    def __init__(self, clock: Clock, limits: Callable[[], dict[str, Any]]) -> None:
        self.clock, self.limits = clock, limits
        self.field: Field | None = None
        self._comparison: Comparison | None = None
        self._races: dict[str, Race] = {}

    def comparison(self, field: Field) -> Comparison:
        if self._comparison is None or field != self.field:
            self._comparison, self._races = None, {}  # first: there may be no room for two
            self._comparison, self.field = (
                Comparison(field.workload, self.clock, field.names),
                field,
            )
        return self._comparison

    def race(self, mode: str) -> Race:
        if mode not in self._races:
            assert self.field is not None
            assert self._comparison is not None
            self._races[mode] = self._comparison.race(
                mode, **self.limits(), cold=self.field.cold, repeats=self.field.repeats
            )
        return self._races[mode]


@pytest.fixture(scope="session")
def comparisons(clock: Clock, limits: Callable[[], dict[str, Any]]) -> Comparisons:
    return Comparisons(clock, limits)


def cases(fields: list[Field], modes: tuple[str, ...]) -> Iterator[Any]:
    """Rivals within modes within workloads, in the order in which comparisons go."""
    for entry in fields:
        for mode in modes:
            for name in entry.names:
                identity = f"{entry}-{mode}-{name}".replace(" ", "_")
                yield pytest.param(entry, mode, name, id=identity)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("--full")
    device = chosen_device(metafunc.config).type
    modes = tuple(MODES) if full else ("forward", "backward", "full")
    if metafunc.function is test_layer:
        workloads = chosen(device, full)
        too = workloads if full else compiled_too(device)
        fields = [
            Field(workload, tuple(field(workload, device, workload in too)))
            for workload in workloads
        ]
    elif metafunc.function is test_upsampling:
        fields = [
            Field(workload, tuple(field(workload, device, compiled=False)))
            for workload in upsamplings()
        ]
    elif metafunc.function is test_levels:
        levels = [] if compiled.C is None else compiled.C.cpu.targets()
        names = tuple(f"{OURS} {level}" for level in levels) if device == "cpu" else ()
        fields = [Field(workload, names) for workload in both_layouts(LEVELS)]
    else:
        names = (OURS, UNFUSED, ADOBE, ONE_OPERATOR, COMPILED_OURS, COMPILED_UNFUSED)
        fields = [Field(OVERHEAD, names, cold=False, repeats=100), Field(OVERHEAD, names)]
        modes = ("forward", "training forward", "full")
    metafunc.parametrize(("entry", "mode", "name"), list(cases(fields, modes)))


def measure(
    kind: str, comparisons: Comparisons, record: Recorder, entry: Field, mode: str, name: str
) -> None:
    comparison = comparisons.comparison(entry)
    if name in comparison.wrong:
        pytest.fail(comparison.wrong[name])
    if name in comparison.missing:
        pytest.skip(f"{name}: {comparison.missing[name]}")
    race = comparisons.race(mode)
    facts = {"kind": kind} | comparison.facts(name, mode)
    mine = race.times[name].median / 1e3
    if LIMIT in race.times:
        limit = race.times[LIMIT]
        facts |= {
            "gb_per_s": facts["bytes"] / mine / 1e9,
            "limit_ms": limit.median,
            "limit_low_ms": limit.low,
            "limit_high_ms": limit.high,
            "fraction_of_limit": limit.median / 1e3 / mine,
        }
    record(race, name, facts)


def test_layer(
    entry: Field, mode: str, name: str, comparisons: Comparisons, record: Recorder
) -> None:
    measure("layer", comparisons, record, entry, mode, name)


def test_upsampling(
    entry: Field, mode: str, name: str, comparisons: Comparisons, record: Recorder
) -> None:
    measure("upsampling", comparisons, record, entry, mode, name)


def test_levels(
    entry: Field, mode: str, name: str, comparisons: Comparisons, record: Recorder
) -> None:
    """The instruction-set levels of the CPU kernels, against each other."""
    measure("levels", comparisons, record, entry, mode, name)


def test_overhead(
    entry: Field, mode: str, name: str, comparisons: Comparisons, record: Recorder
) -> None:
    """What a call costs when there is nothing to compute."""
    measure("overhead", comparisons, record, entry, mode, name)
