"""fastblur.integrations.ffcv is ffcv-imagenet's layer; the original is a script's own class."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fastblur
from fastblur.integrations.ffcv import BlurPoolConv2d
from testing import lookalikes

from . import comparing
from .comparing import SHAPE, same_outcome

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")

BOTH = (BlurPoolConv2d, lookalikes.BlurPoolConv2d)


def conv(**arguments: object) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(SHAPE[1], 4, 3, **(dict(stride=2, padding=1) | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [dict(), dict(groups=2, bias=False), dict(dilation=2)])
def test_layer(arguments: dict[str, object]) -> None:
    layers = [kind(conv(**arguments)) for kind in BOTH]
    comparing.same_numbers(*layers)
    comparing.same_state(*layers)


def test_layer_everywhere() -> None:
    make: Callable[[], nn.Module] = lambda: BlurPoolConv2d(conv())  # noqa: E731
    comparing.works_everywhere(make, lookalikes.BlurPoolConv2d(conv()), torch.randn(SHAPE))


@pytest.mark.parametrize("what", comparing.inputs())
def test_inputs_that_are_refused(what: str) -> None:
    same_outcome(*(kind(conv()) for kind in BOTH), comparing.inputs()[what])


def apply_blurpool(module: nn.Module, kind: type[nn.Module]) -> None:
    """As that script does: every strided convolution of 16 channels or more."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and max(child.stride) > 1 and child.in_channels >= 16:
            setattr(module, name, kind(child))
        else:
            apply_blurpool(child, kind)


def test_a_network_of_the_script() -> None:
    """torchvision's ResNet, which the script trains, in channels_last."""
    models = pytest.importorskip("torchvision.models", reason="takes torchvision's resnet18")
    nets = []
    for kind in BOTH:
        torch.manual_seed(0)
        net = models.resnet18().double().eval()
        apply_blurpool(net, kind)
        nets.append(net.double().to(memory_format=torch.channels_last))
    comparing.same_state(*nets)
    assert sum(isinstance(module, BlurPoolConv2d) for module in nets[0].modules()) == 6
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64).to(memory_format=torch.channels_last)
    got, want = (comparing.with_gradients(net, x) for net in nets)
    torch.testing.assert_close(got, want)
    # The ReLUs in front are read by two layers each, so nothing joins and nothing is replaced.
    assert [row.path for row in fastblur.fuse_(nets[0]).changed] == []
    torch.testing.assert_close(comparing.with_gradients(nets[0], x), want)
