"""A program: imports, forward, backward and the doctor, where opening a socket is an error.

    python tests/package/offline.py [compiled|pure]

With an argument, also that the extension is there, or is not. Needs nothing but fastblur and torch,
so that an installed package can be tried with it from anywhere.
"""

from __future__ import annotations

import sys
from typing import Any


def refuse_sockets(event: str, _arguments: tuple[Any, ...]) -> None:
    if event.startswith("socket."):
        raise PermissionError(f"{event} where nothing may touch the network")


def main(expected: str | None) -> int:
    sys.addaudithook(refuse_sockets)
    import torch
    from torch.nn import functional as F

    import fastblur
    from fastblur import __main__ as doctor
    from fastblur._backends import compiled

    if expected is not None and (compiled.C is not None) != (expected == "compiled"):
        print(f"expected the {expected} package, but: {compiled.WHY_NOT or 'compiled'}")
        return 1
    x = torch.randn(2, 5, 17, 23, requires_grad=True)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    filter = torch.outer(taps, taps).expand(5, 1, 4, 4)
    most = F.pad(F.max_pool2d(x, 3, 1, 1), (1, 2, 1, 2), mode="reflect")
    want = F.conv2d(most, filter, stride=2, groups=5)
    got = fastblur.FusedMaxBlurPool(3, 2, 1)(x)
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(want)
    for mine, plain in zip(
        torch.autograd.grad((got * weight).sum(), x),
        torch.autograd.grad((want * weight).sum(), x),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    fastblur.antialias_(net)
    fastblur.fuse_(net)
    net(torch.randn(1, 3, 16, 16)).sum().backward()
    return doctor.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
