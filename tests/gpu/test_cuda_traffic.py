"""The bytes that the CUDA kernels move, counted while they run on the CPU."""

from __future__ import annotations

import pytest
import torch

from testing.cases import Case, zhang

from ..cuda_on_host import HostCuda, why_not
from ..cuda_on_host.traffic import measure

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

CASES = [
    zhang(pool, taps, pad=(pad, pad), shape=(1, 8, size, size))
    for pool, taps, pad in ((1, 3, 0), (2, 4, 0), (3, 3, 1))
    for size in (56, 112)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_byte_is_moved_once(case: Case, channels_last: bool, dtype: torch.dtype) -> None:
    """One multiprocessor: chunks are as long as with a batch that fills the device, or longer.

    The rows between two chunks are read by both, the second time from L2, for they run side by
    side. If every block read from DRAM what it needs, the larger map would cost a seventh more.
    """
    without_l2 = 1.15 if case.shape[2] > 100 else 1.3
    rows = {
        row.name.split()[0]: row
        for row in measure(HostCuda("plain"), case, dtype, channels_last, multiprocessors=1)
    }
    for operator in ("forward", "forward_without_codes", "backward"):
        row = rows[operator]
        assert row.kernel == "specialised"
        # Of the ideal, if what blocks share is fetched once; and if it is fetched by each.
        assert row.once <= 1.05, str(row)
        assert row.each_block <= without_l2, str(row)


@pytest.mark.parametrize(
    ("width", "of_x", "of_y"), [(56, 16, 8), (28, 8, 4), (14, 4, 2), (7, 2, 8)]
)
def test_accesses_are_as_wide_as_the_rows_allow(width: int, of_x: int, of_y: int) -> None:
    """Contiguous rows of 16-bit values, each of which begins at a multiple of so many bytes.

    Of a blur, which moves x and y and nothing else. A row of y has half as many columns.
    """
    case = zhang(1, 4, shape=(1, 8, 24, width))
    rows = {
        row.name.split()[0]: row
        for row in measure(HostCuda("plain"), case, torch.float16, False, multiprocessors=1)
    }
    for operator, loaded, stored in (("forward", of_x, of_y), ("backward", of_y, of_x)):
        row = rows[operator]
        assert row.kernel == "specialised"
        assert {width for width, share in row.loads.items() if share} == {loaded}, str(row)
        assert {width for width, share in row.stores.items() if share} == {stored}, str(row)
