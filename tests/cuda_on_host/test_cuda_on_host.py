"""The CUDA kernels, run on the CPU by cuda_on_host/, against the unfused chain.

Set FASTBLUR_SLOW_TESTS=1 to run the sanitizers on all specialisations instead of a few.
"""

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from fastblur._dispatch.operators import is_channels_last
from fastblur._geometry import Geometry
from testing.cases import CASES, MODES, UPSAMPLES, Case, UpsampleCase, fill, zhang
from testing.judge import answer
from testing.volumes import CASES_3D, Case3d, answer3d, in_format_3d, run3d

from ..kernels import test_values
from ..kernels.test_values import gradient_for
from ..layers import test_upsampling
from . import HostCuda, Job, Options, why_not
from .build import Build, BuildError
from .defines import FEW
from .far import check_far
from .target import HostTarget

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

SLOW = os.environ.get("FASTBLUR_SLOW_TESTS") == "1"
CUDA_ERROR_INVALID_CONFIGURATION = 9

layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "nhwc"])
sixteen_bits = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"]
)


@cache
def host(variant: str) -> HostCuda:
    return HostCuda(variant, defines=() if SLOW or variant == "plain" else FEW)


def plain(channels_last: bool) -> HostTarget:
    return HostTarget(host("plain"), channels_last)


@layouts
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case, channels_last: bool) -> None:
    test_values.test_case(plain(channels_last), case, channels_last)


@layouts
@pytest.mark.parametrize("case", UPSAMPLES, ids=str)
def test_upsampling_case(case: UpsampleCase, channels_last: bool) -> None:
    test_upsampling.test_case(plain(channels_last), case, channels_last)


