"""Runs the CUDA kernels on the CPU; see README.md."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from fastblur._geometry import Geometry

from .build import CSRC, VARIANTS, Build, BuildError, command, environment, why_not
from .jobs import ORDERS, Job, Options, Result, read_result, write_job

__all__ = [
    "ORDERS",
    "VARIANTS",
    "BuildError",
    "HostCuda",
    "HostCudaError",
    "Job",
    "Options",
    "Result",
    "why_not",
]


class HostCudaError(RuntimeError):
    """The runner found a defect, or crashed; the message is its own, or the sanitizer's."""


class HostCuda:
    """The CUDA backend, compiled for the CPU.

    Args:
        variant: "plain", "asan" (with UBSan) or "tsan".
        csrc: where the sources are.
        defines: more flags for the compiler, such as ``-DNAME=value``.
        options: the fields of :class:`Options`, for :meth:`forward` and the like.
    """

    def __init__(
        self,
        variant: str = "plain",
        *,
        csrc: Path = CSRC,
        defines: Sequence[str] = (),
        **options: object,
    ) -> None:
        self.variant = variant
        self.defines = tuple(defines)
        self.options = Options(**options)  # type: ignore[arg-type]
        self.runner = Build(variant, csrc, defines).runner()
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115

    def run(self, jobs: Sequence[Job], timeout: float = 300) -> list[Result]:
        """Runs the jobs in one process, which stays; the first defect in any of them is an error.

        `timeout` is for each job, in seconds.
        """
        return [self._run(job, timeout) for job in jobs]

    def _run(self, job: Job, timeout: float) -> Result:
        if self._process is None:
            self._process = subprocess.Popen(
                command(self.variant, self.runner),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment(),
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        data = io.BytesIO()
        write_job(data, job)
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        try:
            process.stdin.write(data.getbuffer())
            process.stdin.flush()
            return read_result(process.stdout, job)
        except (BrokenPipeError, EOFError):
            raise HostCudaError(self._last_words(job)) from None
        finally:
            watchdog.cancel()

    def _last_words(self, job: Job) -> str:
        process, self._process = self._process, None
        assert process is not None
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        status = process.wait()
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace")[:8000]
        self._stderr.seek(0)
        self._stderr.truncate()
        return f"exit status {status}, job: {job}\n{text}"

    def forward(
        self, x: Tensor, geometry: Geometry, channels_last: bool = False, need_codes: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        job = self._job("forward", geometry, tuple(x.shape), x, channels_last)
        result = self._run_one(replace(job, x=x, need_codes=need_codes))
        return result["y"], result.tensors.get("codes")

    def backward(
        self,
        dy: Tensor,
        codes: Tensor,
        input_size: Sequence[int],
        geometry: Geometry,
        channels_last: bool = False,
    ) -> Tensor:
        job = self._job("backward", geometry, tuple(input_size), dy, channels_last)
        return self._run_one(replace(job, dy=dy, codes=codes))["dx"]

    def apply(
        self, x: Tensor, codes: Tensor, geometry: Geometry, channels_last: bool = False
    ) -> Tensor:
        job = self._job("apply", geometry, tuple(x.shape), x, channels_last)
        return self._run_one(replace(job, x=x, codes=codes))["applied"]

    def _job(
        self,
        op: str,
        geometry: Geometry,
        size: tuple[int, ...],
        tensor: Tensor,
        channels_last: bool,
    ) -> Job:
        n, c, h, w = size
        return Job(op, geometry, (n, c, h, w), tensor.dtype, channels_last, options=self.options)

    def _run_one(self, job: Job) -> Result:
        result = self._run(job, 300)
        if result.error:
            raise HostCudaError(f"cudaError_t {result.error}: {job}")
        return result
