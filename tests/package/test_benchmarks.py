"""The benchmarks' own logic: what is compared with what, and what becomes of it. No time counts."""

from __future__ import annotations

import gc
import math
import mmap
import re
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastblur import explain
from fastblur._backends import compiled
from testing.judge import judge

from ..conftest import needs_extension

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").exists():
    pytest.skip("runs from a source tree only", allow_module_level=True)
for name in ("matplotlib", "pytest_benchmark", "rich"):
    pytest.importorskip(name, reason="the benchmarks need it")

from benchmarks import baselines, comparison, test_layers, timing, workloads  # noqa: E402
from benchmarks.comparison import Comparison  # noqa: E402
from benchmarks.conftest import Tape  # noqa: E402
from benchmarks.workloads import Upsampling, Workload  # noqa: E402

SMALL = [
    Workload((2, 3, 12, 15), 3, 1, 3),
    Workload((2, 3, 12, 15), 2, 0, 4),
    Workload((5, 3, 11, 8), 2, 0, 3),
    Workload((1, 3, 12, 15), 1, 0, 4),
]


@pytest.fixture(scope="module")
def clock() -> timing.Clock:
    return timing.Clock(torch.device("cpu"))


def entered(workload: Workload, clock: timing.Clock, *names: str) -> Comparison:
    return Comparison(
        workload, clock, names or baselines.field(workload, "cpu", compiled=True), compiler="eager"
    )


@pytest.mark.parametrize("folder", ["benchmarks", "testing"])
def test_imports_nothing_of_the_tests(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not re.search(r"^\s*(from|import) tests\b", path.read_text(), re.MULTILINE), path


# What must be moved.


def test_traffic_by_hand() -> None:
    workload = Workload((1, 1, 4, 4), 2, 0, 4)  # 3x3 maxima with 2 bits each: 18 bits, 3 bytes
    assert workload.traffic("forward") == (64, 16)
    assert workload.traffic("training forward") == (64, 16 + 3)
    assert workload.traffic("backward") == (16 + 3, 64)
    assert workload.traffic("full") == (64 + 19, 64 + 19)
    half = replace(workload, dtype=torch.bfloat16)
    assert half.traffic("backward") == (8 + 3, 32)
    assert Workload((1, 1, 4, 4), 3, 1, 3).traffic("training forward") == (64, 16 + 8)
    assert Workload((1, 1, 4, 4), 1, 0, 3).traffic("full").total == 2 * (64 + 16)


@needs_extension
@pytest.mark.parametrize("workload", workloads.chosen("cpu", full=True), ids=str)
def test_traffic_is_what_the_layer_explains(workload: Workload) -> None:
    """But for the rounding of rows of codes to whole bytes, which a limit need not move."""
    layer = baselines.ours(workload)
    rows_of_codes = math.prod(workload.pooled_shape[:3]) * 2 * math.ceil(math.log2(workload.pool))
    found = explain(torch.empty(workload.shape, dtype=workload.dtype, device="meta"), layer)  # type: ignore[arg-type]
    for mode, said in (
        ("training forward", found.bytes_forward),
        ("backward", found.bytes_backward),
    ):
        moved = workload.traffic(mode).total
        assert moved <= said <= 1.05 * moved + rows_of_codes


def test_limit_moves_as_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: made.append(randn(*a, **k)) or made[-1])
    traffic = workloads.Traffic(3000, 1000)
    timing.limit(traffic, torch.device("cpu"))()
    assert 2 * made[0].nbytes == traffic.total


def test_headline_is_part_of_everything() -> None:
    for device in ("cpu", "cuda"):
        headline, everything = (workloads.chosen(device, full) for full in (False, True))
        assert set(headline) < set(everything)
        assert {workload.channels_last for workload in headline} == {False, True}
        assert {workload.dtype for workload in everything} == set(workloads.DTYPES)
        assert len(set(map(str, everything))) == len(everything)


