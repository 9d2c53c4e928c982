from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastblur import _extension


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """One thread, so that tests run side by side, a fixed seed, and the best CPU level."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    if _extension.C is not None:
        _extension.C.set_cpu_level(_extension.C.build_info()["cpu_levels"][0])


needs_extension = pytest.mark.skipif(
    _extension.C is None, reason="tests the compiled extension, which is not installed"
)
