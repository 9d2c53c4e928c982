"""Whether offsets beyond 32 bits are right, in tensors that no memory holds."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from testing.cases import Case, fill

from . import HostCuda, Job, Options

ELEMENTS = 2**33
# Columns and channels enough for an image to fill several blocks.
IMAGE = (64, 9, 131)


def check_far(host: HostCuda, case: Case, dtype: torch.dtype, channels_last: bool) -> None:
    """The last image of a huge batch must fare as it does in a small one, to the bit."""
    geometry = case.geometry()
    x = fill((2, *IMAGE), "ties", dtype)
    dy = torch.randn(2, IMAGE[0], *geometry.output_size(*IMAGE[1:])).to(dtype)
    near = Job("all", geometry, (2, *IMAGE), dtype, channels_last, x, dy)
    many = (ELEMENTS // math.prod(IMAGE) + 2, *IMAGE)
    want, got = host.run([near, replace(near, input_size=many, options=Options(last=True))])
    assert got.error == want.error == 0
    assert got.specialisation == want.specialisation
    for name, tensor in want.tensors.items():
        assert torch.equal(got[name][-1], tensor[-1]), name