# Who takes part.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("workload", SMALL, ids=str)
def test_all_rivals_agree(
    workload: Workload, channels_last: bool, dtype: torch.dtype, clock: timing.Clock
) -> None:
    workload = replace(workload, dtype=dtype, channels_last=channels_last)
    found = entered(workload, clock)
    assert found.wrong == {}
    assert all(why.startswith("not installed") for why in found.missing.values())
    needed = {
        baselines.OURS,
        baselines.UNFUSED,
        baselines.COMPILED_UNFUSED,
        baselines.COMPILED_SLICES,
    }
    assert needed <= found.rivals.keys()
    assert (baselines.COMPILED_POOL in found.rivals) == (workload.pool > 1)


def test_field() -> None:
    with_max, even = Workload((1, 1, 9, 9), 3, 1, 3), Workload((1, 1, 9, 9), 2, 0, 4)
    assert baselines.TIMM in baselines.field(with_max, "cpu", compiled=False)
    assert baselines.TIMM not in baselines.field(even, "cpu", compiled=False)
    assert baselines.KORNIA in baselines.field(even, "cpu", compiled=False)
    assert baselines.KORNIA not in baselines.field(with_max, "cpu", compiled=False)
    assert baselines.TRITON in baselines.field(even, "cuda", compiled=False)
    assert not set(baselines.COMPILED) & set(baselines.field(even, "cpu", compiled=False))
    assert set(baselines.COMPILED) <= set(baselines.field(even, "cpu", compiled=True))
    with pytest.raises(baselines.Unavailable, match="another output size"):
        baselines.make(baselines.TIMM, even, torch.device("cpu"))


@pytest.mark.parametrize("workload", SMALL, ids=str)
def test_everything_is_on_the_device_of_the_input(workload: Workload) -> None:
    """A fake GPU computes nothing, but refuses tensors that are elsewhere."""
    device, taps, blur_padding = torch.device("cuda"), workload.taps, workload.blur_padding * 2
    with FakeTensorMode(), torch.no_grad():
        x = workload.input(device)
        pool, pad = (workload.pool,) * 2, (workload.pad,) * 2
        want = judge(x.double(), pool, (2, 2), pad, taps, taps, blur_padding, "reflect")
        assert want.device == x.device
        for name in baselines.field(workload, "cuda", compiled=False):
            if name in (baselines.OURS, baselines.TRITON):
                continue  # their tests are in test_cuda_without_gpu.py and test_triton.py
            try:
                rival = baselines.make(name, workload, device)
            except baselines.Unavailable:
                continue
            assert rival.layer(x).device == x.device


