"""What explain() and the doctor say is what happens."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import fastblur
from fastblur import FusedBlurPool, FusedMaxBlurPool, FusedMaxBlurPool1d, explain
from fastblur._backends import compiled
from fastblur._dispatch.operators import is_channels_last
from fastblur._geometry import FIELDS, Geometry
from fastblur.surgery import BlurredConv2d, FilteredPool
from testing.cases import CASES, Case, fill, in_format

from ..conftest import needs_extension
from ..pytorch.test_memory import saved_bytes


@needs_extension
def test_explains_the_cpu_call() -> None:
    x = torch.randn(2, 16, 56, 56, requires_grad=True)
    layer = FusedMaxBlurPool(3, 2, 1, filter_size=3)
    found = explain(x, layer)
    y = layer(x)
    assert found == explain(x, kernel_size=3, padding=1, filter_size=3)
    assert found.backend == "cpu"
    assert found.output_size == tuple(y.shape)
    assert found.bytes_saved == saved_bytes(layer, x)
    assert found.bytes_forward == 4 * (x.numel() + y.numel()) + found.bytes_saved
    assert found.refused.keys() == {"cuda", "triton", "reference"}
    assert found.refused["reference"] == "slower"
    assert "CUDA" in found.refused["cuda"]
    assert "max 3x3, 3x3 taps (" in found.specialisation
    assert compiled.C is not None
    assert compiled.C.cpu.target() in found.specialisation
    assert str(found).count("\n") == 6


@needs_extension
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(kernel_size=1, filter_size=5), "no max, 5x5 taps ("),
        (dict(kernel_size=(2, 3)), "(staged; generic max)"),
        (dict(filter_size=7, stride=3), "(staged; generic rows, columns)"),
    ],
)
def test_names_the_kernels(arguments: dict[str, object], words: str) -> None:
    assert words in explain(torch.zeros(1, 2, 20, 20), **arguments).specialisation


@needs_extension
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", [case for case in CASES if case.shape[0]], ids=str)
def test_the_word_is_what_runs(case: Case, channels_last: bool) -> None:
    """Kernels return whether they ran in one pass; explain() says so before."""
    assert compiled.C is not None
    geometry = case.geometry()
    for target in compiled.C.cpu.targets():
        compiled.C.cpu.set_target(target)
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x = in_format(fill(case.shape, "normal", dtype), channels_last)
            call = compiled.CPU.call(geometry.arguments(), case.shape, is_channels_last(x), x)
            y = in_format(x.new_empty(call.output_size), channels_last)
            codes = torch.empty(call.codes_shape, dtype=call.codes_dtype)
            addresses = x.data_ptr(), y.data_ptr(), codes.data_ptr()
            forward = call.native.forward(*addresses, 1)
            backward = call.native.backward(y.data_ptr(), codes.data_ptr(), x.data_ptr(), 1)
            forward, backward = (
                "fused" if one_pass else "staged" for one_pass in (forward, backward)
            )
            both = forward if forward == backward else f"forward {forward}, backward {backward}"
            found = explain(x, **_arguments(geometry), backend="cpu").specialisation
            assert found.partition("(")[2].partition(";")[0].rstrip(")") == both


def test_fused_is_what_trainers_use() -> None:
    if compiled.C is None or compiled.C.cpu.targets() == ["generic"]:
        pytest.skip("the portable target has no fused kernels")
    for layer in (FusedMaxBlurPool(2), FusedMaxBlurPool(3, 2, 1, filter_size=3)):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = torch.zeros(2, 64, 56, 56).contiguous(memory_format=memory_format)
            assert explain(x, layer).specialisation.endswith("(fused)")


def _arguments(geometry: Geometry) -> dict[str, object]:
    values = dict(zip(FIELDS, geometry.arguments(), strict=True))
    return values | {"taps": (values.pop("taps_h"), values.pop("taps_w"))}


def test_explains_the_reference() -> None:
    found = explain(torch.zeros(2, 16, 56, 56), backend="reference")
    assert found.backend == "reference"
    assert found.bytes_saved is None
    assert "cpu" in found.refused
    assert "unfused" in str(found)


@needs_extension
def test_explains_other_shapes_and_types() -> None:
    x = torch.randn(3, 30, requires_grad=True)
    layer = FusedMaxBlurPool1d()
    assert explain(x, layer).bytes_saved == saved_bytes(layer, x)
    assert explain(x, layer).output_size == tuple(layer(x).shape)
    with pytest.raises(ValueError, match=r"got shape \(1, 1, 1, 9\)"):
        explain(torch.zeros(1, 1, 1, 9), layer)
    with pytest.raises(TypeError, match="got NoneType"):
        explain(None, layer)  # type: ignore[arg-type]
    half = explain(torch.zeros(4, 9, 9, dtype=torch.half), FusedBlurPool())
    assert half.bytes_forward == 2 * (4 * 9 * 9 + 4 * 5 * 5)
    assert half.bytes_saved == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert explain(torch.zeros(4, 9, 9), FusedBlurPool()).bytes_forward == half.bytes_forward


def test_explains_layers_that_fuse_made() -> None:
    """Of one axis too; a convolution with a blur is more than what is explained."""
    row, plane = torch.ones(3, 1, 2), torch.ones(3, 1, 2, 2)
    one = FilteredPool(Geometry.resolve((1, 2), (1, 2), taps=([1.0], [1.0, 1.0])), row)
    for x in (torch.randn(3, 30), torch.randn(2, 3, 30)):
        assert explain(x, one).output_size == tuple(one(x).shape)
    two = FilteredPool(Geometry.resolve(taps=[1.0, 1.0]), plane)
    x = torch.randn(2, 3, 9, 8)
    assert explain(x, two).output_size == tuple(two(x).shape)
    both = BlurredConv2d(two.geometry, plane, torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(TypeError, match=r"layer must be a 1-D or 2-D layer .*, got BlurredConv2d"):
        explain(x, both)


def test_explain_refuses() -> None:
    x = torch.zeros(1, 2, 9, 9)
    with pytest.raises(
        TypeError,
        match="layer must be a 1-D or 2-D layer of fastblur that pools or upsamples, got MaxPool2d",
    ):
        explain(x, torch.nn.MaxPool2d(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not both"):
        explain(x, FusedBlurPool(), stride=2)
    with pytest.raises(ValueError, match="larger than the input"):
        explain(torch.zeros(1, 2, 1, 1))


def doctor(*code: str) -> subprocess.CompletedProcess[str]:
    command = (
        [sys.executable, "-c", "\n".join(code)] if code else [sys.executable, "-m", "fastblur"]
    )
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@needs_extension
def test_doctor() -> None:
    done = doctor()
    assert done.returncode == 0, done.stderr
    for word in (
        fastblur.__version__,
        torch.__version__,
        "CPU target",
        "usable: ",
        "CUDA ",
        "GPU ",
    ):
        assert word in done.stdout
    assert "cpu: agrees with the reference" in done.stdout
    assert "triton: not usable: " in done.stdout or "triton: agrees with" in done.stdout


@needs_extension
def test_doctor_reports_a_wrong_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTBLUR_CPU_TARGET", "mmx")
    done = doctor()
    assert done.returncode == 1
    assert "FASTBLUR_CPU_TARGET" in done.stdout
    assert not done.stderr


@needs_extension
def test_doctor_finds_a_wrong_kernel() -> None:
    done = doctor(
        "import sys, torch, fastblur.__main__ as doctor",
        "from fastblur import _backends",
        "cpu = _backends.choose('cpu', torch.device('cpu'))",
        "run = cpu.run",
        "cpu.run = lambda x, g: run(x, g) * 1.001",
        "_backends.BACKENDS = (cpu,)",
        "sys.exit(doctor.main())",
    )
    assert done.returncode == 1, done.stderr
    assert "WRONG: output of 'max 2, 4 taps'" in done.stdout


def test_without_the_extension() -> None:
    """As installed without a C++ compiler: it works, on the reference, and says why."""
    done = doctor(
        "import importlib.util as util, sys",
        "find = util.find_spec",
        "util.find_spec = lambda name, *a: None if name == 'fastblur._C' else find(name, *a)",
        "import torch, fastblur, fastblur.__main__ as doctor",
        "x = torch.randn(2, 3, 9, 9, requires_grad=True)",
        "fastblur.FusedMaxBlurPool(3, 2, 1)(x).sum().backward()",
        "assert x.grad.abs().sum() > 0",
        "print(fastblur.explain(x))",
        "try: fastblur.FusedMaxBlurPool(backend='cpu')(x)",
        "except RuntimeError as error: print('raised', error)",
        "try: fastblur.MaxBlurPoolFunction.apply(x)",
        "except RuntimeError as error: print('raised', error)",
        "sys.exit(doctor.main())",
    )
    assert done.returncode == 0, done.stderr
    assert "backend         reference" in done.stdout
    assert "raised backend 'cpu' cannot run: the compiled extension is not installed" in done.stdout
    assert "extension  none: the compiled extension is not installed: fastblur was " in done.stdout
