"""Launches: sizes that those of other libraries could not hold, and streams."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastblur._backends import calls, compiled
from fastblur._geometry import Geometry
from testing.cases import Case, fill, in_format

from ..cuda_on_host import HostCuda, Job, Options, why_not
from .runners import (
    DTYPES,
    INTERPRETED,
    each_format,
    each_geometry,
    each_target,
    run,
)

# More images, channels, rows or columns than the axes of a grid that hold 65,535; and so many
# channels that no block's shared memory has room for a number of each.
LONG = [(70_000, 1, 6, 6), (1, 70_000, 6, 6), (1, 1, 70_000, 6), (1, 1, 6, 70_000)]
each_size = pytest.mark.parametrize("shape", LONG, ids=["images", "channels", "rows", "columns"])
# One number of these is reached in x, y or the codes of no tensor that a GPU holds.
HUGE = [(2**21, 3, 64, 64), (3, 2**21, 64, 64), (1, 3, 2**24, 64), (1, 3, 64, 2**24)]


@each_format
@each_size
@each_geometry
@each_target
def test_long_axes(
    target: Any, case: Case, shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    """Any axis may have more than 65,535 elements: the ends are what they are alone.

    Found in: https://github.com/pytorch/pytorch/issues/165861 (reflection padding of many images),
    https://github.com/pytorch/pytorch/pull/38953 (max pooling of many channels),
    https://github.com/pytorch/pytorch/pull/50565 (replication padding).
    """
    geometry, axis = case.geometry(), max(range(4), key=shape.__getitem__)
    x = fill(shape, "ties", torch.float32).to(memory_format=memory_format)
    y_shape = (*shape[:2], *geometry.output_size(*shape[2:]))
    dy = fill(y_shape, "normal", torch.float32, seed=1).to(memory_format=memory_format)
    got = run(target, geometry, x, dy)
    few, margin = 64, 16 if axis > 1 else 0
    y_few = y_shape[axis] - (shape[axis] - few) // (1 if axis < 2 else geometry.stride[axis - 2])
    for at in ("first", "last"):

        def part(t: torch.Tensor, n: int, at: str = at) -> torch.Tensor:
            return t.narrow(axis, 0 if at == "first" else t.shape[axis] - n, n)

        want = run(target, geometry, part(x, few).clone(), part(dy, y_few).clone())
        for ours, theirs, n in zip(got, want, (y_few, few), strict=True):
            torch.testing.assert_close(part(ours, n - margin), part(theirs, n - margin))


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
@each_format
@each_geometry
def test_launches_of_long_axes(case: Case, memory_format: torch.memory_format) -> None:
    """CUDA accepts every grid and block, of every type.

    Found in: https://github.com/pytorch/pytorch/issues/165861,
    https://github.com/pytorch/pytorch/issues/34083 (shared memory for each channel).
    """
    channels_last = memory_format is torch.channels_last
    jobs = [
        Job("all", case.geometry(), size, dtype, channels_last, options=Options(dry=True))
        for size in (*LONG, *HUGE)
        for dtype in DTYPES
    ]
    for job, result in zip(jobs, HostCuda("plain").run(jobs), strict=True):
        assert result.error == 0, str(job)


@pytest.mark.skipif(INTERPRETED, reason="asks for the launches on a GPU")
@each_format
@each_geometry
def test_grids_of_triton(case: Case, memory_format: torch.memory_format) -> None:
    """The second axis of a grid has fewer than 65,536 programs, the first fewer than 2**31.

    Found in: https://github.com/pytorch/pytorch/issues/165861.
    """
    pytest.importorskip("triton")
    from fastblur._backends.triton import launch

    grids: list[tuple[int, ...]] = []

    def record(kernel: Any) -> Any:
        def at(self: Any, grid: tuple[int, ...]) -> Any:
            grids.append(grid)
            return lambda *_, **__: None

        return mock.MagicMock(__getitem__=at)

    channels_last = memory_format is torch.channels_last
    with (
        FakeTensorMode(),
        mock.patch.object(launch, "_launcher", record),
        mock.patch.object(launch, "_gpu", return_value=launch.Gpu(90, 32)),
    ):
        for size in (*LONG, *HUGE):
            x = in_format(torch.empty(size, device="cuda"), channels_last)
            call = launch.Call(case.geometry(), size, channels_last, x, traced=False)
            with mock.patch.object(call, "_launching", return_value=contextlib.nullcontext()):
                y, codes = call.forward(x, True)
                call.backward(y, codes)
    assert len(grids) >= 2 * len((*LONG, *HUGE))
    for first, *rest in grids:
        assert 0 < first < 2**31
        assert all(0 < n < 2**16 for n in rest)


# ---- streams -----------------------------------------------------------------------------------


class _Library:
    """Stands for the compiled core: it notes the places of its launches and runs nothing."""

    def __init__(self) -> None:
        self.places: list[tuple[str, tuple[int, ...]]] = []

    def Call(self, plan: object, dtype: int, channels_last: bool, *size: int) -> Any:
        def note(name: str, addresses: int) -> Callable[..., None]:
            return lambda *arguments: self.places.append((name, arguments[addresses:]))

        launches = {name: note(name, 3) for name in ("forward", "backward", "apply")}
        return SimpleNamespace(sizes=(4, 4, 8), **launches)


def test_every_launch_asks_for_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, backward and apply hand on the stream that torch has at that call, of x's device.

    What the stream does then shows on a GPU alone: `tests/gpu/test_cuda_device.py` has a side
    stream.

    Found in: https://github.com/pytorch/pytorch/pull/22470, https://github.com/thu-ml/SageAttention/pull/380,
    https://github.com/NVIDIA/cudnn-frontend/pull/483 (launches on the default stream).
    """
    library, current = _Library(), [100]
    asked: list[int] = []

    def stream_of(device: int) -> int:
        asked.append(device)
        return current[0]

    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", stream_of, raising=False)
    backend = SimpleNamespace(
        library=library,
        place=compiled.CUDA.place,
        alignment=16,
        device_type="cpu",
        operators=None,
        codes_dtype=torch.int32,
    )
    geometry = Geometry.resolve(2, filter_size=2).arguments()
    plan: Any = SimpleNamespace(backend=backend, native=None, geometry=geometry)
    call = calls.CompiledCall(plan, (1, 1, 9, 9), False, torch.float32, torch.device("cpu"))
    x = torch.zeros(1, 1, 9, 9)
    for current[0] in (100, 200, 100, 300):
        y, codes = call.forward(x, True)
        call.forward(x, False)
        call.backward(y, codes)
        call.apply(x, codes)
        assert [place for _, place in library.places] == [(x.get_device(), current[0])] * 4
        assert [name for name, _ in library.places] == ["forward"] * 2 + ["backward", "apply"]
        library.places.clear()
    assert len(asked) == 16
