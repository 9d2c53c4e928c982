"""Jobs for the runner, their results, and how both cross a pipe; runner.cpp is the other side."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fastblur._geometry import PADDING_MODES, Geometry

OPERATORS = ("forward", "backward", "apply", "all")
ORDERS = ("forward", "reverse", "random")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # as in cuda/launch/launch.h
OUTPUTS = {
    "forward": ("y",),
    "backward": ("dx",),
    "apply": ("applied",),
    "all": ("y", "codes", "y_without_codes", "dx", "applied"),
}


@dataclass(frozen=True)
class Options:
    """How a job is run.

    Attributes:
        order: in which the threads of a block and the blocks take turns; see ORDERS.
        seed: of the random order.
        trace: check and count every access to global memory.
        dry: record the launches and run nothing; needs no tensors, and returns none.
        last: run the last image of the batch only. Tensors hold the last two images, and what they
            return of the first of them means nothing; those before are nowhere.
        multiprocessors: how many the device pretends to have.
        offset: by how many elements x, y, dy and dx miss an aligned address.
    """

    order: str = "forward"
    seed: int = 1
    trace: bool = False
    dry: bool = False
    last: bool = False
    multiprocessors: int = 132
    offset: int = 0


@dataclass(frozen=True)
class Job:
    """One call of an operator, or "all": forward with and without codes, backward, apply to x."""

    op: str
    geometry: Geometry
    input_size: tuple[int, int, int, int]
    dtype: torch.dtype
    channels_last: bool
    x: Tensor | None = None
    dy: Tensor | None = None
    codes: Tensor | None = None
    need_codes: bool = True
    options: Options = field(default_factory=Options)
    label: str = ""

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        parts = (self.op, self.input_size, self.dtype, layout, self.geometry, self.options)
        return " ".join(map(str, (*parts, self.label)))

    def images(self) -> int:
        """How many of them the tensors hold."""
        return 2 if self.options.last else self.input_size[0]

    def output_size(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.input_size
        return n, c, *self.geometry.output_size(h, w)


@dataclass(frozen=True)
class Result:
    """What a job returned.

    Attributes:
        error: cudaError_t of the first launch that failed; 0: none did.
        tensors: by name, see OUTPUTS.
        specialisation: which kernel ran, in words.
        reports: of each operator that ran, its launches; in tracing mode with all that was counted.
    """

    error: int
    tensors: dict[str, Tensor]
    specialisation: str
    reports: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def write_job(file: BinaryIO, job: Job) -> None:
    def put(*numbers: int) -> None:
        file.write(struct.pack(f"<{len(numbers)}q", *numbers))

    def put_bytes(data: bytes) -> None:
        put(len(data))
        file.write(data)

    geometry, options = job.geometry, job.options
    batch, channels, *sizes = job.input_size
    put(OPERATORS.index(job.op), DTYPES.index(job.dtype))
    put(job.need_codes, job.channels_last, batch, channels)
    for axis, taps in enumerate((geometry.taps_h, geometry.taps_w)):
        put(sizes[axis], geometry.kernel_size[axis], geometry.stride[axis], geometry.padding[axis])
        put(*geometry.blur_padding[2 * axis : 2 * axis + 2])
        put_bytes(struct.pack(f"<{len(taps)}d", *taps))
    put(PADDING_MODES.index(geometry.padding_mode), geometry.relu, options.multiprocessors)
    put(ORDERS.index(options.order), options.seed, options.trace, options.dry, options.last)
    put(options.offset)
    put_bytes(str(job).encode())
    for tensor in (job.x, job.dy):
        put_bytes(b"" if tensor is None else _bytes_of(tensor, job.channels_last))
    put_bytes(b"" if job.codes is None else _bytes_of(job.codes, False))


def _bytes_of(tensor: Tensor, channels_last: bool) -> bytes:
    if channels_last:
        tensor = tensor.permute(0, 2, 3, 1)
    # A clone: what has one element counts as contiguous whatever its strides, and no view is.
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def read_result(file: BinaryIO, job: Job) -> Result:
    def read(size: int) -> bytes:
        data = file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def number() -> int:
        (value,) = struct.unpack("<q", read(8))
        return int(value)

    error = number()
    data = [read(number()) for _ in range(number())]
    report = json.loads(read(number()))
    names = list(OUTPUTS[job.op])
    if job.op == "forward" and job.need_codes:
        names.append("codes")
    tensors = {}
    for name, raw in zip(names, data, strict=True):
        if not job.options.dry:
            tensors[name] = _tensor_of(raw, name, job)
    return Result(error, tensors, report.pop("specialisation"), report)


def _tensor_of(raw: bytes, name: str, job: Job) -> Tensor:
    dtype = torch.int32 if name == "codes" else job.dtype
    flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    if name == "codes":
        batch = job.images()
        return flat.view(batch, flat.numel() // max(batch, 1))
    _, c, h, w = job.input_size if name == "dx" else job.output_size()
    n = job.images()
    if job.channels_last:
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)
    return flat.view(n, c, h, w)
