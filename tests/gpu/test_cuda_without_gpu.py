"""What of the CUDA backend shows without a GPU: registration, fake tensors, exported graphs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._dynamo.testing import EagerAndRecordGraphs
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fastblur import FusedBlurPool, FusedMaxBlurPool, explain
from fastblur._backends import compiled
from fastblur._geometry import DTYPES
from testing.cases import CASES, Case, in_format

pytestmark = pytest.mark.skipif(
    not compiled.CUDA_ARCHS, reason="asks the CUDA backend, which is not built"
)


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    torch._dynamo.reset()
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        yield mode
    torch._dynamo.reset()


def net() -> nn.Module:
    return nn.Sequential(FusedMaxBlurPool(3, 2, 1, filter_size=3, relu=True), FusedBlurPool())


@pytest.mark.parametrize("name", ["forward", "backward", "apply"])
def test_operator_has_a_kernel(name: str) -> None:
    name = f"fastblur::max_blur_pool_{name}"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_fake_tensors(case: Case, channels_last: bool) -> None:
    """Those that a fake call on CUDA gives are like those of the real call on the CPU."""
    geometry = case.geometry()
    arguments = (*geometry.arguments(), channels_last)
    x = in_format(torch.zeros(case.shape), channels_last)
    y, codes = compiled.OPERATORS.forward(x, arguments, True)
    real = [
        y,
        compiled.OPERATORS.backward(y, codes, case.shape, arguments),
        compiled.OPERATORS.apply(x, codes, arguments),
    ]
    for dtype in DTYPES:
        with FakeTensorMode():
            x = in_format(torch.zeros(case.shape, dtype=dtype, device="cuda"), channels_last)
            y, codes = compiled.OPERATORS.forward(x, arguments, True)
            dx, again = (
                compiled.OPERATORS.backward(y, codes, case.shape, arguments),
                compiled.OPERATORS.apply(x, codes, arguments),
            )
        for ours, theirs in zip((y, dx, again), real, strict=True):
            assert ours.device.type == "cuda"
            assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), dtype)
        assert codes.dtype == torch.int32
        assert codes.device.type == "cuda"
        call = compiled.CUDA.call(geometry.arguments(), case.shape, channels_last, x)
        assert tuple(codes.shape) == call.codes_shape


def test_codes_on_another_device(fake: FakeTensorMode) -> None:
    arguments = (*FusedMaxBlurPool().geometry.arguments(), False)
    x = torch.zeros(1, 2, 9, 9, device="cuda")
    y, codes = compiled.OPERATORS.forward(x, arguments, True)
    with pytest.raises(RuntimeError, match="codes must be on the input's device cuda:0, got cpu"):
        compiled.OPERATORS.backward(
            y, torch.zeros(codes.shape, dtype=torch.int32), (1, 2, 9, 9), arguments
        )


def test_no_codes_without_grad(fake: FakeTensorMode) -> None:
    arguments = (*FusedMaxBlurPool().geometry.arguments(), False)
    _, codes = compiled.OPERATORS.forward(torch.zeros(2, 3, 9, 9, device="cuda"), arguments, False)
    assert codes.shape == (2, 0)


def test_shape_of_the_codes_asks_nothing_of_unknown_sizes(fake: FakeTensorMode) -> None:
    """A graph for any size must not be bound to the sizes that one of the kernels is for."""
    assert fake.shape_env is not None
    h, w = (fake.shape_env.create_unbacked_symint() for _ in range(2))
    for geometry in (layer.geometry for layer in net()):  # type: ignore[union-attr]
        before = len(fake.shape_env.guards)
        (n, words), _ = compiled.CUDA.codes(geometry, (2, 3, h, w), False, torch.zeros(1))
        assert n == 2
        assert isinstance(words, torch.SymInt)
        assert len(fake.shape_env.guards) == before


def test_auto_takes_it(fake: FakeTensorMode) -> None:
    x = torch.zeros(2, 8, 28, 28, device="cuda")
    layer = FusedMaxBlurPool(3, 2, 1, filter_size=3)
    assert layer(x).device.type == "cuda"
    found = explain(x, layer)
    assert found.backend == "cuda"
    assert "max 3x3, 3x3 taps (" in found.specialisation
    assert "on 'cuda'" in found.refused["cpu"]
    _, codes = compiled.OPERATORS.forward(x, (*layer.geometry.arguments(), False), True)
    assert found.bytes_saved == codes.nbytes
    with pytest.raises(RuntimeError, match=r"backend 'cpu' cannot run: .* on 'cuda'"):
        FusedMaxBlurPool(backend="cpu")(x)


def test_compiled_graph(fake: FakeTensorMode) -> None:
    recorder = EagerAndRecordGraphs()
    compiled = torch.compile(net(), fullgraph=True, backend=recorder)
    y = compiled(torch.empty(2, 5, 21, 30, device="cuda"))
    assert y.shape == (2, 5, 6, 8)
    assert y.device.type == "cuda"
    (graph,) = recorder.graphs
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert [name for name in called if "getitem" not in name] == [
        "fastblur.max_blur_pool_forward"
    ] * 2


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    n, h, w = torch.export.Dim("n"), torch.export.Dim("h", min=8), torch.export.Dim("w", min=8)
    with FakeTensorMode(shape_env=ShapeEnv()):
        x = torch.empty(2, 5, 21, 30, device="cuda")
    program = torch.export.export(net(), (x,), dynamic_shapes=({0: n, 2: h, 3: w},), strict=strict)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called.count("fastblur.max_blur_pool_forward.default") == 2
    (result,) = program.graph.find_nodes(op="output")[0].args[0]
    assert result.meta["val"].device.type == "cuda"
