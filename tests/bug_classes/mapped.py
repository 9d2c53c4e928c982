"""Tensors larger than memory: all of their pages but the last are the same few."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import torch
from torch import Tensor

_PIECE = 2**26  # bytes that repeat
_FIXED, _NORESERVE = 0x10, 0x4000
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def _map(address: int | None, size: int, flags: int, file: int = -1) -> int:
    found = _LIBC.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, 0)
    if found in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap failed")
    return int(found)


class Mapped:
    """A flat tensor of which the last ``own`` elements are memory of their own.

    What is written before them is written over again, and read as the last of it.
    """

    def __init__(self, elements: int, own: int, dtype: torch.dtype) -> None:
        self._size = elements * dtype.itemsize
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        self._address = _map(None, self._size, anonymous)
        end = (self._size - own * dtype.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
        file = os.memfd_create("repeated")
        os.ftruncate(file, _PIECE)
        for at in range(0, end, _PIECE):
            _map(self._address + at, min(_PIECE, end - at), mmap.MAP_SHARED | _FIXED, file)
        os.close(file)
        buffer = (ctypes.c_char * self._size).from_address(self._address)
        self.tensor = torch.frombuffer(buffer, dtype=dtype)

    def __enter__(self) -> Tensor:
        return self.tensor

    def __exit__(self, *_: Any) -> None:
        _LIBC.munmap(self._address, self._size)
