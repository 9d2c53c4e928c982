"""Properties of every backend, on random calls, against the float64 oracle in oracle.py.

`make test` runs 500 examples, always the same ones; 50,000 others with
`pytest tests/kernels/test_properties.py --hypothesis-profile deep`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given

from fastblur._backends import REFERENCE
from testing.cases import Target
from testing.cases import targets as all_targets

from ..cuda_on_host import HostCuda, why_not
from ..cuda_on_host.target import HostTarget
from .properties import Example, examples, share

ROOT = Path(__file__).parents[2]
TARGETS = [target for target in all_targets() if target.backend.name != "reference"]


# All targets see the same example, since the oracle takes longer than any of them.
@pytest.mark.skipif(not TARGETS, reason="no backend but the reference runs here")
@share(0.64)
@given(example=examples())
def test_compiled_and_gpu_backends(example: Example) -> None:
    geometry = example.case.geometry()
    for target in TARGETS:
        example.judge(str(target), lambda x, target=target: target(x, geometry))  # type: ignore[misc]


# It rounds to 16 bits at each step, and sums as torch does; its gradient, once a window. Without
# oneDNN, whose convolution of bfloat16 multiplies what a window does not hold by zero: that is NaN
# where the window's neighbour is NaN or infinite.
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@share(0.14)
@given(example=examples())
def test_reference(example: Example) -> None:
    geometry = example.case.geometry()
    filter = torch.outer(*(torch.tensor(t) for t in (geometry.taps_h, geometry.taps_w)))
    # Infinity times a tap that 16 bits make zero of is NaN.
    assume(example.kind == "normal" or not filter[filter.to(example.dtype) == 0].any())
    with torch.backends.mkldnn.flags(enabled=False):
        example.judge("reference", lambda x: REFERENCE.run(x, geometry), roundings=512)


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
@share(0.2)
@given(example=examples(places=("contiguous", "channels_last"), max_elements=1_500))
def test_cuda_kernels_on_the_host(example: Example) -> None:
    if example.case.shape[0] == 0:  # nothing is launched
        return
    target = HostTarget(plain(), example.place == "channels_last")
    geometry = example.case.geometry()
    example.judge("cuda on host", lambda x: target(x, geometry))


_plain: list[HostCuda] = []


def plain() -> HostCuda:
    if not _plain:
        _plain.append(HostCuda("plain"))
    return _plain[0]


@pytest.mark.slow
def test_triton_in_the_interpreter(request: pytest.FixtureRequest) -> None:
    """In a process of its own: whether Triton interprets is settled when it is imported."""
    pytest.importorskip("triton")
    profile = request.config.getoption("--hypothesis-profile")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(["--hypothesis-profile", profile] if profile else []),
            "tests/gpu/triton/properties.py",
        ],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "1 passed" in done.stdout


def test_the_oracle_finds_what_is_wrong() -> None:
    """One ulp too much, a tie given to the other, a NaN lost: each is seen."""
    from testing.cases import zhang

    example = Example(zhang(2, 4), torch.float16, "ties", "contiguous", "contiguous", 3)
    target = next((t for t in TARGETS if isinstance(t, Target)), None)
    if target is None:
        pytest.skip("no compiled backend")
    geometry = example.case.geometry()

    def flipped(x: torch.Tensor) -> torch.Tensor:
        return target(x.flip(3), geometry).flip(3)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return target(x, geometry) * (1 + 2**-10)

    for run in (flipped, scaled):
        with pytest.raises(AssertionError):
            example.judge("broken", run)
    example.judge("whole", lambda x: target(x, geometry))
