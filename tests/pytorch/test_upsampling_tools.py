"""What torch does with the upsampling layers: compilers, exporters, traces, threads, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastblur import FusedBlurUpsample, FusedBlurUpsample1d, explain
from fastblur._backends import calls
from fastblur.export import decompositions
from fastblur.flops import fvcore_handles
from fastblur.functional import blur_upsample2d
from testing.cases import (
    UPSAMPLE_MODES,
    in_format,
    targets,
)

from ..conftest import needs_extension

TARGETS = targets()
FUSED = [target for target in TARGETS if target.backend.keeps_codes]
both_layouts = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)
each_mode = pytest.mark.parametrize("mode", UPSAMPLE_MODES)


# ---- torch around it ---------------------------------------------------------------------------


def decoder(mode: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        FusedBlurUpsample(padding_mode=mode),
        nn.Conv2d(6, 4, 3),
        FusedBlurUpsample(3, (2, 1), padding_mode=mode),
        FusedBlurUpsample(2, 3, gain=2.0, padding_mode=mode),
    ).eval()


@needs_extension
@each_mode
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_step(dynamic: bool, mode: Any) -> None:
    torch._dynamo.reset()
    model = decoder(mode)
    by_compiler = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for size in (9, 12):
        x = torch.randn(2, 3, size, size + 1)
        results = []
        for run in (by_compiler, model):
            y = run(x)
            results.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_extension
@each_mode
@pytest.mark.parametrize("strict", [False, True])
def test_exported_and_decomposed(strict: bool, mode: Any) -> None:
    model, x = decoder(mode), torch.randn(2, 3, 12, 13)
    shapes = ({0: torch.export.Dim("n", min=1, max=9), 2: torch.export.Dim("h", min=8, max=99)},)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes, strict=strict)
    decomposed = program.run_decompositions(decompositions())
    held = [
        sum("fastblur" in str(node.target) for node in each.graph.nodes)
        for each in (program, decomposed)
    ]
    assert held == [3, 0]
    for shape in ((2, 3, 12, 13), (5, 3, 17, 13)):
        x = torch.randn(shape)
        for each in (program, decomposed):
            torch.testing.assert_close(each.module()(x), model(x), rtol=1e-5, atol=1e-5)


@needs_extension
@pytest.mark.filterwarnings("ignore")  # the old exporter is deprecated, and traces
@each_mode
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx(dynamo: bool, mode: Any, tmp_path: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs ONNX files")
    pytest.importorskip("onnxscript", reason="exports to ONNX")
    model, x, file = decoder(mode), torch.randn(2, 3, 12, 13), tmp_path / "net.onnx"
    options: dict[str, Any] = dict(dynamic_axes={"x": {0: "n"}}, opset_version=18)
    if dynamo:
        options = dict(dynamic_shapes=({0: "n"},), verbose=False)
    torch.onnx.export(model, (x,), file, dynamo=dynamo, input_names=["x"], **options)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for n in (2, 3):
        x = torch.randn(n, 3, 12, 13)
        (y,) = session.run(None, {"x": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-5, atol=1e-5)


@needs_extension
@pytest.mark.slow
def test_ahead_of_time_inductor(tmp_path: Any) -> None:
    model, x = decoder("replicate"), torch.randn(2, 3, 12, 13)
    package = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, (x,)), package_path=f"{tmp_path}/net.pt2"
    )
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x), model(x))


@needs_extension
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@each_mode
def test_a_trace_serves_other_sizes(mode: Any) -> None:
    model = decoder(mode)
    trace = torch.jit.trace(model, (torch.randn(2, 3, 12, 13),))
    for shape in ((2, 3, 12, 13), (1, 3, 9, 20)):
        x = torch.randn(shape)
        torch.testing.assert_close(trace(x), model(x))
    with pytest.raises(NotImplementedError, match="cannot compile FusedBlurUpsample"):
        torch.jit.script(model)


@needs_extension
def test_autocast_and_meta() -> None:
    layer, x = FusedBlurUpsample(), torch.randn(1, 2, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), layer(x.bfloat16()))
        assert layer(x).dtype == torch.bfloat16
        assert layer(x.double()).dtype == torch.float64
    meta = layer(x.to("meta").to(memory_format=torch.channels_last))
    assert meta.stride() == layer(x.to(memory_format=torch.channels_last)).stride()


@needs_extension
@pytest.mark.parametrize("mode", UPSAMPLE_MODES)
def test_a_symbolic_trace_holds_one_call(mode: Any) -> None:
    layer = FusedBlurUpsample(3, 2, padding_mode=mode)
    traced = torch.fx.symbolic_trace(nn.Sequential(layer, nn.Identity()))
    held = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert held == [blur_upsample2d]
    x = torch.randn(1, 2, 5, 6)
    assert torch.equal(traced(x), layer(x))


@needs_extension
@each_mode
def test_bits_do_not_depend_on_the_threads(mode: Any) -> None:
    x = torch.randn(4, 33, 40, 41)
    dy = torch.randn(4, 33, 80, 82)
    for channels_last in (False, True):
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaf = in_format(x, channels_last).requires_grad_()
            y = FusedBlurUpsample(padding_mode=mode)(leaf)
            found.append([y.detach(), *torch.autograd.grad(y, leaf, dy)])
        for each in found[1:]:
            assert all(map(torch.equal, each, found[0]))


@needs_extension
@both_layouts
def test_the_direct_path_has_the_same_bits(
    channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer's second call goes straight to the kernels, a function's through the operators."""
    layer = FusedBlurUpsample(5, padding_mode="zeros")
    x = in_format(torch.randn(2, 5, 6, 7), channels_last)
    layer(x)
    assert layer._path.direct is not None
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        leaf = x.to(dtype).requires_grad_()
        found = []
        for run in (layer._path.direct, lambda x: blur_upsample2d(x, 5)):
            y = run(leaf)
            assert y is not None
            (dx,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
            found.append([y, dx, *torch.autograd.grad(dx.square().sum(), leaf)])
        assert all(map(torch.equal, *found))
        with torch.no_grad():
            assert torch.equal(layer(leaf), found[0][0])

    def fail(*_: Any) -> Tensor:
        raise AssertionError("backward of a plain call took the long way")

    monkeypatch.setattr(calls.UpsamplingCall, "differentiable_backward", fail)
    leaf = x.clone().requires_grad_()
    layer(leaf).square().sum().backward()
    with torch.inference_mode():
        y = layer(torch.ones(1, 5, 6, 8))
    layer(torch.ones(1, 5, 6, 8, requires_grad=True)).sum().backward()
    assert not y.requires_grad


# ---- for people --------------------------------------------------------------------------------


def test_layers_copy_pickle_and_print() -> None:
    layer = FusedBlurUpsample(taps=[1, 2, 1], stride=(2, 1), gain=2, padding_mode="replicate")
    text = "FusedBlurUpsample(taps=(1, 2, 1), stride=(2, 1), gain=2, padding_mode='replicate')"
    assert repr(layer) == text
    assert repr(FusedBlurUpsample1d()) == "FusedBlurUpsample1d(filter_size=4, stride=2)"
    x = torch.randn(1, 2, 4, 4)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    assert not list(layer.state_dict())
    assert layer.stride == (2, 1)
    assert layer.padding_mode == "replicate"
    assert layer.taps == ((2.0, 4.0, 2.0), (1.0, 2.0, 1.0))


@needs_extension
@each_mode
def test_explain(mode: Any) -> None:
    x = torch.zeros(2, 4, 8, 8)
    found = explain(x, FusedBlurUpsample(padding_mode=mode))
    assert found.backend == "cpu"
    assert found.output_size == (2, 4, 16, 16)
    assert found.bytes_forward == found.bytes_backward == 4 * 5 * x.numel()
    assert found.bytes_saved == 0
    assert "backward of " in found.specialisation
    assert explain(x[0, 0], FusedBlurUpsample1d()).output_size == (8, 16)
    reference = explain(x, FusedBlurUpsample(backend="reference")).specialisation
    assert reference == "pad, conv_transpose2d"


@needs_extension
def test_flops() -> None:
    """As the transposed convolution that it replaces."""
    counts = []
    for backend in ("cpu", "reference"):
        x = torch.randn(2, 4, 5, 6, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            FusedBlurUpsample(backend=backend)(x).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    graph: Any = torch.jit.trace(FusedBlurUpsample(), torch.randn(2, 4, 5, 6)).inlined_graph
    handles = fvcore_handles()
    (node,) = (node for node in graph.nodes() if node.kind() in handles)
    count = handles[node.kind()](list(node.inputs()), list(node.outputs()))
    assert count == 2 * 4 * 5 * 6 * 16
