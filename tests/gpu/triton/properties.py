"""The Triton kernels, in the interpreter, on random calls; kernels/test_properties.py runs this."""

from __future__ import annotations

import warnings

import torch
from hypothesis import given

from fastblur._backends.triton import TRITON, launch

from ...kernels.properties import Example, examples, share

assert launch.INTERPRETED
warnings.filterwarnings("ignore", message="(invalid value|overflow) encountered")  # numpy's

# The interpreter cuts off where a GPU rounds to bfloat16, and takes a while for each program.
DTYPES = (torch.float32, torch.float64, torch.float16)


@share(0.02)
@given(example=examples(dtypes=DTYPES, max_elements=400))
def test_triton(example: Example) -> None:
    geometry = example.case.geometry()
    if example.case.shape[0] == 0:
        return
    example.judge("triton", lambda x: TRITON.run(x, geometry))