class WrongGradient(nn.Module):
    """Right but for the gradient of one element."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.layer = baselines.Eager(workload)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x * 1
            x.register_hook(lambda g: g.index_fill(3, torch.tensor([5]), 0.25))
        return self.layer(x)


def broken(workload: Workload, kind: str) -> baselines.Rival:
    if kind == "not installed":
        raise ImportError("No module named 'somebody'")
    if kind == "raises":
        return baselines.Rival(lambda x: x.view(3))
    if kind == "gradient":
        return baselines.Rival(WrongGradient(workload))
    if kind == "shape":
        return baselines.Rival(nn.MaxPool2d(2, 3))
    return baselines.Rival(nn.Sequential(baselines.Eager(workload), nn.Hardtanh(-1.0, 1.0)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("result", "the result is off by"),
        ("gradient", "the gradient is off by"),
        ("shape", "should be torch.float32 [N, 3, 6, 7]"),
        ("raises", "raises RuntimeError"),
        ("not installed", "not installed (No module named 'somebody')"),
    ],
)
def test_broken_rivals_are_not_timed(
    kind: str, message: str, clock: timing.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(baselines.MAKERS, baselines.ADOBE, lambda workload: broken(workload, kind))
    found = entered(SMALL[1], clock, baselines.OURS, baselines.ADOBE)
    assert list(found.rivals) == [baselines.OURS]
    where = found.missing if kind in ("raises", "not installed") else found.wrong
    assert message in where[baselines.ADOBE]


def test_fastblur_that_raises_is_no_finding(
    clock: timing.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        baselines.MAKERS, baselines.OURS, lambda workload: broken(workload, "raises")
    )
    with pytest.raises(RuntimeError, match="shape"):
        entered(SMALL[1], clock, baselines.OURS)


def test_ties_are_excused_only_where_they_are(clock: timing.Clock) -> None:
    """Elements with equal neighbours, as maxima over them share gradients, and no others."""
    workload = Workload((1, 1, 5, 5), 2, 0, 3)
    x = torch.arange(25.0).reshape(1, 1, 5, 5)
    x[0, 0, 0, 0] = x[0, 0, 0, 1] = 100.0
    judge = comparison.Judge(workload, x, torch.zeros(workload.output_shape))
    tied = judge._tied()[0, 0]
    assert tied[:2, :2].all()
    assert tied[:2, 2].tolist() == [False, False]  # its own windows have one maximum each
    assert not tied[2:].any()


def test_slices_share_the_gradient_of_ties() -> None:
    """They are right but where candidates are equal, and are excused just there."""
    workload = Workload((1, 2, 12, 15), 2, 0, 4)
    x, dy = torch.randn(workload.shape).round(), torch.randn(workload.output_shape)
    rival = baselines.make(
        baselines.COMPILED_SLICES, workload, torch.device("cpu"), compiler="eager"
    )
    judge, got = comparison.Judge(workload, x, dy), baselines.full(rival, x, dy)()
    assert not judge._tied().all()
    judge.check("slices", rival, "full", got)
    with pytest.raises(comparison.WrongResult, match="the gradient is off"):
        judge.check("slices", replace(rival, shares_ties=False), "full", got)


@needs_extension
def test_levels_are_set_for_each_call_and_put_back(clock: timing.Clock) -> None:
    usable = compiled.C.cpu.targets()  # type: ignore[union-attr]
    names = [f"{baselines.OURS} {level}" for level in usable]
    found = entered(SMALL[0], clock, *names)
    assert list(found.rivals) == names
    for level, name in zip(usable, names, strict=True):
        assert f"cpu: {level}" in found.facts(name, "full")["ran"]
        call = baselines.full(found.rivals[name], found.x, found.dy)
        call()
        assert compiled.C.cpu.target() == level  # type: ignore[union-attr]
        compiled.C.cpu.set_target(usable[0])  # type: ignore[union-attr]
    found.race("full", rounds=1, deadline=float("inf"))
    assert compiled.C.cpu.target() == usable[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("filter_size", [3, 4])
def test_all_ways_to_upsample_agree(
    filter_size: int, channels_last: bool, dtype: torch.dtype, clock: timing.Clock
) -> None:
    workload = Upsampling((2, 3, 5, 6), 1, 0, filter_size, dtype, channels_last)
    found = entered(workload, clock, *baselines.field(workload, "cpu", compiled=False))
    assert (found.wrong, found.missing) == ({}, {})
    wanted = {baselines.OURS, baselines.TRANSPOSED, baselines.ZEROS_BETWEEN}
    assert set(found.rivals) == wanted | ({baselines.BILINEAR} if filter_size == 4 else set())
    assert found.facts(baselines.OURS, "full")["saved_bytes"] == 0
    x, y = (math.prod(s) * dtype.itemsize for s in ((2, 3, 5, 6), (2, 3, 10, 12)))
    assert workload.traffic("full") == (x + y, x + y)
    with pytest.raises(baselines.Unavailable, match="is no upsampling"):
        baselines.make(baselines.ADOBE, workload, torch.device("cpu"))


# How they are timed and weighed.


class FakeClock:
    """Counts up by one each time it is read."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.moment = 0
        self.log: list[str] = []

    def now(self) -> int:
        self.moment += 1
        return self.moment

    def prepare(self, cold: bool) -> None:
        self.log.append("cold" if cold else "warm")


def test_rivals_take_turns() -> None:
    clock = FakeClock()
    names = ["a", "b", "c"]
    runners = {name: lambda name=name: clock.log.append(name) for name in names}
    race = timing.Race(clock, runners)  # type: ignore[arg-type]
    race.run(rounds=3, warm_up=1)
    assert clock.log[::2] == ["cold"] * 12
    assert clock.log[1::2] == list("cab" + "abc" + "bca" + "cab")
    assert {name: len(seconds) for name, seconds in race.seconds.items()} == dict.fromkeys("abc", 3)


