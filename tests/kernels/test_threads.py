"""Many threads, processes and thread counts: the same bits, and a GIL that others can have."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastblur._backends import compiled
from fastblur._geometry import Geometry
from fastblur.functional import max_blur_pool2d
from testing.cases import fill

from ..conftest import needs_extension

pytestmark = needs_extension
ROOT = Path(__file__).parents[2]
SANITIZED = os.environ.get("FASTBLUR_SANITIZED")
torch_alone = pytest.mark.skipif(
    SANITIZED == "tsan", reason="ThreadSanitizer supports neither forks with threads nor limits"
)
# Enough for several threads each, in both layouts and with all that is specialised and is not.
CALLS = [
    (dict(kernel_size=2), torch.float32, False),
    (dict(kernel_size=3, padding=1, filter_size=3), torch.float32, True),
    (dict(kernel_size=3, padding=1, relu=True), torch.float16, False),
    (dict(kernel_size=(2, 4), stride=(1, 3), filter_size=5), torch.float64, True),
]


def compute(seed: int) -> list[Tensor]:
    """Values and gradients of each of CALLS."""
    found = []
    for arguments, dtype, channels_last in CALLS:
        x = fill((2, 16, 40, 44), "ties", dtype, seed)
        if channels_last:
            x = x.to(memory_format=torch.channels_last)
        leaf = x.requires_grad_()
        y = max_blur_pool2d(leaf, **arguments)  # type: ignore[arg-type]
        (dx,) = torch.autograd.grad(y, leaf, fill(tuple(y.shape), "normal", dtype, seed + 1))
        found += [y.detach(), dx]
    return found


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    assert all(map(torch.equal, ours, theirs))


def test_eight_python_threads_at_once() -> None:
    want = [compute(seed) for seed in range(8)]
    start = threading.Barrier(8)

    def work(seed: int) -> list[Tensor]:
        start.wait(60)
        for _ in range(3):
            found = compute(seed)
            assert_same(found, want[seed])
        return found

    with ThreadPoolExecutor(8) as pool:
        for ours, theirs in zip(pool.map(work, range(8)), want, strict=True):
            assert_same(ours, theirs)


def test_one_call_in_many_threads() -> None:
    want = compute(0)
    for count in (2, 3, 4, 1, 7):
        torch.set_num_threads(count)
        assert_same(compute(0), want)


def test_threads_that_change_the_number_of_threads() -> None:
    want = compute(0)

    def work(count: int) -> None:
        torch.set_num_threads(count)
        for _ in range(2):
            assert_same(compute(0), want)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, (1, 2, 3)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_calls_from_the_inter_op_pool() -> None:
    """A jit fork runs there, and the call starts a parallel region of its own."""
    want = compute(0)[0]
    torch.set_num_threads(2)
    x = fill((2, 16, 40, 44), "ties", torch.float32)
    futures = [torch.jit.fork(max_blur_pool2d, x, 2) for _ in range(4)]
    assert all(torch.equal(torch.jit.wait(future), want) for future in futures)


def test_calls_inside_a_parallel_region() -> None:
    """Of the OpenMP that torch runs on: a kernel in one must not wait for threads that it has."""
    library = next((Path(torch.__file__).parent / "lib").glob("libgomp*"), None)
    if library is None:
        pytest.skip("this torch brings no libgomp")
    want, found = compute(0), []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def region(_: None) -> None:
        found.append(compute(0))

    ctypes.CDLL(str(library)).GOMP_parallel(region, None, ctypes.c_uint(3), ctypes.c_uint(0))
    assert len(found) == 3
    for got in found:
        assert_same(got, want)


def others_run_during(call: Callable[[], object]) -> bool:
    """Whether another Python thread gets the GIL in the middle of a call.

    The interpreter takes the GIL away from nobody here, so that it changes hands only where it is
    let go of: in the call, or at the end of the thread that makes it.
    """
    events = ["none"]

    def work() -> None:
        for _ in range(500):
            events.append("before")
            call()
            events.append("after")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            if events[-1] == "before":
                return True
            thread.join(0.001)
        return False
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def test_the_gil_is_released() -> None:
    geometry = Geometry.resolve(2, filter_size=3).arguments()
    x = torch.zeros(1, 64, 32, 32)
    call = compiled.CPU.call(geometry, (1, 64, 32, 32), False, x)
    y, codes = call.forward(x, True)
    assert others_run_during(lambda: call.forward(x, True))
    assert others_run_during(lambda: call.backward(y, codes))
    assert others_run_during(lambda: call.apply(x, codes))
    # And would be seen not to: this one keeps it.
    assert not others_run_during(lambda: compiled.CPU.plans(geometry).native.output_size(32, 32))


class Pooled(Dataset[Tensor]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        torch.set_num_threads(1)
        return compute(index)[0]


@torch_alone
def test_forked_workers() -> None:
    """In a process of its own: after a backward of fake tensors, torch forbids those of a fork."""
    code = "from tests.kernels.test_threads import use_forked_workers; use_forked_workers()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def use_forked_workers() -> None:
    """Forked after this process used several threads, as a DataLoader does."""
    torch.set_num_threads(2)
    want = [compute(index)[0] for index in range(6)]
    loader = DataLoader(Pooled(), None, num_workers=2, multiprocessing_context="fork", timeout=120)
    assert_same(list(loader), want)


AS_MANY = """
import os, numpy, torch
from fastblur.functional import max_blur_pool2d
torch.set_num_threads(3)
x = torch.from_numpy(numpy.ones((8, 16, 112, 112), numpy.float32))  # by this thread alone
before = len(os.listdir("/proc/self/task"))
max_blur_pool2d(x, 2, backend="cpu")
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux lists threads there")
def test_as_many_threads_as_torch_is_set_to() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_MANY], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "2\n", done.stdout + done.stderr


OUT_OF_MEMORY = """
import resource, torch
from fastblur.functional import max_blur_pool2d
x = torch.ones(1, 64, 256, 256)
small = max_blur_pool2d(x[:, :, :64, :64].contiguous(), 2)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
for leaf in (x.detach(), x.requires_grad_()):
    try:
        max_blur_pool2d(leaf.expand(256, -1, -1, -1), 2)
    except RuntimeError as error:
        assert "memory" in str(error), error
        print("refused")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert torch.equal(max_blur_pool2d(x.detach()[:, :, :64, :64].contiguous(), 2), small)
print("went on")
"""


@torch_alone
@pytest.mark.skipif(SANITIZED is not None, reason="a sanitizer takes all address space")
def test_out_of_memory_is_an_error_and_the_process_goes_on() -> None:
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:3] == ["refused", "refused", "went on"]
