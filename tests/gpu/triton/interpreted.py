"""What the Triton kernels compute, in Triton's interpreter: run by test_triton.py.

Needs a process of its own, with TRITON_INTERPRET=1. The interpreter takes as long for one lane as
for thousands, so all kinds of values are channels of one input here.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from fastblur._backends.specialised import is_specialised
from fastblur._backends.triton import TRITON, codes_of, launch
from fastblur._geometry import Geometry
from testing.cases import CASES, UPSAMPLES, Case, UpsampleCase, fill, in_format, zhang
from testing.judge import answer, judge_with_gradient, upsampling_answer
from testing.volumes import CASES_3D, Case3d, answer3d, in_format_3d, run3d

assert launch.INTERPRETED
OPERATORS = TRITON.operators
warnings.filterwarnings("ignore", message="invalid value encountered")  # numpy's, of NaN and inf

KINDS = ("normal", "ties", "nan", "inf")
# The sweeping kernels at every number of columns in the last strip, whole strips, and rows enough
# for steps of both kinds.
SWEPT = [
    *(zhang(2, 4, shape=(1, 1, 13, w)) for w in (5, 6, 7, 8, 16)),
    *(zhang(2, 2, shape=(1, 1, 13, w)) for w in (6, 8)),
    *(zhang(2, f, shape=(1, 1, 14, 12), relu=f == 5) for f in (3, 5)),
    zhang(3, 3, pad=(1, 1), shape=(1, 1, 12, 12)),
    zhang(3, 4, pad=(1, 1), shape=(1, 1, 12, 12), mode="replicate"),
    *(zhang(3, f, shape=(1, 1, 13, 16), relu=f == 2) for f in (2, 5)),
    zhang(3, 5, pad=(1, 1), shape=(1, 1, 13, 15)),
    zhang(3, 4, pad=(1, 1), shape=(1, 1, 11, 11)),
    zhang(1, 4, shape=(1, 1, 11, 12), relu=True),
    zhang(1, 5, shape=(1, 1, 11, 12), mode="zeros"),
]  # fmt: skip


def of_all_kinds(case: Case, dtype: torch.dtype) -> Tensor:
    _, c, h, w = case.shape
    return torch.cat([fill((1, min(c, 2), h, w), kind, dtype) for kind in KINDS], 1)


def gradient_for(case: Case, x: Tensor) -> Tensor:
    size = (*x.shape[:2], *case.geometry().output_size(*x.shape[2:]))
    return fill(size, "normal", x.dtype, seed=1)


def run(case: Case, x: Tensor, dy: Tensor, channels_last: bool) -> list[Tensor]:
    leaf = in_format(x, channels_last).clone().requires_grad_()
    y = TRITON.run(leaf, case.geometry())
    (dx,) = torch.autograd.grad(y, leaf, dy)
    for t, like in ((y, y), (dx, x)):
        assert (
            t.is_contiguous(
                memory_format=torch.channels_last if channels_last else torch.contiguous_format
            )
            or like.shape[1] == 1
        )
    return [y.detach(), dx]


@pytest.mark.parametrize(
    "case", [case for case in [*CASES, *SWEPT] if 0 not in case.shape], ids=str
)
def test_case(case: Case) -> None:
    """Values and gradients; the layouts in turn, and both where they differ most."""
    x = of_all_kinds(case, torch.float32)
    dy = gradient_for(case, x)
    want = answer(x, dy, *case.chain())
    sweeps = is_specialised(case.geometry(), case.shape, torch.float32)
    layouts = (False, True) if case in SWEPT or not sweeps else (len(str(case)) % 2 == 0,)
    for channels_last in layouts:
        want.check(f"channels_last={channels_last}", *run(case, x, dy, channels_last))


@pytest.mark.parametrize("case", [case for case in UPSAMPLES if 0 not in case.shape], ids=str)
def test_upsampling_case(case: UpsampleCase) -> None:
    """Values and gradients, the layouts in turn."""
    x = fill(case.shape, "normal", torch.float32)
    dy = fill(case.output_shape, "normal", torch.float32, seed=1)
    leaf = in_format(x, len(str(case)) % 2 == 0).clone().requires_grad_()
    y = TRITON.upsample(leaf, case.upsampling())
    (dx,) = torch.autograd.grad(y, leaf, dy)
    upsampling_answer(x, dy, *case.chain()).check(str(case), y, dx)


@pytest.mark.parametrize("case", [case for case in CASES_3D if 0 not in case.shape], ids=str)
def test_case_3d(case: Case3d) -> None:
    """The layouts in turn; the kinds of values in the channels."""
    _, c, *size = case.shape
    x = torch.cat([fill((1, min(c, 2), *size), kind, torch.float32) for kind in KINDS], 1)
    dy = fill((*x.shape[:2], *case.volume().output_size(*size)), "normal", torch.float32, seed=1)
    channels_last = len(str(case)) % 2 == 0
    got = run3d(TRITON.run, case, in_format_3d(x, channels_last), dy)
    answer3d(x, dy, case).check(f"channels_last={channels_last}", *got)


@pytest.mark.parametrize("channels_last", [False, True])
def test_apply_and_forward_without_codes(channels_last: bool) -> None:
    for case in (zhang(2, 4, shape=(2, 3, 9, 12)), zhang(3, 3, pad=(1, 1), shape=(1, 3, 9, 11))):
        arguments = (*case.geometry().arguments(), channels_last)
        x = in_format(fill(case.shape, "ties", torch.float32), channels_last)
        y, codes = OPERATORS.forward(x, arguments, True)
        alone, none = OPERATORS.forward(x, arguments, False)
        assert none.numel() == 0
        assert torch.equal(alone, y)
        torch.testing.assert_close(OPERATORS.apply(x, codes, arguments), y, rtol=0, atol=1e-6)
        shape, dtype = codes_of(case.geometry(), case.shape, channels_last)
        assert (codes.shape, codes.dtype) == (shape, dtype)


def test_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in chunks give the same bits as whole columns."""
    for case in (zhang(2, 4, shape=(1, 2, 26, 8)), zhang(3, 3, pad=(1, 1), shape=(1, 2, 26, 8))):
        x = of_all_kinds(case, torch.float32)
        dy = gradient_for(case, x)
        monkeypatch.setattr(launch, "_PROGRAMS", 1)
        whole = run(case, x, dy, False)
        monkeypatch.setattr(launch, "_PROGRAMS", 1024)
        monkeypatch.setattr(launch, "_MIN_CHUNK", 3)
        for ours, theirs in zip(run(case, x, dy, False), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits(dtype: torch.dtype) -> None:
    """No worse than the unfused chain in the same dtype, against a float64 oracle.

    But the interpreter cuts float32 off where a GPU rounds it to bfloat16, which may cost half a
    unit in the last place; that the compiled kernels round is in test_triton_budgets.py.
    """
    cut_off = torch.finfo(dtype).eps / 2 if dtype == torch.bfloat16 else 0.0
    for case in (SWEPT[3], SWEPT[9], Case(stride=(1, 3), shape=(1, 2, 9, 10))):
        for channels_last in (False, True):
            x = fill(case.shape, "normal", dtype)
            dy = gradient_for(case, x)
            exact = judge_with_gradient(x.double(), dy.double(), *case.chain())
            plain = judge_with_gradient(x, dy, *case.chain())
            ours = run(case, x, dy, channels_last)
            for truth, theirs, mine in zip(exact, plain, ours, strict=True):
                their_error = (theirs.double() - truth).abs().max().item()
                allowed = their_error * 1.001 + 1e-6 + cut_off * truth.abs().max().item()
                assert (mine.double() - truth).abs().max().item() <= allowed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_route_exactly(dtype: torch.dtype) -> None:
    case = zhang(2, 2, shape=(1, 2, 9, 8))
    x = of_all_kinds(case, dtype)[:, 2:]  # small integers, of which no normal values are
    dy = gradient_for(case, x).round()
    want = judge_with_gradient(x.double(), dy.double(), *case.chain())
    for ours, theirs in zip(run(case, x, dy, False), want, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_channels_in_pairs(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two 16-bit channels in a word, as on NVIDIA's GPUs, give the same bits as one by one.

    But for the instructions themselves, which test_triton_compare.py has.
    """
    found: dict[bool, list[Tensor]] = {}
    for packed in (False, True):
        monkeypatch.setattr(launch, "_is_packed", lambda call, packed=packed: packed)
        found[packed] = []
        for case in (SWEPT[n] for n in (0, 8, 9, 11, 15)):
            x = in_format(of_all_kinds(case, dtype), True)
            found[packed] += OPERATORS.forward(x, (*case.geometry().arguments(), True), True)
    for ours, theirs in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


# ---- derivatives -------------------------------------------------------------------------------

SMALL = Geometry.resolve(2, filter_size=2, relu=True)
PLAIN = dict(kernel_size=2, filter_size=2, relu=True, backend="reference")


def distinct(*lead: int) -> Tensor:
    shape = (*lead, 1, 4, 5)
    n = torch.Size(shape).numel()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return ((order - n // 2).double() + 0.5).view(shape) / 16


def fused(x: Tensor) -> Tensor:
    return TRITON.run(x, SMALL)


def plain(x: Tensor) -> Tensor:
    from fastblur.functional import max_blur_pool2d

    return max_blur_pool2d(x, **PLAIN)  # type: ignore[arg-type]


def test_gradcheck() -> None:
    leaf = distinct(1).requires_grad_()
    assert gradcheck(fused, leaf)
    assert gradgradcheck(fused, leaf)


def test_transforms() -> None:
    def loss(f: object) -> object:
        return lambda x: f(x).pow(3).sum()  # type: ignore[operator]

    uses = {
        "jvp": lambda f: jvp(f, (distinct(1),), (distinct(1).flip(-1),))[1],
        "vjp": lambda f: vjp(f, distinct(1))[1](torch.ones_like(f(distinct(1))))[0],
        "vmap": lambda f: vmap(f)(distinct(3, 2)),
        "vmap grad": lambda f: vmap(grad(loss(f)))(distinct(3, 1)),
        "jacrev": lambda f: jacrev(f)(distinct(1)),
        "jacfwd": lambda f: jacfwd(f)(distinct(1)),
        "hessian": lambda f: hessian(loss(f))(distinct(1)),
    }
    for name, use in uses.items():
        torch.testing.assert_close(use(fused), use(plain), msg=name, rtol=1e-9, atol=1e-9)


def test_forward_mode() -> None:
    results = []
    for f in (fused, plain):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(distinct(1), distinct(1).flip(-2))
            results.append(forward_ad.unpack_dual(f(dual)).tangent)
    torch.testing.assert_close(*results)


def test_operators_refuse_what_is_not_theirs() -> None:
    x = torch.randn(1, 2, 9, 12)
    arguments = (*Geometry.resolve().arguments(), False)
    y, codes = OPERATORS.forward(x, arguments, True)
    with pytest.raises(TypeError, match=r"codes must be the int8 tensor .* got torch\.uint8"):
        OPERATORS.apply(x, codes.to(torch.uint8), arguments)
    with pytest.raises(ValueError, match="codes must belong to this geometry, which has shape"):
        OPERATORS.backward(y, codes.flatten(1), (1, 2, 9, 12), arguments)
    with pytest.raises(ValueError, match="codes must belong to this geometry, which has shape"):
        OPERATORS.apply(x, codes[:, :1], arguments)
    with pytest.raises(
        ValueError, match=r"grad_output must have the output's shape \[1, 2, 4, 6\]"
    ):
        OPERATORS.backward(y[..., :-1], codes, (1, 2, 9, 12), arguments)
    with pytest.raises(TypeError, match="input must be float32"):
        OPERATORS.forward(x.int(), arguments, True)
    with pytest.raises(ValueError, match="need_codes must be True"):
        OPERATORS.forward(x.requires_grad_(), arguments, False)


def test_any_codes_of_the_right_shape_are_harmless() -> None:
    g = Geometry.resolve(3, 3, 1, filter_size=3, relu=True)
    x = torch.randn(1, 2, 7, 9, dtype=torch.float64)
    arguments = (*g.arguments(), False)
    y, codes = OPERATORS.forward(x, arguments, True)
    noise = torch.randint(-(2**15), 2**15, codes.shape).to(codes.dtype)
    inner = (
        (OPERATORS.apply(x, noise, arguments) * y).sum(),
        (x * OPERATORS.backward(y, noise, tuple(x.shape), arguments)).sum(),
    )
    torch.testing.assert_close(*inner)


def test_empty_batch() -> None:
    x = torch.zeros(0, 3, 9, 9, requires_grad=True)
    y = TRITON.run(x, Geometry.resolve())
    assert y.shape == (0, 3, 4, 4)
    y.sum().backward()
