"""fuse_ and unfuse_ with an example: what they change must compute the same, or nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastblur import fuse_, unfuse_
from fastblur.surgery import FilteredPool
from fastblur.surgery.recognition import recognise
from testing import lookalikes
from testing.judge import binomial


class Sensitive(nn.Module):
    """Its result, or only its gradient, depends on the class of its blur; no trace shows it."""

    def __init__(self, how: str, when: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1)
        self.blur, self.how, self.when = lookalikes.BlurPool2d(4), how, when

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        y = self.drop(self.blur(self.norm(self.conv(x))))
        if x.sum() < 1e9 and isinstance(self.blur, FilteredPool) is self.when:
            if self.how == "fails":
                raise ValueError("a blur that it does not know")
            y = {
                "same": lambda: y,
                "number": lambda: y * 1.1,
                "shape": lambda: y[..., 1:],
                "gradient": lambda: 2 * y - y.detach(),
                "not finite": lambda: y / 0,
            }[self.how]()
        return y, "y"


def seen(model: nn.Module) -> tuple[Any, ...]:
    modules = list(model.named_modules())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return modules, [type(m) for _, m in modules], [m.training for _, m in modules], state


def assert_same(a: tuple[Any, ...], b: tuple[Any, ...]) -> None:
    assert a[:3] == b[:3]
    assert list(a[3]) == list(b[3])
    assert all(torch.equal(a[3][key], b[3][key]) for key in a[3])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("change", "when"), [(fuse_, True), (unfuse_, False)])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("number", "the output is off by"),
        ("shape", "the shape of an output is"),
        ("gradient", "the gradient of the input is off by"),
        ("not finite", "an output is not finite"),
        ("fails", "model fails on example, so the change was undone: .*does not know"),
    ],
)
def test_all_is_put_back(
    change: Callable[..., Any], when: bool, how: str, message: str, training: bool
) -> None:
    model = Sensitive(how, when).train(training)
    x = torch.randn(2, 3, 16, 16)
    if change is unfuse_:
        fuse_(model)
    before, random = seen(model), torch.get_rng_state()
    with pytest.raises(RuntimeError, match=message):
        change(model, example=x)
    assert_same(seen(model), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_the_same_stays(training: bool, dtype: torch.dtype) -> None:
    model = Sensitive("same", True).to(dtype).train(training)
    mean = model.norm.running_mean.clone()
    with torch.inference_mode():
        x = torch.randn(2, 3, 16, 16, dtype=dtype)
    assert fuse_(model, example=(x,)).fused
    assert isinstance(model.blur, FilteredPool)
    assert torch.equal(model.norm.running_mean, mean)
    assert int(model.norm.num_batches_tracked) == 0
    assert unfuse_(model, example=x).restored == ("blur",)
    assert model.training is training


def test_wrong_examples() -> None:
    model = Sensitive("same", True)
    for change in (fuse_, unfuse_):
        with pytest.raises(TypeError, match=r"example must be a tensor or a tuple .* got dict"):
            change(model, example={})  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="channels"):  # the model's own, before any change
        fuse_(model, example=torch.randn(2, 4, 16, 16))
    assert not isinstance(model.blur, FilteredPool)


def test_two_channels_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of many channels is not computed on all of them, to be checked."""
    real, channels = recognise._with_gradient, []

    def noted(net: nn.Module, x: Tensor) -> Any:
        channels.append(x.shape[1])
        return real(net, x)

    monkeypatch.setattr(recognise, "_with_gradient", noted)
    model = nn.Sequential(
        lookalikes.BlurPool2d(512),
        lookalikes.BlurConv2d(512, 64),
        lookalikes.BlurConv2d(64, 512, blur_first=False),
        lookalikes.BlurPoolConv2d(nn.Conv2d(512, 32, 3, 2, 1, groups=32)),
    )
    assert len(fuse_(model).fused) == 4
    assert set(channels) == {2}


def test_all_channels_where_two_do_not_go() -> None:
    kind = type("BlurConv2d", (nn.Module,), dict(vars(lookalikes.BlurConv2d)))

    def init(self: Any) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(lookalikes.BlurConv2d(6, 4)))

    def forward(self: Any, x: Tensor) -> Tensor:
        assert x.shape[1] == 6
        return lookalikes.BlurConv2d.forward(self, x)

    kind.__init__, kind.forward = init, forward  # type: ignore[misc, assignment, method-assign]
    assert fuse_(nn.Sequential(kind())).fused


def adobe(name: str, **arguments: Any) -> nn.Module:
    """BlurPool as antialiased_cnns has it, under another name."""
    f, stride, channels = arguments["filt_size"], arguments["stride"], arguments["channels"]
    before = (f - 1) // 2
    taps = torch.tensor(binomial(f))

    def init(self: Any) -> None:
        nn.Module.__init__(self)
        self.filt_size, self.pad_off, self.stride, self.channels = f, 0, stride, channels
        self.pad = arguments["pad"]([before, f - 1 - before] * 2)
        self.register_buffer("filt", torch.outer(taps, taps).repeat(channels, 1, 1, 1))

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.conv2d(self.pad(x), self.filt, stride=self.stride, groups=x.shape[1])

    made: nn.Module = type(name, (nn.Module,), {"__init__": init, "forward": forward})()
    return made


@pytest.mark.parametrize("filt_size", [2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pad", [nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d])
def test_first_name_of_blur_pool(filt_size: int, stride: int, pad: type[nn.Module]) -> None:
    layer = adobe("Downsample", filt_size=filt_size, stride=stride, channels=5, pad=pad)
    model, x = nn.Sequential(layer), torch.randn(2, 5, 17, 14)
    want = model(x)
    assert fuse_(model).fused
    torch.testing.assert_close(model(x), want)


def test_subclasses_with_other_arguments() -> None:
    class Ours(lookalikes.BlurPool2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels, stride=3)

    class Twice(Ours):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model, x = nn.Sequential(Ours(4), Twice(4)), torch.randn(1, 4, 27, 27)
    want = model(x)
    report = fuse_(model)
    assert [row.path for row in report.fused] == ["0"]
    assert "it is a subclass" in report.left[0].note
    torch.testing.assert_close(model(x), want)
    unfuse_(model)
    assert type(model[0]) is Ours
