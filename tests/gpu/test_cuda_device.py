"""The CUDA backend on a GPU: what neither the case list nor a machine without one can show.

Values and gradients of the whole case list, in all types and formats, are in test_values.py, which
runs every backend that it finds; ``pytest -m gpu`` runs both.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from fastblur import FusedBlurPool, FusedMaxBlurPool, explain
from fastblur._backends import compiled
from fastblur._geometry import DTYPES, Geometry
from fastblur.functional import max_blur_pool2d
from fastblur.modules import Pool
from testing.cases import fill, in_format

pytestmark = pytest.mark.gpu
DEVICE = "cuda"

FORMATS = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)
TYPES = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
# One call for each family of kernels: max of 2 and 3, blur alone, ReLU, and the generic ones.
LAYERS = {
    "max 2": FusedMaxBlurPool(),
    "max 3": FusedMaxBlurPool(3, 2, 1, filter_size=3),
    "blur": FusedBlurPool(),
    "relu": FusedMaxBlurPool(3, 2, 1, relu=True),
    "generic": FusedMaxBlurPool((2, 5), (1, 3), (1, 2), filter_size=(6, 3), padding_mode="zeros"),
}
ALL_LAYERS = pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Nothing waits to go wrong in the next test, and no TensorFloat-32 in the unfused chain."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield
    torch.cuda.synchronize()


def run(layer: Pool, x: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """y, and dx for a gradient that is y itself."""
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    (dx,) = torch.autograd.grad(y, leaf, y.detach() * scale)
    return y.detach(), dx


def same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=0, atol=0, equal_nan=True)


def near(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=1e-5, atol=1e-5)


def test_auto_takes_cuda() -> None:
    """Else what follows would test the reference."""
    assert explain(torch.zeros(1, 1, 9, 9, device=DEVICE)).backend == "cuda"


@ALL_LAYERS
def test_gradcheck(layer: Pool) -> None:
    x = torch.randperm(2 * 2 * 9 * 8, generator=torch.Generator().manual_seed(0)).double() / 16 - 9
    leaf = x.view(2, 2, 9, 8).add(1 / 32).to(DEVICE).requires_grad_()
    assert gradcheck(layer, leaf, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(layer, leaf, check_batched_grad=True)


@ALL_LAYERS
@FORMATS
def test_derivatives_are_those_of_the_cpu(layer: Pool, channels_last: bool) -> None:
    """In float32, so by the specialised kernels: double backward, forward mode, vmap."""
    x = in_format(fill((3, 4, 18, 21), "normal", torch.float32), channels_last)
    t = in_format(fill((3, 4, 18, 21), "normal", torch.float32, seed=1), channels_last)

    def double_backward(x: Tensor, t: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(layer(leaf).square().sum(), leaf, create_graph=True)
        return torch.autograd.grad((dx * t).sum(), leaf)[0]

    uses: list[Callable[[Tensor, Tensor], Tensor]] = [
        double_backward,
        lambda x, t: torch.func.jvp(layer, (x,), (t,))[1],
        lambda x, t: torch.func.vmap(layer)(torch.stack([x, t])),
        lambda x, t: torch.func.vmap(torch.func.grad(lambda x: layer(x).square().sum()))(x),
    ]
    for use in uses:
        near((use(x.to(DEVICE), t.to(DEVICE)),), (use(x, t),))


@ALL_LAYERS
@FORMATS
@TYPES
def test_misaligned(layer: Pool, channels_last: bool, dtype: torch.dtype) -> None:
    """Inputs that begin in the middle of a vector: the same bits."""
    x = in_format(fill((2, 8, 20, 24), "ties", dtype), channels_last).to(DEVICE)
    for offset in (1, 2, 3, 8):
        room = torch.empty(x.numel() + offset, dtype=dtype, device=DEVICE)
        shifted = torch.as_strided(room, x.shape, x.stride(), offset)
        shifted.copy_(x)
        same(run(layer, shifted), run(layer, x))


def test_misaligned_codes_and_gradients() -> None:
    arguments = (*Geometry.resolve(3, 2, 1).arguments(), False)
    x = torch.randn(3, 2, 9, 10, device=DEVICE)
    y, codes = compiled.OPERATORS.forward(x, arguments, True)
    want = compiled.OPERATORS.backward(y, codes, (3, 2, 9, 10), arguments)
    for offset in (1, 2, 3):
        moved = []
        for t in (y, codes):
            room = torch.empty(t.numel() + offset, dtype=t.dtype, device=DEVICE)
            moved.append(room[offset:].view(t.shape).copy_(t))
        same((compiled.OPERATORS.backward(*moved, (3, 2, 9, 10), arguments),), (want,))


@ALL_LAYERS
@FORMATS
def test_empty_batch(layer: Pool, channels_last: bool) -> None:
    x = in_format(torch.empty(0, 3, 18, 20), channels_last).to(DEVICE)
    y, dx = run(layer, x)
    assert y.shape == layer(x.cpu()).shape
    assert dx.shape == x.shape


@pytest.mark.parametrize("shape", [(70_000, 2, 6, 6), (1, 140_000, 6, 6), (1, 1, 6, 300_000)])
@FORMATS
def test_many_of_each(shape: tuple[int, ...], channels_last: bool) -> None:
    """More images, channels or columns than the axes of a grid that hold 65,535."""
    x = in_format(fill(shape, "ties", torch.float32), channels_last)
    for layer in LAYERS.values():
        near(run(layer, x.to(DEVICE)), run(layer, x))


@pytest.mark.parametrize("name", ["max 2", "max 3", "blur", "generic"])
@FORMATS
def test_more_elements_than_32_bits_count(name: str, channels_last: bool) -> None:
    """The last image of two that have 2**31 elements together is as it is alone."""
    shape = (2, 8, 8192, 16_400)
    n_bytes = 2 * torch.Size(shape).numel()
    assert n_bytes > 2 * 2**31
    free, _ = torch.cuda.mem_get_info()
    if free < 4 * n_bytes:
        pytest.skip(f"needs {4 * n_bytes / 2**30:.0f} GiB of free GPU memory")
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=torch.float16, device=DEVICE, memory_format=memory_format)
    x.normal_(generator=torch.Generator(DEVICE).manual_seed(0))
    layer = LAYERS[name]
    whole = [t[1:].clone(memory_format=memory_format) for t in run(layer, x)]
    same(tuple(whole), run(layer, x[1:].clone(memory_format=memory_format)))
    del x, whole
    torch.cuda.empty_cache()


@ALL_LAYERS
def test_side_stream(layer: Pool) -> None:
    """A call waits for what is before it on the current stream, and only there."""
    x = fill((4, 16, 40, 40), "normal", torch.float32)
    want = run(layer, x.to(DEVICE))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    late = torch.zeros(x.shape, device=DEVICE)
    source = x.to(DEVICE)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(source)
        got = run(layer, late)
    assert not stream.query()  # nothing has waited for the device
    stream.synchronize()
    same(got, want)


@ALL_LAYERS
def test_nothing_waits_for_the_device(layer: Pool) -> None:
    x = torch.randn(2, 4, 20, 20, device=DEVICE)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(layer, x)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@ALL_LAYERS
@FORMATS
def test_cuda_graph(layer: Pool, channels_last: bool) -> None:
    """Forward and backward are captured once and replayed on other inputs."""
    inputs = [
        in_format(fill((2, 8, 20, 24), "normal", torch.float32, seed), channels_last).to(DEVICE)
        for seed in range(3)
    ]
    static = inputs[0].clone().requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as torch asks for, before a capture
        for _ in range(2):
            y = layer(static)
            torch.autograd.grad(y, static, y.detach())
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(static)
        (dx,) = torch.autograd.grad(y, static, y.detach())
    for x in inputs:
        with torch.no_grad():
            static.copy_(x)
        graph.replay()
        same((y.detach(), dx), run(layer, x))


@ALL_LAYERS
@FORMATS
@TYPES
def test_deterministic(layer: Pool, channels_last: bool, dtype: torch.dtype) -> None:
    """The same bits in every run, with and without codes, whatever runs beside it."""
    x = in_format(fill((4, 24, 57, 61), "ties", dtype), channels_last).to(DEVICE)
    first = run(layer, x)
    noise = torch.cuda.Stream()
    for _ in range(5):
        with torch.cuda.stream(noise):
            torch.randn(2**22, device=DEVICE).sort()
        same(run(layer, x), first)
    with torch.no_grad():
        same((layer(x),), first[:1])


@ALL_LAYERS
@FORMATS
@TYPES
def test_memory(layer: Pool, channels_last: bool, dtype: torch.dtype) -> None:
    """Forward leaves y and the codes behind, as explain() says, and needs little more meanwhile."""
    x = in_format(fill((4, 32, 56, 56), "normal", dtype), channels_last).to(DEVICE).requires_grad_()
    saved = explain(x, layer).bytes_saved
    assert saved is not None
    layer(x)  # the first call loads the kernels
    torch.cuda.synchronize()
    block = 512  # the allocator's unit
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = layer(x)
    kept = torch.cuda.memory_allocated() - before
    assert abs(kept - y.nbytes - saved) <= 2 * block
    y.backward(torch.zeros_like(y))
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= saved + 2 * y.nbytes + x.nbytes + 4 * block


@pytest.mark.parametrize("where", ["input", "gradient"])
def test_transposed_on_the_device(where: str) -> None:
    layer = LAYERS["max 3"]
    x = torch.randn(2, 6, 14, 14, device=DEVICE)
    view = x.transpose(2, 3)
    if where == "input":
        same(run(layer, view), run(layer, view.contiguous()))
    else:
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        dy = torch.randn_like(y).transpose(2, 3)
        (dx,) = torch.autograd.grad(y, leaf, dy, retain_graph=True)
        same((dx,), torch.autograd.grad(y, leaf, dy.contiguous()))


def test_autocast() -> None:
    x = torch.randn(2, 3, 12, 12, device=DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y = LAYERS["max 3"](x)
    assert y.dtype == torch.bfloat16
    same((y,), (LAYERS["max 3"](x.bfloat16()),))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@FORMATS
def test_compiled_training_step(dynamic: bool, channels_last: bool) -> None:
    torch._dynamo.reset()
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        FusedMaxBlurPool(3, 2, 1, relu=True),
        nn.Conv2d(8, 4, 1),
        FusedBlurPool(),
    ).to(DEVICE)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for size in (16, 21, 26):
        x = in_format(torch.randn(2, 3, size, size), channels_last).to(DEVICE)
        results = []
        for step, parameters in ((compiled, model.parameters()), (plain, plain.parameters())):
            y = step(x)
            results.append((y.detach(), *torch.autograd.grad(y.square().sum(), list(parameters))))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    torch._dynamo.reset()


def test_second_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    x = fill((2, 8, 20, 24), "normal", torch.float32)
    for layer in LAYERS.values():
        got = run(layer, x.to("cuda:1"))
        assert {t.device.index for t in got} == {1}
        assert torch.cuda.current_device() == 0
        same(got, run(layer, x.to("cuda:0")))
    arguments = (*Geometry.resolve().arguments(), False)
    y, codes = compiled.OPERATORS.forward(x.to("cuda:1"), arguments, True)
    with pytest.raises(
        RuntimeError, match="codes must be on the input's device cuda:1, got cuda:0"
    ):
        compiled.OPERATORS.backward(y, codes.to("cuda:0"), tuple(x.shape), arguments)


def test_mixed_devices() -> None:
    arguments = (*Geometry.resolve().arguments(), False)
    x = torch.randn(1, 2, 9, 9, device=DEVICE)
    y, codes = compiled.OPERATORS.forward(x, arguments, True)
    for dy, c in ((y.cpu(), codes), (y, codes.cpu())):
        with pytest.raises(RuntimeError, match="codes must be on the input's device"):
            compiled.OPERATORS.backward(dy, c, (1, 2, 9, 9), arguments)
    with pytest.raises(TypeError, match="codes must be the int32 tensor"):
        compiled.OPERATORS.backward(y, codes.byte(), (1, 2, 9, 9), arguments)
    with pytest.raises(ValueError, match="codes must belong to this geometry"):
        compiled.OPERATORS.backward(y, codes[:, 1:], (1, 2, 9, 9), arguments)
    with pytest.raises(RuntimeError, match=r"backend 'cpu' cannot run: .* on 'cuda'"):
        max_blur_pool2d(x, backend="cpu")


def test_a_launch_that_fails_raises() -> None:
    """Machine code is passed over in the child, where then nothing of ours can start."""
    capability = torch.cuda.get_device_capability()
    ptx = [arch for arch in compiled.CUDA_ARCHS if arch.startswith("compute_")]
    if any(int(arch.partition("_")[2]) <= 10 * capability[0] + capability[1] for arch in ptx):
        pytest.skip("the build has PTX for this device")
    code = (
        "import os; os.environ['CUDA_FORCE_PTX_JIT'] = '1'\n"
        "import torch, fastblur\n"
        "fastblur.FusedMaxBlurPool()(torch.zeros(1, 1, 9, 9).cuda())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "RuntimeError: fastblur was built for" in done.stderr
    assert "TORCH_CUDA_ARCH_LIST={}.{}".format(*capability) in done.stderr


def test_doctor() -> None:
    command = [sys.executable, "-m", "fastblur"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cuda: agrees with the reference" in done.stdout
