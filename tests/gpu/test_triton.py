"""The Triton backend, without a GPU: what it computes, in the interpreter; where it is chosen."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._library.triton import set_wrap_triton_enabled
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.library import opcheck

from fastblur import FusedBlurPool, FusedMaxBlurPool, _backends, explain, export
from fastblur._backends import compiled
from fastblur._backends.triton import TRITON, codes_of
from fastblur._geometry import DTYPES, Geometry
from fastblur.functional import max_blur_pool2d
from testing.cases import CASES, Case, in_format

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    bool(os.environ.get("TRITON_INTERPRET")), reason="TRITON_INTERPRET is set for this process"
)
ROOT = Path(__file__).parents[2]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.mark.slow
def test_values_and_derivatives_in_the_interpreter() -> None:
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/triton/interpreted.py",
                  TRITON_INTERPRET="1")  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    torch._dynamo.reset()
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        yield mode
    torch._dynamo.reset()


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_fake_tensors(case: Case, channels_last: bool) -> None:

    arguments = (*case.geometry().arguments(), channels_last)
    n, c, h, w = case.shape
    for dtype in DTYPES:
        with FakeTensorMode():
            x = in_format(torch.zeros(case.shape, dtype=dtype, device="cuda"), channels_last)
            y, codes = TRITON.operators.forward(x, arguments, True)
            dx = TRITON.operators.backward(y, codes, case.shape, arguments)
            again = TRITON.operators.apply(x, codes, arguments)
            like_y = in_format(torch.empty(n, c, *case.geometry().output_size(h, w)), channels_last)
        for ours, like in ((y, like_y), (dx, x), (again, like_y)):
            assert (ours.shape, ours.dtype) == (like.shape, dtype)
            assert ours.stride() == like.stride()
            assert ours.device.type == "cuda"
        shape, code_type = codes_of(case.geometry(), case.shape, channels_last)
        assert (codes.shape, codes.dtype) == (shape, code_type)


@pytest.mark.parametrize("size", [14, 15, 28, 56, 57, 112])
@pytest.mark.parametrize(("pool", "pad", "share"), [(2, 0, 16), (3, 0, 8), (3, 1, 8)])
def test_saved_for_backward(pool: int, pad: int, share: int, size: int) -> None:
    """1/16 of a float32 x for pool 2 and 1/8 for pool 3, plus whole words of four columns."""
    for channels_last in (False, True):
        shape, dtype = codes_of(Geometry.resolve(pool, 2, pad), (2, 16, size, size), channels_last)
        whole_words = -(-size // 4) * 4 / size
        x_bytes = 4 * 2 * 16 * size * size
        assert torch.Size(shape).numel() * dtype.itemsize <= x_bytes / share * whole_words


def test_codes_are_no_other_backend_s() -> None:

    arguments = (*Geometry.resolve().arguments(), False)
    with FakeTensorMode():
        x = torch.zeros(2, 3, 9, 9, device="cuda")
        for theirs in (
            torch.zeros(2, 30, dtype=torch.uint8, device="cuda"),
            torch.zeros(2, 8, dtype=torch.int32, device="cuda"),
        ):
            with pytest.raises(TypeError, match="codes must be the int8 tensor"):
                TRITON.operators.apply(x, theirs, arguments)
        _, codes = TRITON.operators.forward(x, arguments, True)
    assert codes.dim() == 4  # theirs have two


def test_begins_with_a_whole_word() -> None:
    """Pairs of 16-bit channels are loaded as 32-bit words, which have to be aligned."""
    from fastblur._backends.triton import launch

    for mode in (contextlib.nullcontext(), FakeTensorMode()):
        with mode:
            line = torch.zeros(17, dtype=torch.float16)
            even, odd = line[:16].view(1, 4, 2, 2), line[1:].view(1, 4, 2, 2)
            assert launch._in_whole_words(even) is even
            copy = launch._in_whole_words(odd)
            assert copy.storage_offset() == 0
            assert copy.stride() == odd.stride()


@pytest.mark.parametrize("name", ["forward", "backward", "apply"])
def test_opcheck(name: str) -> None:
    """Schema, registration and fake kernels, on the CPU as far as nothing is launched: batch 0."""
    family = TRITON.operators  # which loads them
    for relu in (False, True):
        for channels_last in (False, True):
            arguments = (*Geometry.resolve(3, 2, 1, relu=relu).arguments(), channels_last)
            x = in_format(torch.zeros(0, 3, 9, 12), channels_last).requires_grad_()
            y, codes = family.forward(x, arguments, True)
            y = y.detach().requires_grad_()
            call = {
                "forward": (x, *arguments, True),
                "backward": (y, codes, list(x.shape), *arguments),
                "apply": (x, codes, *arguments),
            }[name]
            opcheck(
                family.named(name).default,
                call,
                test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
            )


# ---- choice ------------------------------------------------------------------------------------


def test_auto_prefers_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, xpu, cpu = map(torch.device, ("cuda", "xpu", "cpu"))
    names = [backend.name for backend in _backends.BACKENDS]
    assert names == ["cuda", "triton", "cpu", "reference"]
    assert _backends.choose("auto", cpu).name == ("cpu" if compiled.C is not None else "reference")
    assert _backends.choose("auto", xpu).name == "triton"
    assert _backends.choose("triton", cuda).name == "triton"
    if compiled.CUDA_ARCHS:
        assert _backends.choose("auto", cuda).name == "cuda"
    monkeypatch.setattr(compiled, "CUDA_ARCHS", ())
    assert _backends.choose("auto", cuda).name == "triton"
    monkeypatch.setattr(compiled, "C", None)
    monkeypatch.setattr(compiled, "WHY_NOT", "it is not installed")
    assert _backends.choose("auto", cuda).name == "triton"
    with pytest.raises(RuntimeError, match=r"'triton' cannot run: it runs on GPUs only .* 'cpu'"):
        FusedMaxBlurPool(backend="triton")(torch.zeros(1, 1, 9, 9))


def test_is_imported_when_used() -> None:
    done = python(
        "-c",
        "import sys, torch, fastblur\n"
        "assert 'triton' not in sys.modules\n"
        "fastblur.FusedMaxBlurPool()(torch.zeros(1, 2, 9, 9))\n"
        "assert 'triton' not in sys.modules\n",
    )
    assert done.returncode == 0, done.stderr


def test_without_triton() -> None:
    done = python(
        "-c",
        "import importlib.util as util, torch\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'triton' else find(name, *a)\n"
        "import fastblur\n"
        "from fastblur import _backends\n"
        "print(_backends.choose('auto', torch.device('xpu')).name)\n"
        "try: fastblur.FusedMaxBlurPool(backend='triton')(torch.zeros(1, 2, 9, 9))\n"
        "except RuntimeError as error: print(error)\n",
    )
    assert done.returncode == 0, done.stderr
    assert "reference" in done.stdout
    assert "cannot run: triton is not installed (pip install triton" in done.stdout


def test_explain(fake: FakeTensorMode) -> None:

    x = torch.zeros(2, 8, 28, 28, device="cuda")
    layer = FusedMaxBlurPool(3, 2, 1, filter_size=3, backend="triton")
    found = explain(x, layer)
    assert found.backend == "triton"
    assert found.specialisation == "max 3x3, 3x3 taps (contiguous)"
    assert "on 'cuda'" in found.refused["cpu"]
    _, codes = TRITON.operators.forward(x, (*layer.geometry.arguments(), False), True)
    assert found.bytes_saved == codes.nbytes
    assert explain(x, FusedBlurPool(backend="triton")).bytes_saved == 0
    assert "generic" in explain(x, stride=3, backend="triton").specialisation
    odd = explain(x[..., :27], kernel_size=2, backend="triton").specialisation
    assert "rows not of whole strips" in odd


# ---- the compiler ------------------------------------------------------------------------------


def targets(graph: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_graph(fake: FakeTensorMode, dynamic: bool) -> None:
    """torch.compile sees the kernel itself, without anything of the unfused chain."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    net = nn.Sequential(FusedMaxBlurPool(3, 2, 1, filter_size=3, backend="triton"), nn.ReLU())
    compiled = torch.compile(
        net, fullgraph=True, dynamic=dynamic, backend=aot_autograd(fw_compiler=keep)
    )
    with torch.no_grad():
        y = compiled(torch.empty(2, 5, 21, 32, device="cuda"))
    assert y.shape == (2, 5, 11, 16)
    called = [name for graph in graphs for name in targets(graph)]
    assert called.count("triton_kernel_wrapper_functional") == 1
    assert not any(word in name for name in called for word in ("pool2d", "conv", "fastblur"))


