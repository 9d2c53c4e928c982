"""What a network keeps for backward: anti-aliased and fused, hardly more than before.

These sizes are a property of the shapes, so small maps show them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastblur import antialias_, fuse_
from testing.measure import saved_bytes, storages

detection = pytest.importorskip("torchvision.models.detection")
WITHOUT = {"weights": None, "weights_backbone": None}


class Stem(nn.Module):
    """A ResNet's stem, called in consecutive lines."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 7, 2, 3)
        self.bn1, self.relu = nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.maxpool(x)
        return self.conv2(x)


class Masked(Stem):
    """An argument may be missing."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.maxpool(x)
        if mask is not None:
            x = x * mask
        return self.conv2(x)


class Sized(Stem):
    """Which calls follow depends on the shape of the input."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 64:
            x = x[..., ::2, ::2]
        return super().forward(x)


class Looped(nn.ModuleDict):
    """Calls its children in a loop and returns some results."""

    def __init__(self) -> None:
        super().__init__(dict(Stem().named_children()))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for name, module in self.items():
            x = module(x)
            if name in ("maxpool", "conv2"):
                found.append(x)
        return found


def backbone(name: str) -> nn.Module:
    made: nn.Module = getattr(detection, name)(**WITHOUT).backbone
    return made


def frozen_resnet() -> nn.Module:
    """With the norms of pretrained detectors."""
    made: nn.Module = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5
    )
    return made


MODELS: dict[str, Callable[[], nn.Module]] = {
    "Faster R-CNN": lambda: backbone("fasterrcnn_resnet50_fpn"),
    "RetinaNet": lambda: backbone("retinanet_resnet50_fpn"),
    "frozen norms": frozen_resnet,
    "stem": Stem,
    "optional argument": Masked,
    "branch by shape": Sized,
    "loop": Looped,
}


def kept(net: nn.Module) -> int:
    x = torch.randn(2, 3, 64, 64)
    return saved_bytes(lambda: net(x), storages(net) | {x.untyped_storage().data_ptr()})


@pytest.mark.parametrize("name", MODELS)
def test_bytes_kept_for_backward(name: str) -> None:
    net = MODELS[name]()
    plain = kept(net)
    assert antialias_(net).changed
    apart = kept(net)
    assert fuse_(net).fused
    fused = kept(net)
    assert fused <= apart
    assert fused <= 1.03 * plain


def test_in_place_relu_of_a_block() -> None:
    """Of a MobileNet: its blocks are Sequentials, and their ReLUs become Sequentials too."""
    conv = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    net = nn.Sequential(nn.Conv2d(3, 8, 1), conv, nn.Conv2d(8, 8, 1))
    antialias_(net)
    apart, copied = kept(net), copy.deepcopy(net)
    (row,) = fuse_(net).rows
    assert row.joined == ("1.2.0",)
    assert kept(net) < 0.8 * apart
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(net(x), copied(x))
