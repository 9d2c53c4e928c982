"""ONNX files hold standard operators alone, and onnxruntime computes from them what torch does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from fastblur import (
    FusedBlurPool,
    FusedBlurPool1d,
    FusedBlurPool3d,
    FusedMaxBlurPool,
    FusedMaxBlurPool1d,
    FusedMaxBlurPool3d,
    antialias_,
    fuse_,
)
from fastblur.export import decompositions

from ..conftest import needs_extension

WHY = "exports to ONNX, and {} is not installed"
pytest.importorskip("onnxscript", reason=WHY.format("onnxscript"))
onnxruntime = pytest.importorskip("onnxruntime", reason=WHY.format("onnxruntime"))

Shapes = tuple[dict[int, Any], ...]
BATCH: Shapes = ({0: Dim("n", min=1, max=64)},)


def operators(program: Any) -> list[str]:
    """The operators of an ONNX program, all of the standard domain and none of them our own."""
    assert list(program.model.opset_imports) == [""]
    assert program.model.opset_imports[""] >= 18
    assert not program.model.functions
    assert all(node.domain == "" for node in program.model.graph)
    return [node.op_type for node in program.model.graph]


def run(program: Any, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(y)


def assert_same(program: Any, model: nn.Module, *shapes: tuple[int, ...]) -> None:
    for shape in shapes:
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(run(program, x), model(x), rtol=1e-5, atol=1e-5)


def net(mode: Any = "reflect") -> nn.Module:
    """Borders of every kind: -inf around the max, wide and uneven ones around the blur."""
    layers = (
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        FusedMaxBlurPool(
            3, 2, 1, filter_size=3, relu=True, padding_mode=mode, blur_padding=(2, 0, 1, 3)
        ),
        FusedMaxBlurPool((2, 3), 1, (1, 0), taps=((0.5, 0.2), (0.3, 0.5, 0.4)), padding_mode=mode),
        FusedBlurPool(4, (2, 1), padding_mode=mode, relu=True),
        FusedBlurPool(3, padding_mode=mode),
    )
    return nn.Sequential(*layers).eval()


@pytest.mark.filterwarnings("ignore")  # the exporter is deprecated, and traces
@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros", "circular"])
def test_the_deprecated_exporter(mode: str, tmp_path: Path) -> None:
    model, x, file = net(mode), torch.randn(2, 3, 24, 20), tmp_path / "net.onnx"
    torch.onnx.export(
        model,
        (x,),
        file,
        dynamo=False,
        opset_version=18,
        input_names=["x"],
        dynamic_axes={"x": {0: "n", 2: "h"}},
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for shape in ((2, 3, 24, 20), (5, 3, 31, 20)):
        x = torch.randn(shape)
        (y,) = session.run(None, {"x": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros", "circular"])
def test_as_everybody_exports(mode: str) -> None:
    model = net(mode)
    shapes = ({0: Dim("n", min=1, max=64), 2: Dim("h", min=16, max=99)},)
    program = torch.onnx.export(
        model, (torch.randn(2, 3, 24, 20),), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    assert {"Conv", "Relu", "MaxPool"} <= set(operators(program))
    assert_same(program, model, (2, 3, 24, 20), (1, 3, 24, 20), (5, 3, 31, 20))


def test_one_fused_layer_is_three_nodes() -> None:
    for backend in ("auto", "reference"):
        pool = FusedMaxBlurPool(3, 2, 1, backend=backend).eval()
        program = torch.onnx.export(pool, (torch.randn(1, 4, 9, 9),), dynamo=True, verbose=False)
        assert operators(program) == ["MaxPool", "Pad", "Conv"]
        assert_same(program, pool, (1, 4, 9, 9))


def test_a_border_of_negative_values() -> None:
    """The max's padding never wins, not even over what is all below zero."""
    pool = FusedMaxBlurPool(3, 2, 1, padding_mode="replicate").eval()
    program = torch.onnx.export(pool, (torch.randn(1, 2, 9, 9),), dynamo=True, verbose=False)
    x = -1 - torch.rand(1, 2, 9, 9)
    torch.testing.assert_close(run(program, x), pool(x), rtol=1e-5, atol=1e-5)
    assert run(program, x).max() <= -1


