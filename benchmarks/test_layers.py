"""One layer, fused against everything that people use or could write in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from fastblur._backends import compiled

from .conftest import Recorder, chosen_device
from .contest import Contest
from .rivals import (
    ADOBE,
    COMPILED_OURS,
    COMPILED_UNFUSED,
    MODES,
    ONE_OPERATOR,
    OURS,
    UNFUSED,
    field,
)
from .rows import LEVELS, OVERHEAD, Row, both_layouts, chosen, compiled_too
from .timing import LIMIT, Clock, Race


class Field(NamedTuple):
    """Who takes part in the contests of one row."""

    row: Row
    names: tuple[str, ...]
    cold: bool = True
    repeats: int = 1

    def __str__(self) -> str:
        return str(self.row) if self.repeats == 1 else f"{self.row} warm"


class Contests:
    """The latest contest and its races, so that all tests of a row share them."""

    def __init__(self, clock: Clock, limits: Callable[[], dict[str, Any]]) -> None:
        self.clock, self.limits = clock, limits
        self.field: Field | None = None
        self._contest: Contest | None = None
        self._races: dict[str, Race] = {}

    def contest(self, field: Field) -> Contest:
        if self._contest is None or field != self.field:
            self._contest, self._races = None, {}  # first: there may be no room for two
            self._contest, self.field = Contest(field.row, self.clock, field.names), field
        return self._contest

    def race(self, mode: str) -> Race:
        if mode not in self._races:
            assert self.field is not None
            assert self._contest is not None
            self._races[mode] = self._contest.race(
                mode, **self.limits(), cold=self.field.cold, repeats=self.field.repeats
            )
        return self._races[mode]


@pytest.fixture(scope="session")
def contests(clock: Clock, limits: Callable[[], dict[str, Any]]) -> Contests:
    return Contests(clock, limits)


def cases(fields: list[Field], modes: tuple[str, ...]) -> Iterator[Any]:
    """Rivals within modes within rows, in the order in which contests go."""
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
        rows = chosen(device, full)
        too = rows if full else compiled_too(device)
        fields = [Field(row, tuple(field(row, device, row in too))) for row in rows]
    elif metafunc.function is test_levels:
        levels = [] if compiled.C is None else compiled.C.cpu.targets()
        names = tuple(f"{OURS} {level}" for level in levels) if device == "cpu" else ()
        fields = [Field(row, names) for row in both_layouts(LEVELS)]
    else:
        names = (OURS, UNFUSED, ADOBE, ONE_OPERATOR, COMPILED_OURS, COMPILED_UNFUSED)
        fields = [Field(OVERHEAD, names, cold=False, repeats=100), Field(OVERHEAD, names)]
        modes = ("forward", "training forward", "full")
    metafunc.parametrize(("entry", "mode", "name"), list(cases(fields, modes)))


def measure(
    kind: str, contests: Contests, record: Recorder, entry: Field, mode: str, name: str
) -> None:
    contest = contests.contest(entry)
    if name in contest.wrong:
        pytest.fail(contest.wrong[name])
    if name in contest.missing:
        pytest.skip(f"{name}: {contest.missing[name]}")
    race = contests.race(mode)
    facts = {"kind": kind} | contest.facts(name, mode)
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


def test_layer(entry: Field, mode: str, name: str, contests: Contests, record: Recorder) -> None:
    measure("layer", contests, record, entry, mode, name)


def test_levels(entry: Field, mode: str, name: str, contests: Contests, record: Recorder) -> None:
    """The instruction-set levels of the CPU kernels, against each other."""
    measure("levels", contests, record, entry, mode, name)


def test_overhead(entry: Field, mode: str, name: str, contests: Contests, record: Recorder) -> None:
    """What a call costs when there is nothing to compute."""
    measure("overhead", contests, record, entry, mode, name)
