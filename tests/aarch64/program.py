"""Calls of the driver, which runs in an emulator and is asked through pipes."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from fastblur._backends.calls import _NUMBERS as NUMBERS
from testing.cases import Case, in_format

from ..kernels.drivers import Driver, Results, Rooms, sizes_of
from .build import EMULATOR

REQUEST = struct.Struct("<16s16s20q62d")  # Request of driver.cpp


class Program:
    """The driver, which ends with the `with` statement."""

    def __init__(self, driver: Path, *options: str) -> None:
        self.command = [str(EMULATOR), *options, str(driver)]
        self.targets = subprocess.run(
            [*self.command, "targets"], capture_output=True, text=True, check=True
        ).stdout.split()

    def __enter__(self) -> Program:
        self.errors = tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, stderr=self.errors, bufsize=1 << 20
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.seek(0)
        self.said = self.errors.read()
        self.errors.close()

    def driver(self, target: str) -> Driver:
        """Its kernels of one target."""
        return partial(self.run, target)

    def run(
        self, target: str, case: Case, x: Tensor, dy: Tensor, channels_last: bool, shares: int
    ) -> Results:
        taps = [*case.taps_h, *case.taps_w]
        request = REQUEST.pack(
            target.encode(),
            case.mode.encode(),
            NUMBERS[x.dtype],
            shares,
            *sizes_of(case, channels_last),
            *taps,
            *[0.0] * (62 - len(taps)),
        )
        to, back = self.process.stdin, self.process.stdout
        assert to is not None
        assert back is not None
        to.write(request + b"".join(as_bytes(t, channels_last) for t in (x, dy)))
        to.flush()
        rooms = Rooms(
            x, dy, int.from_bytes(self._read(back, bytearray(8)), "little"), channels_last
        )
        for room in rooms.values():
            self._read(back, memoryview(room.bytes.numpy()))
        return rooms.results()

    def _read(self, pipe: IO[bytes], room: bytearray | memoryview) -> bytearray | memoryview:
        if pipe.readinto(room) != len(room):  # type: ignore[attr-defined]
            self.errors.seek(0)
            raise RuntimeError(f"the driver ended ({self.process.wait()}): {self.errors.read()}")
        return room


def as_bytes(t: Tensor, channels_last: bool) -> bytes:
    """In the order of the memory."""
    flat = in_format(t, channels_last).contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    order = flat.permute(0, 2, 3, 1) if channels_last else flat
    return order.reshape(-1).view(torch.uint8).numpy().tobytes()