def test_one_dimension() -> None:
    model = nn.Sequential(FusedMaxBlurPool1d(3, 2, 1, relu=True), FusedBlurPool1d()).eval()
    program = torch.onnx.export(
        model, (torch.randn(2, 3, 40),), dynamo=True, dynamic_shapes=BATCH, verbose=False
    )
    operators(program)
    assert_same(program, model, (2, 3, 40), (4, 3, 40))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros", "circular"])
def test_three_dimensions(mode: Any) -> None:
    model = nn.Sequential(
        nn.Conv3d(3, 4, 3),
        FusedMaxBlurPool3d(3, 2, 1, relu=True, padding_mode=mode),
        FusedBlurPool3d(3, (1, 2, 2), padding_mode=mode),
    ).eval()
    program = torch.onnx.export(
        model, (torch.randn(2, 3, 9, 12, 14),), dynamo=True, dynamic_shapes=BATCH, verbose=False
    )
    operators(program)
    assert_same(program, model, (2, 3, 9, 12, 14), (4, 3, 9, 12, 14))


def test_float16() -> None:
    model = net().half()
    x = torch.randn(2, 3, 24, 20).half()
    program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=BATCH, verbose=False)
    operators(program)
    with torch.no_grad():
        y, want = run(program, x), model.float()(x.float())
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), want, rtol=4e-3, atol=4e-3)


def test_a_whole_model(tmp_path: Path) -> None:
    """A file on disk, of a network that antialias_ and fuse_ have changed."""
    models = pytest.importorskip("torchvision.models", reason=WHY.format("torchvision"))
    model = models.resnet18(num_classes=5).eval()
    antialias_(model)
    assert fuse_(model).fused
    file = tmp_path / "resnet18.onnx"
    torch.onnx.export(
        model,
        (torch.randn(2, 3, 64, 64),),
        file,
        dynamo=True,
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for n in (1, 3):
        x = torch.randn(n, 3, 64, 64)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(y, model(x).numpy(), rtol=1e-4, atol=1e-5)


@needs_extension
@pytest.mark.parametrize(("mode", "strict"), [("reflect", False), ("circular", True)])
def test_exported_programs(mode: str, strict: bool) -> None:
    """They hold the fused operator, until it is decomposed."""
    model = net(mode)
    program = torch.export.export(
        model, (torch.randn(2, 3, 24, 20),), dynamic_shapes=BATCH, strict=strict
    )
    assert count(program) == 4
    with pytest.raises(Exception, match=r"fastblur\.max_blur_pool_forward"):
        torch.onnx.export(program, verbose=False)
    plain = program.run_decompositions(decompositions())
    assert count(plain) == 0
    x = torch.randn(3, 3, 24, 20)
    torch.testing.assert_close(plain.module()(x), model(x), rtol=1e-5, atol=1e-5)
    onnx = torch.onnx.export(plain, verbose=False)
    operators(onnx)
    assert_same(onnx, model, (2, 3, 24, 20), (3, 3, 24, 20))


@needs_extension
def test_decomposed_with_all_of_torch() -> None:
    """Beside torch's own table, which takes padding apart."""
    model = net("circular")
    program = torch.export.export(model, (torch.randn(2, 3, 24, 20),), dynamic_shapes=BATCH)
    table = {**torch.export.default_decompositions(), **decompositions()}
    plain = program.run_decompositions(table)  # type: ignore[arg-type]
    assert count(plain) == 0
    x = torch.randn(3, 3, 24, 20)
    torch.testing.assert_close(plain.module()(x), model(x), rtol=1e-5, atol=1e-5)


@needs_extension
def test_layers_are_fused_again_afterwards() -> None:
    pool = FusedMaxBlurPool().eval()
    x = torch.randn(1, 2, 9, 9)
    with warnings.catch_warnings(action="ignore"), pytest.raises(Exception, match="export"):
        torch.onnx.export(nn.Sequential(pool, _Refuses()), (x,), dynamo=True, verbose=False)
    torch.onnx.export(pool, (x,), dynamo=True, verbose=False)
    assert count(torch.export.export(pool, (x,))) == 1


class _Refuses(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not for export")


def count(program: ExportedProgram) -> int:
    return sum("fastblur" in str(node.target) for node in program.graph.nodes)