Graphs = tuple[list[torch.fx.GraphModule], Callable[..., object]]


@pytest.fixture
def graphs_of(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """The graphs that a compiler has been given, and that compiler; on a machine without a GPU."""
    import triton

    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    driver = mock.Mock(**{"get_current_target.return_value": target})
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    return graphs, keep


def test_compiled_graph_of_pairs(
    fake: FakeTensorMode, graphs_of: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that compares 16-bit channels in pairs, also where x begins within a word."""
    from fastblur._backends.triton import launch

    graphs, keep = graphs_of
    monkeypatch.setattr(launch, "_gpu", lambda device: launch.Gpu(90, 32))
    line = torch.empty(2 * 20 * 12 * 4 + 1, dtype=torch.float16, device="cuda")
    for start in (0, 1):
        x = line[start : line.numel() - 1 + start].view(2, 20, 12, 4).permute(0, 3, 1, 2)
        torch._dynamo.reset()
        compiled = torch.compile(
            FusedMaxBlurPool(backend="triton"),
            fullgraph=True,
            backend=aot_autograd(fw_compiler=keep),
        )
        with torch.no_grad():
            compiled(x)
        graph = graphs[-1]
        names = targets(graph)
        assert len([name for name in names if "triton_kernel_wrapper" in name]) == 1
        assert len([name for name in names if "clone" in name]) == start
        (kernel,) = (n for n in graph.graph.nodes if "triton_kernel_wrapper" in str(n.target))
        assert kernel.kwargs["kwargs"]["PACKED"] is True
        assert kernel.kwargs["kwargs"]["PTX"] is True
        # Not x: the compiler sees through the words and the assembly, and copies no input.
        assert {"y"} <= set(kernel.kwargs["tensors_to_clone"]) <= {"y", "codes"}


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_compiled_operators_copy_no_input(
    fake: FakeTensorMode, channels_last: bool, graphs_of: Graphs
) -> None:
    """From its kernels' code torch.compile sees what each writes; what it thinks so, it copies."""
    graphs, keep = graphs_of
    arguments = (*Geometry.resolve(3, 2, 1, filter_size=3).arguments(), channels_last)

    def training(x: torch.Tensor) -> torch.Tensor:  # no graph of autograd's: that takes a device
        y, codes = torch.ops.fastblur.triton_max_blur_pool_forward(x, *arguments, True)
        return torch.ops.fastblur.triton_max_blur_pool_backward(y, codes, x.shape, *arguments)

    _backends.choose("triton", torch.device("cuda"))
    x = in_format(torch.empty(2, 8, 21, 32, device="cuda"), channels_last)
    torch.compile(training, fullgraph=True, backend=aot_autograd(fw_compiler=keep))(x)
    kernels = [
        node.kwargs
        for graph in graphs
        for node in graph.graph.nodes
        if "triton_kernel_wrapper" in str(node.target)
    ]
    written = [set(kernel["tensors_to_clone"]) for kernel in kernels]
    assert written == [{"y", "codes"}, {"dx"}]
    assert [k["kwargs"]["CHANNELS_LAST"] for k in kernels] == [channels_last] * 2


@pytest.mark.parametrize("hip", [None, "7.0"], ids=["nvidia", "amd"])
def test_more_registers_where_some_spill(hip: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the first call, of the kernel that spills alone; AMD counts what is no spill."""
    from fastblur._backends.triton.registers import Launcher

    monkeypatch.setattr(torch.version, "hip", hip)
    made: list[dict[str, object]] = []

    class Kernel:
        def __getitem__(self, grid: object) -> Callable[..., object]:
            def launch(*arguments: object, **options: object) -> object:
                made.append(options)
                return mock.Mock(n_spills=2 if options["TAPS"] == (1.0, 3.0) else 0)

            return launch

    with set_wrap_triton_enabled(False):  # as in a call that nothing traces
        launch = Launcher(Kernel())[(1,)]
    x = mock.Mock(device=torch.device("cuda:0"), dtype=torch.float32)
    small, large = (1.0, 2.0), (1.0, 3.0)
    for taps in (small, large) * 2:
        launch(x, 1, TAPS=taps)
    first = [{"TAPS": small}, {"TAPS": large}]
    more = {"TAPS": large, "maxnreg": 255}
    assert made == (first * 2 if hip else [*first, more, {"TAPS": small}, more])


def test_exported_program_taken_apart() -> None:
    with FakeTensorMode(shape_env=ShapeEnv()):
        x = torch.empty(2, 4, 20, 20, device="cuda")
    program = torch.export.export(FusedMaxBlurPool(backend="triton"), (x,))
    assert "triton_max_blur_pool_forward" in str(program.graph)
    program = program.run_decompositions(export.decompositions())
    assert "fastblur" not in str(program.graph)
    assert "conv2d" in str(program.graph)


def test_traced_backward(fake: FakeTensorMode) -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        y, codes = torch.ops.fastblur.triton_max_blur_pool_forward(x, *arguments, True)
        return torch.ops.fastblur.triton_max_blur_pool_backward(y, codes, x.shape, *arguments)

    arguments = (*Geometry.resolve().arguments(), False)
    _backends.choose("triton", torch.device("cuda"))
    graph = make_fx(torch.func.functionalize(step), tracing_mode="fake")(
        torch.empty(2, 3, 12, 16, device="cuda")
    )
    assert len([name for name in targets(graph) if "triton" in name]) == 2


def test_layers_take_the_name() -> None:
    layer = FusedMaxBlurPool(backend="triton")
    assert "backend='triton'" in repr(layer)
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run"):
        max_blur_pool2d(torch.zeros(1, 1, 9, 9), backend="triton")
