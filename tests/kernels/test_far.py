"""Tensors of more than 2^31 elements, for real. Set FASTBLUR_SLOW_TESTS=1 to run; takes 14 GB."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastblur.functional import max_blur_pool2d

from ..conftest import needs_extension

NEEDED = 14 * 2**30
SLOW = os.environ.get("FASTBLUR_SLOW_TESTS") == "1"


def available() -> int:
    """Bytes that the system could give, caches that it would drop included."""
    found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found else 0


@needs_extension
@pytest.mark.skipif(not SLOW, reason="slow: FASTBLUR_SLOW_TESTS=1 runs it")
@pytest.mark.skipif(available() < NEEDED, reason="takes 14 GB of free memory")
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_offsets_past_31_bits(
    channels_last: bool, record_property: Callable[[str, object], None]
) -> None:
    """The last part of a huge input gives what it gives alone, forwards and backwards."""
    torch.set_num_threads(2)
    rows, columns = 512, 256  # the last part is too small to be streamed past the caches
    images = 2**31 // (4 * rows * columns) + 2
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.zeros(images, 4, rows, columns, dtype=torch.float16).to(memory_format=memory_format)
    assert x[-1].storage_offset() > 2**31
    record_property("elements", x.numel())
    x[-1] = torch.randn(4, rows, columns).half()
    tail = x[-1:].clone(memory_format=memory_format).requires_grad_()
    y, want = (max_blur_pool2d(t, 2, backend="cpu") for t in (x.requires_grad_(), tail))
    assert torch.equal(y[-1:], want)
    assert not y[:-1].any()
    up = torch.zeros_like(y)
    up[-1] = torch.randn(up.shape[1:]).half()
    (dx,) = torch.autograd.grad(y, x, up)
    (dtail,) = torch.autograd.grad(want, tail, up[-1:])
    assert torch.equal(dx[-1:], dtail)
    assert dtail.any()
    assert not dx[:-1].any()
