"""How a layer of fastblur.integrations is held to the layer that it stands for."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from testing.cases import fill, in_format
from testing.judge import EPS, ROUNDINGS

SHAPE = (2, 6, 17, 22)


def close(ours: Tensor, theirs: Tensor, eps: float) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    largest = theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDINGS * eps * largest)


def with_gradients(layer: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of all parameters."""
    x = x.detach().requires_grad_()
    parameters = list(layer.parameters()) if isinstance(layer, nn.Module) else []
    y = layer(x)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad(y, [x, *parameters], dy)]


def same_numbers(
    ours: Callable[[Tensor], Tensor],
    theirs: Callable[[Tensor], Tensor],
    shape: tuple[int, ...] = SHAPE,
) -> None:
    """Outputs and gradients are equal, with ties and without, in both layouts and dtypes."""
    for dtype, eps in EPS.items():
        for layer in (ours, theirs):
            if isinstance(layer, nn.Module):
                layer.to(dtype)
        for kind in ("normal", "ties"):
            x = fill(shape, kind, dtype)
            want = with_gradients(theirs, x)
            for channels_last in (False, True) if x.dim() == 4 else (False,):
                got = with_gradients(ours, in_format(x, channels_last))
                for a, b in zip(got, want, strict=True):
                    close(a, b, eps)


def same_state(ours: nn.Module, theirs: nn.Module) -> None:
    """Names, order and values of the state, strictly loaded both ways, and of the buffers."""
    for mine, other in ((ours, theirs), (theirs, ours)):
        assert list(mine.state_dict()) == list(other.state_dict())
        mine.load_state_dict(other.state_dict(), strict=True)
    mine, other = dict(ours.named_buffers()), dict(theirs.named_buffers())
    assert mine.keys() == other.keys()
    for name, buffer in mine.items():
        assert buffer.dtype == other[name].dtype
        assert torch.equal(buffer, other[name])


def same_attributes(ours: nn.Module, theirs: nn.Module) -> None:
    """What the original's ``__init__`` sets is there, with the same values."""
    private = vars(nn.Module())
    for name, value in vars(theirs).items():
        if name not in private:
            assert getattr(ours, name) == value, name
            assert type(getattr(ours, name)) is type(value), name
    assert ours._modules.keys() == theirs._modules.keys()


def outcome(call: Callable[[], Any]) -> Any:
    """The result of a call, or the kind of error that it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except Exception as error:
            # torch raises either for a tensor, by which of its operations meets it first
            kind = type(error)
            return RuntimeError if issubclass(kind, NotImplementedError) else kind


def same_outcome(
    ours: Callable[..., Any], theirs: Callable[..., Any], *args: Any, **kw: Any
) -> Any:
    """Both raise the same kind of error, or return maps of the same size; returns ours."""
    want, got = outcome(lambda: theirs(*args, **kw)), outcome(lambda: ours(*args, **kw))
    if isinstance(want, type) or isinstance(got, type):
        assert got is want
    elif isinstance(want, Tensor):
        assert got.shape == want.shape
    return got


def inputs(shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    """Inputs, most of which no layer takes."""
    n, c, *size = shape
    one = [1] * (len(size) - 1)
    return {
        "a batch": torch.randn(shape),
        "an empty batch": torch.randn(0, *shape[1:]),
        "no batch": torch.randn(shape[1:]),
        "no channels": torch.randn(n, 0, *size),
        "another channel": torch.randn(n, c + 1, *size),
        "no batch, another channel": torch.randn(c + 1, *size),
        "one row": torch.randn(n, c, *one, size[-1]) if one else torch.randn(n, c, 1),
        "no rows": torch.randn(n, c, 0, *size[1:]),
        "a vector": torch.randn(9),
        "a dimension more": torch.randn(*shape, 3),
        "integers": torch.ones(shape, dtype=torch.int64),
        "bools": torch.ones(shape, dtype=torch.bool),
        "complex": torch.randn(shape, dtype=torch.complex64),
        "sparse": torch.randn(shape).to_sparse(),
    }


def works_everywhere(make: Callable[[], nn.Module], theirs: nn.Module, x: Tensor) -> None:
    """Copied, pickled, under autocast, traced and compiled, the layer is still that layer."""
    ours = make()
    want = theirs(x)
    for one in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), saved(ours)):
        assert type(one) is type(ours)
        assert repr(one) == repr(ours)
        torch.testing.assert_close(one(x), want)
    torch.testing.assert_close(torch.jit.trace(ours, x)(x), want)
    torch.testing.assert_close(torch.compile(make(), fullgraph=True, backend="aot_eager")(x), want)
    torch.testing.assert_close(torch.fx.symbolic_trace(nn.Sequential(make()))(x), want)
    torch.testing.assert_close(torch.func.vmap(ours)(torch.stack([x, x]))[1], want)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == theirs(x).dtype == torch.bfloat16
        torch.testing.assert_close(ours(x), theirs(x), rtol=2e-2, atol=2e-2)
    last = ours(x.to(memory_format=torch.channels_last)) if x.dim() == 4 else None
    assert last is None or last.is_contiguous(memory_format=torch.channels_last)


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def imports(module: str, *packages: str) -> None:
    """Importing the module imports none of the packages."""
    code = f"import sys, {module}\nprint([p for p in {packages!r} if p in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
