"""Two small plain networks, and the ways to anti-alias them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fastblur import FusedBlurPool, antialias_, fuse_

PLAIN, SHOWN, FIRST = "max", "blur 4", "blur first 3"
BLURS = {f"blur {size}": size for size in (2, 3, 4, 5)}
POOLINGS = (PLAIN, *BLURS, FIRST)
FEATURES = "average"  # the layer that feeds the classifier


class Block(nn.Module):
    """A ResNet's basic block: two convolutions, and a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1, self.relu1 = nn.BatchNorm2d(c_out), nn.ReLU()
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(c_out), nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride > 1:
            conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """[N, c_in, H, W] to [N, c_out, H / stride, W / stride]."""
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


def convolution(c_in: int, c_out: int) -> list[nn.Module]:
    """A convolution with its norm and activation."""
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(c_out), nn.ReLU()]


def with_head(*body: nn.Module) -> nn.Sequential:
    """Adds global average pooling and a linear layer to a body that returns 64 channels."""
    return nn.Sequential(
        OrderedDict(
            body=nn.Sequential(*body),
            average=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(64, 10),
        )
    )


def cnn() -> nn.Sequential:
    """Three times a convolution and a max pooling of stride 2."""
    stages = ((1, 16), (16, 32), (32, 64))
    return with_head(*(m for stage in stages for m in (*convolution(*stage), nn.MaxPool2d(2))))


def resnet() -> nn.Sequential:
    """A stem with one max pooling, then three blocks, the last two with strided convolutions."""
    blocks = Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)
    return with_head(*convolution(1, 16), nn.MaxPool2d(2), *blocks)


NETWORKS = {"ResNet": resnet, "CNN": cnn}


def build(network: str, pooling: str, seed: int) -> nn.Sequential:
    """The network with one pooling, in channels_last.

    Pooling has no parameters, so one seed gives the same weights with every pooling.
    """
    torch.manual_seed(seed)
    net = NETWORKS[network]()
    if pooling in BLURS:
        antialias_(net, filter_size=BLURS[pooling])
        fuse_(net)
    elif pooling == FIRST:
        blur_first_(net)
    return net.to(memory_format=torch.channels_last)


def blur_first_(net: nn.Module) -> None:
    """Puts a blur of three taps and stride 1 in front of all that subsamples, which stays.

    `antialias_` does so for convolutions. A max pooling it would follow with a blur, whatever the
    order of the others, so the blur in front of it is put there here.
    """
    antialias_(net, filter_size=3, blur_first=True, sites={"conv"})
    for path, module in list(net.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            net.set_submodule(path, nn.Sequential(FusedBlurPool(3, 1), module))