def test_what_comes_before_is_not_timed() -> None:
    clock = FakeClock()
    call = baselines.Call(lambda: (), before=clock.now)
    race = timing.Race(clock, {"backward": call})  # type: ignore[arg-type]
    race.run(rounds=2)
    assert race.seconds["backward"] == [1, 1]
    with pytest.raises(ValueError, match="cannot be repeated"):
        timing.Race(clock, {"backward": call}, repeats=2)  # type: ignore[arg-type]


def test_race_counts_new_pages() -> None:
    def touch() -> None:
        with mmap.mmap(-1, 200 * mmap.PAGESIZE) as fresh:
            for page in range(200):
                fresh[page * mmap.PAGESIZE] = 1

    race = timing.Race(FakeClock(), {"touches": touch, "rests": lambda: None}, cold=False)  # type: ignore[arg-type]
    race.run(3)
    assert min(race.faults["touches"]) >= 200
    assert max(race.faults["rests"]) < 200


def test_deadline_leaves_three_rounds() -> None:
    race = timing.Race(FakeClock(), {"a": lambda: None}, repeats=4)  # type: ignore[arg-type]
    race.run(rounds=9, deadline=0.0)
    assert race.seconds["a"] == [0.25] * 3


def test_times() -> None:
    found = timing.Times.of([0.003, 0.001, 0.002, 0.005, 0.004])
    assert (found.median, found.low, found.high) == pytest.approx((3, 2, 4))
    assert (found.min, found.max, found.rounds) == (1, 5, 5)
    assert timing.Times.of([0.002]).median == 2


def test_tape_plays_back() -> None:
    tape = Tape()
    tape.load([0.5, 0.25])
    moments = [tape() for _ in range(4)]
    assert [moments[1] - moments[0], moments[3] - moments[2]] == [0.5, 0.25]


def test_weighs_the_call_that_is_timed(clock: timing.Clock) -> None:
    workload = Workload((2, 16, 28, 28), 2, 0, 4)
    found = entered(workload, clock, baselines.OURS, baselines.UNFUSED)
    unfused = found.facts(baselines.UNFUSED, "full")
    assert unfused["saved_bytes"] > 4 * unfused["input_bytes"]
    assert unfused["peak_bytes"] > unfused["saved_bytes"] - unfused["input_bytes"]
    assert unfused["bytes"] == workload.traffic("full").total
    assert "saved_bytes" not in found.facts(baselines.UNFUSED, "forward")
    if compiled.C is not None:
        ours = found.facts(baselines.OURS, "full")
        assert ours["ran"].startswith("cpu: ")
        assert 0 < ours["saved_bytes"] <= 32 / 28 * ours["input_bytes"] / 16  # rows of 28 count 32
        assert ours["peak_bytes"] < 1.4 * ours["input_bytes"]


def test_what_was_weighed_is_freed(clock: timing.Clock) -> None:
    """Else a run of all rows needs the memory of all rows."""

    def tensors() -> list[Tensor]:
        gc.collect()
        return [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]

    # Those of other tests may go in the meantime.
    before = {id(tensor): weakref.ref(tensor) for tensor in tensors()}
    found = entered(SMALL[1], clock, baselines.UNFUSED, baselines.ADOBE)
    for mode in baselines.MODES:
        found.race(mode, rounds=1, deadline=float("inf"))
        for name in found.rivals:
            found.facts(name, mode)
    del found
    new = [t for t in tensors() if id(t) not in before or before[id(t)]() is not t]
    assert not new


def test_one_comparison_at_a_time(clock: timing.Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[object] = weakref.WeakSet()

    class Heavy:
        def __init__(self, *_: object) -> None:
            assert not alive
            alive.add(self)

    monkeypatch.setattr(test_layers, "Comparison", Heavy)
    comparisons = test_layers.Comparisons(clock, dict)
    for workload in SMALL[:2]:
        comparisons.comparison(test_layers.Field(workload, (baselines.OURS,)))
    assert len(alive) == 1
