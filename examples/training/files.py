"""The files of a run: checkpoints that are complete at any moment, and a matching log."""

from __future__ import annotations

import json
import os
import random
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .options import FREE


def write_whole(path: Path, content: Any) -> None:
    """`torch.save`, atomically: if the process dies, the old or the new file is complete."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    # The new name is safe once the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def random_state() -> dict[str, Any]:
    """The state of all random generators that a model may use."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - what models use, we must keep
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restores :func:`random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def check_same_run(before: dict[str, Any], args: Namespace) -> None:
    """Raises ValueError if an argument that affects the result has changed."""
    for name, value in described(args).items():
        if before.get(name) != value:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"argument --resume: the checkpoint was made with {flag} {before.get(name)!r}, "
                f"got {value!r}"
            )


def described(args: Namespace) -> dict[str, Any]:
    """The arguments that affect the result."""
    return {name: value for name, value in vars(args).items() if name not in FREE}


class Log:
    """Writes one line of JSON per event, unbuffered; writes nothing without a path."""

    def __init__(self, path: Path | None, position: int) -> None:
        """Continues at a position in bytes; removes later lines, which no checkpoint covers."""
        self._file = None
        if path is not None:
            self._file = path.open("ab")
            size = self._file.tell()
            if size < position:
                self._file.close()
                raise ValueError(
                    f"argument --resume: {path} has {size} bytes, and had {position} when the "
                    f"checkpoint was written"
                )
            self._file.truncate(position)

    def write(self, **event: Any) -> None:
        """Adds a line."""
        if self._file is not None:
            self._file.write((json.dumps(event) + "\n").encode())
            self._file.flush()

    def position(self) -> int:
        """The length in bytes, after flushing to disk."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
