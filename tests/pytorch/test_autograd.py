"""Derivatives of every kind, on both paths (see fastblur/_dispatch/autograd.py)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.library import opcheck

from fastblur import MaxBlurPoolFunction
from fastblur._geometry import Geometry
from fastblur.functional import max_blur_pool2d

from ..conftest import needs_extension

pytestmark = needs_extension

GEOMETRIES = {
    "max": dict(kernel_size=3, padding=1, filter_size=3),
    "relu": dict(kernel_size=2, relu=True, stride=(1, 3)),
    "relu alone": dict(kernel_size=1, filter_size=3, relu=True),
    "blur": dict(kernel_size=1, filter_size=(5, 2), padding_mode="circular"),
    "skew": dict(kernel_size=(1, 4), taps=((0.7, -0.2), (0.1, 0, 2)), padding_mode="zeros"),
}


@pytest.fixture(params=GEOMETRIES)
def arguments(request: pytest.FixtureRequest) -> dict[str, object]:
    return GEOMETRIES[request.param]


@pytest.fixture
def fused(arguments: dict[str, object]) -> Callable[[Tensor], Tensor]:
    return lambda x: max_blur_pool2d(x, **arguments, backend="cpu")  # type: ignore[arg-type]


@pytest.fixture
def plain(arguments: dict[str, object]) -> Callable[[Tensor], Tensor]:
    return lambda x: max_blur_pool2d(x, **arguments, backend="reference")  # type: ignore[arg-type]


def x(*lead: int, seed: int = 0) -> Tensor:
    """Distinct values, none near another or near zero: finite differences must not cross a tie."""
    shape = (*lead, 2, 7, 8)
    n = torch.Size(shape).numel()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return ((order - n // 2).double() + 0.5).view(shape) / 16


@pytest.mark.parametrize("path", ["operators", "functions"])
def test_gradcheck(path: str, arguments: dict[str, object]) -> None:
    geometry = Geometry.resolve(**arguments).arguments()  # type: ignore[arg-type]
    if path == "operators":

        def f(x: Tensor) -> Tensor:
            return torch.ops.fastblur.max_blur_pool_forward(x, *geometry, False, True)[0]
    else:

        def f(x: Tensor) -> Tensor:
            return MaxBlurPoolFunction.apply(x, *geometry, False)[0]

    leaf = x(2).requires_grad_()
    assert gradcheck(f, leaf, check_forward_ad=True)
    assert gradgradcheck(f, leaf)


def test_function_with_too_few_arguments() -> None:
    with pytest.raises(TypeError, match=r"takes x and kernel_size, .*, channels_last, .* 1 more"):
        MaxBlurPoolFunction.apply(x(2), 3)


def test_gradcheck_of_the_functional(fused: Callable[[Tensor], Tensor]) -> None:
    leaf = x(2).requires_grad_()
    assert gradcheck(fused, leaf, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(fused, leaf, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("recorded", [False, True], ids=["alone", "with reverse mode"])
def test_forward_mode_of_the_operators(
    recorded: bool, arguments: dict[str, object], plain: Callable[[Tensor], Tensor]
) -> None:
    """A tangent is never dropped, whichever operator it meets."""
    g = (*Geometry.resolve(**arguments).arguments(), False)  # type: ignore[arg-type]
    ops = torch.ops.fastblur
    primal, tangent = x(2).requires_grad_(recorded), x(2, seed=1)
    y, codes = ops.max_blur_pool_forward(primal.detach(), *g, True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(primal, tangent)
        want = forward_ad.unpack_dual(plain(dual)).tangent
        for name, out in {
            "forward": ops.max_blur_pool_forward(dual, *g, True)[0],
            "apply": ops.max_blur_pool_apply(dual, codes, *g),
        }.items():
            got = forward_ad.unpack_dual(out).tangent
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, msg=name)
        dual = forward_ad.make_dual(y.requires_grad_(recorded), 2 * y.detach())
        out = ops.max_blur_pool_backward(dual, codes, list(primal.shape), *g)
        dx, dx_tangent = forward_ad.unpack_dual(out)
        torch.testing.assert_close(dx_tangent, 2 * dx)


def test_double_backward_is_not_silently_zero(
    fused: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]
) -> None:
    results = []
    for f in (fused, plain):
        leaf = x(2).requires_grad_()
        (dx,) = torch.autograd.grad(f(leaf).pow(3).sum(), leaf, create_graph=True)
        (ddx,) = torch.autograd.grad(dx.pow(2).sum(), leaf)
        results.append(ddx)
    assert results[0].abs().max() > 0
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_transforms(fused: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]) -> None:
    def loss(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: f(x).pow(3).sum()

    at = x(2)  # vmap lets no random call pass, so made before
    uses = {
        "jvp": lambda f: jvp(f, (x(2),), (x(2).flip(-1),)),
        "vjp": lambda f: vjp(f, x(2))[1](torch.ones_like(f(x(2))))[0],
        "grad": lambda f: grad(loss(f))(x(2)),
        "vmap": lambda f: vmap(f)(x(3, 2)),
        "vmap elsewhere": lambda f: vmap(f, in_dims=2, out_dims=1)(x(3, 2)),
        "vmap unbatched": lambda f: vmap(f)(x(3)),
        "vmap vmap": lambda f: vmap(vmap(f))(x(2, 3, 2)),
        "vmap grad": lambda f: vmap(grad(loss(f)))(x(3, 2)),
        "grad vmap": lambda f: grad(lambda x: loss(vmap(f))(x))(x(3, 2)),
        "jacrev": lambda f: jacrev(f)(x(1)),
        "jacfwd": lambda f: jacfwd(f)(x(1)),
        "hessian": lambda f: hessian(loss(f))(x(1)),
        "jvp of grad": lambda f: jvp(grad(loss(f)), (x(2),), (x(2).flip(-1),)),
        "vmap of jvp": lambda f: vmap(lambda t: jvp(f, (at,), (t,))[1])(x(3, 2)),
    }
    for name, use in uses.items():
        torch.testing.assert_close(
            use(fused), use(plain), rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_forward_mode(fused: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]) -> None:
    primal, tangent = x(2), x(2).flip(-2)
    results = []
    for f in (fused, plain):
        with forward_ad.dual_level():
            out = forward_ad.unpack_dual(f(forward_ad.make_dual(primal, tangent)))
            assert out.tangent is not None
            results += [out]
    torch.testing.assert_close(results[0].primal, results[1].primal)
    torch.testing.assert_close(results[0].tangent, results[1].tangent)


def test_functionalize_and_empty_vmap(
    fused: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]
) -> None:
    torch.testing.assert_close(functionalize(fused)(x(2)), plain(x(2)))
    assert vmap(fused)(x(0, 2)).shape == (0, *fused(x(2)).shape)


def test_grad_keeps_channels_last(fused: Callable[[Tensor], Tensor]) -> None:
    map_ = x(2).contiguous(memory_format=torch.channels_last)
    assert grad(lambda x: fused(x).sum())(map_).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(arguments: dict[str, object], channels_last: bool) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    g = Geometry.resolve(**arguments)  # type: ignore[arg-type]
    rest = (*g.arguments(), channels_last)
    leaf = x(2).contiguous(memory_format=memory_format).requires_grad_()
    ops = torch.ops.fastblur
    y, codes = ops.max_blur_pool_forward(leaf, *rest, True)
    y = y.detach().requires_grad_()
    opcheck(ops.max_blur_pool_forward.default, (leaf, *rest, True))
    opcheck(ops.max_blur_pool_forward.default, (leaf.detach(), *rest, False))
    opcheck(ops.max_blur_pool_backward.default, (y, codes, list(leaf.shape), *rest))
    opcheck(ops.max_blur_pool_apply.default, (leaf, codes, *rest))


def test_apply_is_the_forward_map(fused: Callable[[Tensor], Tensor]) -> None:
    """With the winners of x given, apply of x is forward of x, and it is linear."""
    g = (*Geometry.resolve(3, 2, 1, relu=True).arguments(), False)
    ops = torch.ops.fastblur
    a, b = x(2), x(2, seed=1)
    y, codes = ops.max_blur_pool_forward(a, *g, True)
    torch.testing.assert_close(ops.max_blur_pool_apply(a, codes, *g), y, rtol=1e-12, atol=1e-12)
    both = ops.max_blur_pool_apply(a + 2 * b, codes, *g)
    torch.testing.assert_close(
        both,
        y + 2 * ops.max_blur_pool_apply(b, codes, *g),
        rtol=1e-12,
        atol=1e-12,
    )


def test_transforms_of_the_operators_themselves() -> None:
    """Those that compiled code needs; of the others an error, and never a wrong gradient."""
    arguments = (*Geometry.resolve(relu=True).arguments(), False, True)

    def fused(x: Tensor) -> Tensor:
        return torch.ops.fastblur.max_blur_pool_forward(x, *arguments)[0]

    def plain(x: Tensor) -> Tensor:
        return max_blur_pool2d(x, relu=True, backend="reference")

    at = x(2)
    uses = {
        "vmap": lambda f: vmap(f, in_dims=1)(x(2, 3)),
        "jvp": lambda f: jvp(f, (at,), (at.flip(-1),))[1],
        "jacfwd twice": lambda f: jacfwd(jacfwd(lambda x: f(x).pow(3).sum()))(x(1)),
        "vmap of jvp": lambda f: vmap(lambda t: jvp(f, (at,), (t,))[1])(x(3, 2)),
    }
    for name, use in uses.items():
        torch.testing.assert_close(use(fused), use(plain), rtol=1e-9, atol=1e-9, msg=name)
    for use in (
        lambda: grad(lambda x: fused(x).sum())(at),
        lambda: vjp(fused, at),
        lambda: hessian(lambda x: fused(x).pow(2).sum())(x(1)),
    ):
        with pytest.raises(RuntimeError, match=r"cannot differentiate fastblur's operators"):
            use()


def test_input_that_requires_grad_needs_codes() -> None:
    g = (*Geometry.resolve().arguments(), False)
    with pytest.raises(ValueError, match="need_codes"):
        torch.ops.fastblur.max_blur_pool_forward(x(1).requires_grad_(), *g, False)