@layouts
@pytest.mark.parametrize("case", CASES_3D, ids=str)
def test_case_3d(case: Case3d, channels_last: bool) -> None:
    """By 2-D calls in the layouts that they have; the kinds of values in the images."""
    n, *size = case.shape
    kinds = ("normal", "ties", "nan", "inf")
    x = torch.cat([fill((n, *size), kind, torch.float32) for kind in kinds])
    lead, rest = x.shape[:2], case.volume().output_size(*x.shape[2:])
    dy = fill((*lead, *rest), "normal", torch.float32, seed=1)

    def run(x: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        return plain(is_channels_last(x))(x, geometry)

    got = run3d(run, case, in_format_3d(x, channels_last), dy)
    answer3d(x, dy, case).check("cuda on the host", *got)


@layouts
@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros"])
@pytest.mark.parametrize(("pool", "f"), [(1, 2), (1, 5), (2, 4), (3, 3), (3, 4)])
def test_gradients_that_are_not_finite(pool: int, f: int, mode: str, channels_last: bool) -> None:
    """A NaN or an infinity in dy reaches what it has a weight for, and nothing else."""
    for width in (13, 14, 15, 16):
        case = zhang(pool, f, pad=(pool // 3,) * 2, mode=mode, shape=(2, 8, 16, width))
        x, dy = fill(case.shape, "normal", torch.float32), gradient_for(case, torch.float32)
        for at, value in ((0, math.inf), (-1, math.nan)):  # columns; the other images' are finite
            dy[0, ::2, ::5, at] = value
        got = test_values.run(plain(channels_last), case, x, dy)
        answer(x, dy, *case.chain()).check(str(case), *got)


@layouts
@sixteen_bits
def test_sixteen_bits_are_no_worse_than_the_unfused_chain(
    channels_last: bool, dtype: torch.dtype
) -> None:
    test_values.test_sixteen_bits_are_no_worse_than_the_unfused_chain(
        plain(channels_last), channels_last, dtype
    )


@layouts
@sixteen_bits
def test_sixteen_bits_route_like_max_pool2d(channels_last: bool, dtype: torch.dtype) -> None:
    test_values.test_sixteen_bits_route_like_max_pool2d(plain(channels_last), dtype, channels_last)


@layouts
@sixteen_bits
def test_sixteen_bits_round_to_nearest_even(channels_last: bool, dtype: torch.dtype) -> None:
    test_values.test_sixteen_bits_round_to_nearest_even(plain(channels_last), channels_last, dtype)


@layouts
def test_largest_stride(channels_last: bool) -> None:
    test_values.test_largest_stride(plain(channels_last), channels_last)


def random_cases(seed: int, count: int) -> list[Case]:
    """Sizes that the specialised kernels take, at any size of map."""
    draw = random.Random(seed)
    found: list[Case] = []
    while len(found) < count:
        pool, pad = draw.choice([(1, 0), (2, 0), (3, 0), (3, 1)])
        case = zhang(
            pool,
            draw.randint(2, 5),
            pad=(pad, pad),
            mode=draw.choice(MODES),
            relu=draw.random() < 0.4,
            shape=(
                draw.randint(1, 2),
                draw.choice([1, 2, 3, 5, 8, 16, 17, 24]),
                draw.randint(1, 24),
                draw.randint(1, 70),
            ),
        )
        if math.prod(case.shape) > 12_000:
            continue
        top, bottom, left, right = case.blur_pad
        less = draw.choice([0, 0, 0, 1, 2])
        case = replace(case, blur_pad=(top, max(bottom - less, 0), left, max(right - less, 0)))
        try:
            case.geometry().check_input(torch.empty(case.shape, device="meta"))
        except ValueError:
            continue
        found.append(case)
    return found


@layouts
@pytest.mark.parametrize("seed", range(4))
def test_random_sizes(channels_last: bool, seed: int) -> None:
    target = plain(channels_last)
    for case in random_cases(seed, 10):
        test_values.test_case(target, case, channels_last)
    assert len(target.kernels) > 1, target.kernels


# Outside FEW all is generic.
SPECIALISED = [zhang(1, 3), zhang(2, 4), zhang(2, 4, relu=True), zhang(3, 3, pad=(1, 1))]


def run_all(variant: str, case: Case, channels_last: bool, way: Options) -> None:
    """Runs every operator, for what a sanitizer and the tracing may find."""
    jobs = []
    for dtype in (torch.float32, torch.float16):
        x, dy = fill(case.shape, "nan", dtype), gradient_for(case, dtype)
        job = Job("all", case.geometry(), case.shape, dtype, channels_last, x, dy)
        jobs.append(replace(job, options=way))
        if x.numel() < 50_000:
            jobs.append(replace(job, options=replace(way, offset=1)))
    for job, result in zip(jobs, host(variant).run(jobs), strict=True):
        assert result.error == 0, str(job)
        for operator, report in result.reports.items():
            # Codes are padded to whole vectors.
            missing = {n: b for n, b in report["unwritten"].items() if b and n != "codes"}
            assert not missing, f"{operator} leaves bytes unwritten: {job}"


@pytest.mark.slow
@layouts
@pytest.mark.parametrize("case", CASES + SPECIALISED, ids=str)
def test_memory_is_safe(case: Case, channels_last: bool) -> None:
    way = Options(order="random", multiprocessors=16, trace=True)
    run_all("asan", case, channels_last, way)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [7, 12, 14, 28, 30])
def test_rows_in_parts(width: int, dtype: torch.dtype) -> None:
    """Contiguous rows of every divisor, from addresses that allow the accesses and from others."""
    jobs = []
    for pool, taps, pad in ((1, 4, 0), (2, 4, 0), (3, 3, 1)):
        case = zhang(pool, taps, pad=(pad, pad), shape=(1, 3, 13, width))
        x, dy = fill(case.shape, "normal", dtype), gradient_for(case, dtype)
        for offset in (0, 1, 2, 4, 5):
            options = Options(trace=True, offset=offset)
            jobs.append(
                Job("all", case.geometry(), case.shape, dtype, False, x, dy, options=options)
            )
    results = host("plain").run(jobs)
    for first in range(0, len(results), 5):
        for other in results[first + 1 : first + 5]:
            for name in ("y", "codes", "dx"):
                assert torch.equal(results[first][name], other[name]), (jobs[first], name)


# So high that a block of the only multiprocessor sweeps far enough to prefetch.
HIGH = [
    replace(case, shape=(1, 16, 64, 16))
    for case in (zhang(1, 3), zhang(2, 4), zhang(3, 3, pad=(1, 1)))
]


@layouts
@pytest.mark.parametrize("case", HIGH, ids=str)
def test_memory_is_safe_in_long_sweeps(case: Case, channels_last: bool) -> None:
    run_all("asan", case, channels_last, Options(multiprocessors=1, trace=True))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros"])
@pytest.mark.parametrize("width", [21, 22, 23, 24])
@pytest.mark.parametrize("case", SPECIALISED, ids=str)
def test_no_width_and_no_border_leaves_the_fast_loop(case: Case, width: int, mode: str) -> None:
    """In channels_last: a thread takes as many edge steps as in a regular row of reflect."""

    def edge_steps(case: Case) -> list[float]:
        h, w = case.shape[2:]
        x, dy = fill(case.shape, "normal", torch.float16), gradient_for(case, torch.float16)
        job = Job("all", case.geometry(), case.shape, torch.float16, True, x, dy)
        job = replace(job, options=Options(multiprocessors=1, trace=True))
        (result,) = host("plain").run([job])
        strips = {"forward": math.ceil(case.geometry().pooled_size(h, w)[1] / 4)}
        strips |= {"forward_without_codes": strips["forward"], "backward": math.ceil(w / 4)}
        return [result.reports[op]["launches"][0]["rare"] / of for op, of in strips.items()]

    regular = edge_steps(replace(case, shape=(1, 16, 40, 24)))
    assert all(0 < steps < 16 * 20 / 2 for steps in regular), "most steps are fast"
    assert edge_steps(replace(case, shape=(1, 16, 40, width), mode=mode)) == regular


@pytest.mark.slow
@layouts
@pytest.mark.parametrize("case", SPECIALISED, ids=str)
def test_threads_do_not_race(case: Case, channels_last: bool) -> None:
    run_all("tsan", replace(case, shape=(1, 3, 13, 18)), channels_last, Options())


@layouts
@pytest.mark.parametrize("case", [zhang(2, 4), Case((2, 3), (2, 1))], ids=str)
def test_launches_too_large_for_cuda_are_refused(case: Case, channels_last: bool) -> None:
    dry = Options(dry=True)
    for batch, error in ((2**20, 0), (2**44, CUDA_ERROR_INVALID_CONFIGURATION)):
        size = (batch, 8, 64, 64)
        job = Job("all", case.geometry(), size, torch.float32, channels_last, options=dry)
        (result,) = host("plain").run([job])
        assert result.error == error, batch


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("case", [*SPECIALISED, Case((2, 3), (2, 1))], ids=str)
def test_offsets_past_32_bits(case: Case, dtype: torch.dtype, channels_last: bool) -> None:
    check_far(host("plain"), case, dtype, channels_last)


@pytest.mark.parametrize(
    ("size", "place"),
    [
        ("4, 0, 3", "TileCode: "),
        ("1, 0, 6", "kStepOfRow0"),
        ("2, 0, 6", "TileRows::tile_shift"),
        ("2, 0, 6", "ColumnBorder::kWindow"),
        ("2, 0, 7", "ColumnBorder::kHalo"),
        ("3, 1, 8", "ColumnWeights"),
    ],
)
def test_a_size_beyond_the_kernels_does_not_compile(tmp_path: Path, size: str, place: str) -> None:
    source = tmp_path / "size.cpp"
    source.write_text(
        f'#include "cuda/launch/specialisation.h"\nfastblur::cuda::Sizes<{size}, false> sizes;\n'
    )
    with pytest.raises(BuildError, match=f"static assertion failed: .*{place}"):
        Build("plain").executable("size", [source])
