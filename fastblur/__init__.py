"""Anti-aliased max pooling for PyTorch as one fused operation (Zhang, ICML 2019).

>>> import torch
>>> from fastblur import FusedMaxBlurPool
>>> pool = FusedMaxBlurPool(kernel_size=3, stride=2, padding=1)  # replaces nn.MaxPool2d(3, 2, 1)
>>> pool(torch.zeros(8, 64, 112, 112)).shape
torch.Size([8, 64, 56, 56])
"""

from importlib.metadata import PackageNotFoundError, version

from . import export, flops, functional, metrics
from ._backends.compiled import MaxBlurPoolFunction
from ._explain import Explanation, explain
from .modules import (
    FusedBlurPool,
    FusedBlurPool1d,
    FusedBlurUpsample,
    FusedBlurUpsample1d,
    FusedMaxBlurPool,
    FusedMaxBlurPool1d,
)
from .modules3d import FusedBlurPool3d, FusedMaxBlurPool3d
from .surgery import (
    AntialiasReport,
    AntialiasRow,
    FuseReport,
    FuseRow,
    UnantialiasReport,
    UnfuseReport,
    antialias_,
    fuse_,
    unantialias_,
    unfuse_,
)

try:
    __version__ = version("fastblur")
except PackageNotFoundError:  # a clone that is not installed
    __version__ = "0+unknown"

__all__ = [
    "AntialiasReport",
    "AntialiasRow",
    "Explanation",
    "FuseReport",
    "FuseRow",
    "FusedBlurPool",
    "FusedBlurPool1d",
    "FusedBlurPool3d",
    "FusedBlurUpsample",
    "FusedBlurUpsample1d",
    "FusedMaxBlurPool",
    "FusedMaxBlurPool1d",
    "FusedMaxBlurPool3d",
    "MaxBlurPoolFunction",
    "UnantialiasReport",
    "UnfuseReport",
    "__version__",
    "antialias_",
    "explain",
    "export",
    "flops",
    "functional",
    "fuse_",
    "metrics",
    "unantialias_",
    "unfuse_",
]
