"""The two statements of the geometry, Python's and C++'s, and the shapes PyTorch produces."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from fastblur._backends import compiled
from fastblur._backends.specialised import is_specialised
from fastblur._geometry import DTYPES, MAX_POOL, MAX_TAPS, Geometry, binomial_taps
from testing.cases import CASES, MODES, Case
from testing.judge import binomial, judge

from ..conftest import needs_extension


@needs_extension
@pytest.mark.parametrize("case", CASES, ids=str)
def test_three_statements_agree(case: Case) -> None:
    geometry = case.geometry()
    n, c, h, w = case.shape
    x = torch.zeros(case.shape)
    for channels_last in (False, True):
        in_cpp = compiled.CPU.call(geometry.arguments(), case.shape, channels_last, x)
        assert in_cpp.output_size == (n, c, *geometry.output_size(h, w))
        assert in_cpp.output_size == judge(x, *case.chain()).shape  # type: ignore[arg-type]
        shape, dtype = compiled.CPU.codes(geometry, case.shape, channels_last, x)
        assert in_cpp.codes_shape == shape
        assert dtype == torch.uint8
    assert compiled.CPU.plans(geometry.arguments()).native.linear == geometry.linear


def code_geometries() -> list[Geometry]:
    """Around everything that decides which CUDA kernels run, and so how they keep their codes."""
    near = [
        Geometry.resolve(k, 2, p, f, relu=relu, blur_padding=(low, low + f % 3, low, f // 2))
        for k, f, relu in itertools.product((1, 2, 3, 4), range(1, 7), (False, True))
        for p in range(k // 2 + 1)
        for low in {(f - 1) // 2, f // 2}
    ]
    zhang = [
        Geometry.resolve((k_h, k_w), (s, t), (p, p), (f, g), padding_mode=mode)
        for k_h, k_w in itertools.product((1, 2, 3), (2, 3))
        for s, t in ((2, 2), (1, 2), (2, 3))
        for p in (0, 1)
        for f, g in ((3, 3), (4, 4), (3, 4))
        for mode in MODES
        if 2 * p <= min(k_h, k_w)
    ]
    return near + zhang + [case.geometry() for case in CASES]


def test_a_mode_that_the_walking_kernels_do_not_know_is_not_theirs() -> None:
    """A mode that is new takes the generic kernels, which ask for each element's source."""
    modes = {"mirrored": False, "circular": False, "reflect": True, "zeros": True}
    for mode, sweeps in modes.items():
        geometry = replace(Geometry.resolve(), padding_mode=mode)
        assert is_specialised(geometry, (1, 2, 20, 20), torch.float32) == sweeps


def test_more_padding_than_the_filter_needs_is_not_specialised() -> None:
    """Less after the map is, for some packages pad so; see csrc/cuda/launch/specialisation.h."""
    paddings = {(1, 2, 1, 2): True, (1, 1, 1, 0): True, (1, 3, 1, 2): False, (1, 2, 1, 3): False}
    for padding, specialised in paddings.items():
        geometry = Geometry.resolve(blur_padding=padding)
        assert is_specialised(geometry, (1, 2, 20, 20), torch.float32) == specialised


@pytest.mark.skipif(not compiled.CUDA_ARCHS, reason="asks the CUDA backend, which is not built")
def test_cuda_codes_have_the_size_that_python_says() -> None:
    sizes = [(2, 3, 13, 18), (1, 5, 14, 7), (3, 1, 40, 41), (1, 2, 16, 40), (0, 3, 14, 14)]
    checked = set()
    for geometry, size, dtype in itertools.product(code_geometries(), sizes, DTYPES):
        try:
            geometry.check_input(torch.empty(size, device="meta"))
        except ValueError:
            continue
        for channels_last in (False, True):
            x = torch.empty(0, dtype=dtype)
            shape, _ = compiled.CUDA.codes(geometry, size, channels_last, x)
            in_cpp = compiled.CUDA.call(geometry.arguments(), size, channels_last, x)
            assert in_cpp.codes_shape == shape, (geometry, size, dtype)
            checked.add(compiled.CUDA.kernels(geometry, size, channels_last, x))
    assert len(checked) > 1  # specialised kernels and others


def output_size_in_cpp(size: tuple[int, ...], geometry: tuple[object, ...]) -> tuple[int, ...]:
    call = compiled.CPU.call(geometry, size, False, torch.empty(0))  # type: ignore[arg-type]
    h, w = compiled.CPU.plans(geometry).native.output_size(*size[2:])
    assert call.output_size == (*size[:2], h, w)
    return call.output_size


@needs_extension
@pytest.mark.parametrize("mode", MODES)
def test_python_and_cpp_refuse_the_same(mode: str) -> None:
    """All small axes: the same answer, or an error from both, and from neither where one exists."""
    checked = refused = 0
    axes = itertools.product(
        range(1, 8), (1, 2, 3, 4), (1, 2, 3), (1, 2, 4, 7), (0, 1, 2, 6), (0, 1, 5)
    )
    for size, k, s, f, before, after in axes:
        for pad in range(k // 2 + 1):
            taps, b = (1.0,) * f, (before, after, 0, 0)
            geometry = Geometry((k, 1), (s, 1), (pad, 0), taps, (1.0,), b, mode, False)
            try:
                geometry.check_input(torch.empty(1, 1, size, 3))
                ours: object = (1, 1, *geometry.output_size(size, 3))
            except ValueError:
                ours = None
                refused += 1
            try:
                theirs: object = output_size_in_cpp((1, 1, size, 3), geometry.arguments())
            except ValueError:
                theirs = None
            assert ours == theirs, (geometry, size)
            if ours is not None and checked % 7 == 0:  # the shape PyTorch gives, on a sample
                chain = ((k, 1), (s, 1), (pad, 0), taps, (1.0,), b, mode)
                assert judge(torch.zeros(1, 1, size, 3), *chain).shape == ours  # type: ignore[arg-type]
            checked += 1
    assert checked > refused > 100


def test_binomial_taps() -> None:
    for n in range(1, MAX_TAPS + 1):
        assert list(binomial_taps(n)) == pytest.approx(binomial(n), rel=1e-15)
    assert binomial_taps(4) == (0.125, 0.375, 0.375, 0.125)
    for n in range(1, 8):  # exact in 16 bits
        taps = torch.tensor(binomial_taps(n), dtype=torch.float64)
        assert torch.equal(taps, taps.half().double())
        assert torch.equal(taps, taps.bfloat16().double())


@needs_extension
def test_limits_agree() -> None:
    size = (1, 1, 40, 40)
    one: list[object] = [(1, 1), (0, 0), (1.0,), (1.0,), (0, 0, 0, 0), "reflect", False]
    output_size_in_cpp(size, ((MAX_POOL, MAX_POOL), *one))
    with pytest.raises(ValueError, match=f"1 to {MAX_POOL}"):
        output_size_in_cpp(size, ((MAX_POOL + 1, 1), *one))
    one[2] = (1.0,) * MAX_TAPS
    output_size_in_cpp(size, ((1, 1), *one))
    one[2] = (1.0,) * (MAX_TAPS + 1)
    with pytest.raises(ValueError, match=f"1 to {MAX_TAPS}"):
        output_size_in_cpp(size, ((1, 1), *one))


def test_output_of_same_padding_is_the_ceiling() -> None:
    for f, s, size in itertools.product(range(1, 8), (1, 2, 3, 4), range(8, 20)):
        geometry = Geometry.resolve(kernel_size=2, stride=s, filter_size=f)
        m = size - 1
        assert geometry.output_size(size, size) == (-(-m // s),) * 2
