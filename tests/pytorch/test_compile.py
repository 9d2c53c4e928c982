"""torch.compile, torch.export, fake and meta tensors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from fastblur import FusedBlurPool, FusedMaxBlurPool
from fastblur.functional import max_blur_pool2d
from testing.cases import in_format

from ..conftest import needs_extension

pytestmark = needs_extension


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        FusedMaxBlurPool(3, 2, 1, filter_size=3, relu=True),
        nn.Conv2d(6, 4, 1),
        FusedBlurPool(),
    )


def assert_same_step(compiled: nn.Module, model: nn.Module, x: torch.Tensor) -> None:
    results = []
    for run in (compiled, model):
        y = run(x)
        grads = torch.autograd.grad(y.square().sum(), list(model.parameters()))
        results.append([y.detach(), *grads])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_training_step(dynamic: bool, channels_last: bool) -> None:
    model = net()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="inductor")
    for size in (16, 21, 26):
        assert_same_step(compiled, model, in_format(torch.randn(2, 3, size, size), channels_last))


def test_dynamic_shapes_compile_once() -> None:
    counter = CompileCounter()
    compiled = torch.compile(net().eval(), fullgraph=True, dynamic=True, backend=counter)
    for n, h, w in ((2, 16, 19), (3, 20, 25), (5, 31, 40)):
        compiled(torch.randn(n, 3, h, w))
    assert counter.frame_count == 1


def test_graph_holds_the_fused_operator_alone() -> None:
    """No pooling, padding or convolution of the unfused chain, and no codes without grad."""
    seen: list[str] = []

    def look(module: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in module.graph.nodes if node.op == "call_function")
        return module

    with torch.no_grad():
        torch.compile(FusedMaxBlurPool(), fullgraph=True, backend=look)(torch.randn(1, 2, 8, 8))
    assert [name for name in seen if "fastblur" in name] == ["fastblur.max_blur_pool_forward"]
    assert not any(word in name for name in seen for word in ("pool2d", "conv", "pad"))


def test_functional_with_unhashable_arguments() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return max_blur_pool2d(x, [3, 2], taps=[[0.5, 0.5], [0.25, 0.5, 0.25]]) * 2

    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(x), f(x))


def test_layer_after_compiled_strides_change() -> None:
    """The layout of the codes is the traced one, whatever a compiler makes of the strides."""

    def f(x: torch.Tensor) -> torch.Tensor:
        return max_blur_pool2d((x * 2).permute(0, 3, 1, 2), 3, 2, 1)

    x = torch.randn(2, 10, 11, 8, requires_grad=True)
    y, z = torch.compile(f, fullgraph=True)(x), f(x)
    torch.testing.assert_close(y, z)
    (a,), (b,) = (torch.autograd.grad(t.pow(2).sum(), x) for t in (y, z))
    torch.testing.assert_close(a, b)


def test_transforms_inside_a_compiled_function() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return max_blur_pool2d(x, relu=True)

    def plain(x: torch.Tensor) -> torch.Tensor:
        return max_blur_pool2d(x, relu=True, backend="reference")

    x, t = torch.randn(2, 3, 9, 9), torch.randn(2, 3, 9, 9)
    small = x[:1, :1]
    uses = {
        "vmap": lambda f: torch.func.vmap(f)(x.unsqueeze(1)),
        "jvp": lambda f: torch.func.jvp(f, (x,), (t,))[1],
        "jacfwd": lambda f: torch.func.jacfwd(f)(small),
    }
    for name, use in uses.items():
        compiled = torch.compile(use, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(f), use(plain), msg=name)
        assert compiled(f).abs().sum() > 0

    # A known limit, which must stay an error and never become a wrong gradient.
    grad = torch.func.grad(lambda x: f(x).square().sum())
    with pytest.raises(Exception, match="autograd"):
        torch.compile(grad, fullgraph=True, backend="aot_eager")(x)


def test_forward_mode_through_a_compiled_layer() -> None:
    layer = FusedMaxBlurPool()
    x, t = torch.randn(2, 3, 9, 9), torch.randn(2, 3, 9, 9)
    compiled = torch.compile(layer, backend="aot_eager")
    compiled(x)
    want = torch.func.jvp(layer, (x,), (t,))[1]
    torch.testing.assert_close(torch.func.jvp(compiled, (x,), (t,))[1], want)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    model = net().eval()
    x = torch.randn(2, 3, 16, 16)
    shapes = ({0: torch.export.Dim("n", min=1, max=64), 2: torch.export.Dim("h", min=8, max=99)},)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes, strict=strict)
    for shape in ((2, 3, 16, 16), (5, 3, 31, 16)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
def test_ahead_of_time_inductor(tmp_path: object) -> None:
    model = net().eval()
    x = torch.randn(2, 3, 16, 16)
    package = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, (x,)), package_path=f"{tmp_path}/net.pt2"
    )
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x), model(x))


def test_autocast_inside_compile() -> None:
    model = FusedMaxBlurPool()
    x = torch.randn(1, 2, 9, 9)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, plain = compiled(x), model(x)
    assert ours.dtype == plain.dtype == torch.bfloat16
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("channels_last", [False, True])
def test_fake_and_meta_tensors(channels_last: bool) -> None:
    layer = FusedMaxBlurPool(3, (2, 1), 1, filter_size=(3, 4))
    real = layer(in_format(torch.randn(2, 5, 9, 12), channels_last))
    meta = layer(in_format(torch.empty(2, 5, 9, 12, device="meta"), channels_last))
    with FakeTensorMode():
        fake = layer(in_format(torch.empty(2, 5, 9, 12), channels_last))
    for tensor in (meta, fake):
        assert tensor.shape == real.shape
        assert tensor.stride() == real.stride()
        assert tensor.dtype == real.dtype
