"""The operators, defined once for all backends: schemas, checks, fake kernels, vmap rules.

A family is three operators, ``torch.ops.fastblur.<family>_{forward,backward,apply}``.
``geometry`` stands for the fields of :class:`Geometry`, ``channels_last`` is the layout of x, y and
codes::

    forward   (x, *geometry, channels_last, need_codes) -> (y, codes)
    backward  (grad_output, codes, input_size, *geometry, channels_last) -> dx
    apply     (x, codes, *geometry, channels_last) -> y, with given winners: linear in x

A fourth one, ``torch.ops.fastblur.blur_upsample``, has no kernel of its own: it is backward of a
blur, which has no winners. Graphs and profilers show it by this name.

The compiled backends share a family, because codes of a CPU and of a GPU never meet. Triton has its
own. Backends compute on raw addresses, so this module checks every call. The derivatives are in
``autograd.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.library import Library

from .. import _compat, flops
from .._geometry import DTYPES, Geometry

Size = tuple[int, int, int, int]  # the shape of x, [N, C, H, W]
Arguments = tuple[Any, ...]  # Geometry.arguments() and channels_last

_TYPES = {
    "Pair": "int[]",
    "tuple[int, int, int, int]": "int[]",
    "tuple[float, ...]": "float[]",
    "str": "str",
    "bool": "bool",
}
_GEOMETRY = ", ".join(
    [
        *(f"{_TYPES[str(field.type)]} {field.name}" for field in fields(Geometry)),
        "bool channels_last",
    ]
)
_SCHEMAS = {
    "forward": f"(Tensor x, {_GEOMETRY}, bool need_codes) -> (Tensor y, Tensor codes)",
    "backward": f"(Tensor grad_output, Tensor codes, SymInt[] input_size, {_GEOMETRY}) -> Tensor",
    "apply": f"(Tensor x, Tensor codes, {_GEOMETRY}) -> Tensor",
}
_UPSAMPLE_SCHEMA = f"(Tensor x, {_GEOMETRY}) -> Tensor"


class Call(Protocol):
    """A checked call to a backend. Its tensors are checked, and dense in the call's layout."""

    @property
    def output_size(self) -> Size: ...
    @property
    def codes_shape(self) -> tuple[int, ...]: ...
    @property
    def codes_dtype(self) -> torch.dtype: ...

    def forward(self, x: Tensor, need_codes: bool) -> tuple[Tensor, Tensor]:
        """Returns (y, codes); codes are [N, 0] if they are not needed."""
        ...

    def backward(self, dy: Tensor, codes: Tensor) -> Tensor: ...
    def apply(self, x: Tensor, codes: Tensor) -> Tensor: ...


class Kernels(Protocol):
    """What a backend supplies to a family."""

    alignment: int  # in bytes, of the address of every tensor that a kernel reads

    def call(self, geometry: Arguments, size: Size, channels_last: bool, beside: Tensor) -> Call:
        """Checks arbitrary geometry and sizes for a call on a tensor like ``beside``.

        Raises:
            ValueError: an argument is not allowed, or a size does not fit.
        """
        ...


# (geometry, size of x, channels_last, a tensor like x) -> shape and dtype of codes; sizes may be
# symbolic.
CodesOf = Callable[[Geometry, Size, bool, Tensor], tuple[tuple[int, ...], torch.dtype]]


class Operators:
    """A family of operators.

    Args:
        family: the name of the family.
        codes_of: shape and dtype of the codes that its backends keep.
    """

    def __init__(self, family: str, codes_of: CodesOf) -> None:
        self.family = family
        self.upsample_name = family.replace("max_blur_pool", "blur_upsample")
        self._codes_of = codes_of
        self.library: Any = None  # the torch Library, once defined
        self.on: dict[str, Checked] = {}  # by device type: the kernels, behind the checks

    # ---- calls, through the dispatcher ----

    def forward(self, x: Tensor, arguments: Arguments, need_codes: bool) -> tuple[Tensor, Tensor]:
        """Selects winners and blurs: returns (y, codes); codes are [N, 0] if not needed."""
        result: tuple[Tensor, Tensor] = self.named("forward")(x, *arguments, need_codes)
        return result

    def backward(
        self, dy: Tensor, codes: Tensor, input_size: Sequence[int], arguments: Arguments
    ) -> Tensor:
        """The gradient of x from the gradient of y and the winners."""
        dx: Tensor = self.named("backward")(dy, codes, input_size, *arguments)
        return dx

    def apply(self, x: Tensor, codes: Tensor, arguments: Arguments) -> Tensor:
        """Forward with given winners: linear in x."""
        y: Tensor = self.named("apply")(x, codes, *arguments)
        return y

    def upsample(self, x: Tensor, arguments: Arguments) -> Tensor:
        """The transpose of a blur, to the largest map from which it makes a map of x's size."""
        y: Tensor = getattr(torch.ops.fastblur, self.upsample_name)(x, *arguments)
        return y

    def backward_of_blur(self, x: Tensor, *arguments: Any) -> tuple[Any, ...]:
        """The arguments of the backward operator that :meth:`upsample` stands for."""
        *geometry, channels_last = arguments
        g = geometry_from(geometry)
        size: Any = (*x.shape[:2], *g.largest_map(*x.shape[2:]))
        shape, dtype = self._codes_of(g, size, channels_last, x)
        return x, torch.empty(shape, dtype=dtype, device=x.device), size, arguments

    def named(self, name: str) -> Any:
        """The operator of this family with this name."""
        return getattr(torch.ops.fastblur, f"{self.family}_{name}")

    # ---- registration ----

    def define(self, kernels: dict[str, Kernels]) -> None:
        """Registers the family, with its kernels by dispatch key."""
        library: Any = Library("fastblur", "FRAGMENT")  # type: ignore[no-untyped-call]
        self.library = library
        fake = Checked(self._fake_call, alignment=0)
        by_key = {key: Checked(b.call, b.alignment) for key, b in kernels.items()}
        self.on = {key.lower(): run for key, run in by_key.items()}
        for name, schema in _SCHEMAS.items():
            operator = f"{self.family}_{name}"
            library.define(operator + schema, tags=_compat.OPERATOR_TAGS)
            for key, run in by_key.items():
                library.impl(operator, getattr(run, name), key)
            qualified = f"fastblur::{operator}"
            torch.library.register_fake(qualified, getattr(fake, name), lib=library)
            torch.library.register_vmap(qualified, self._vmap(name), lib=library)
        library.define(self.upsample_name + _UPSAMPLE_SCHEMA, tags=_compat.OPERATOR_TAGS)
        library.impl(self.upsample_name, self._upsample, "CompositeImplicitAutograd")
        flops.register(self)

    def _upsample(self, x: Tensor, *arguments: Any) -> Tensor:
        _check_tensor("input", x)
        if not geometry_from(arguments[:-1]).linear:
            raise ValueError(
                f"kernel_size must be [1, 1] and relu False for an upsampling, got "
                f"{list(arguments[0])} and {arguments[-2]}"
            )
        return self.backward(*self.backward_of_blur(x, *arguments))

    def _fake_call(
        self, geometry: Arguments, size: Size, channels_last: bool, beside: Tensor
    ) -> Call:
        g, (n, c, h, w) = Geometry(*geometry), size
        output_size = (n, c, *g.output_size(h, w))
        codes = self._codes_of(g, size, channels_last, beside)
        return _FakeCall(size, output_size, channels_last, *codes)

    def _vmap(self, name: str) -> Callable[..., Any]:
        def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
            b = info.batch_size
            tensors = [
                fold(t, dim, b)
                for t, dim in zip(arguments, in_dims, strict=True)
                if isinstance(t, Tensor)
            ]
            rest = arguments[len(tensors) :]
            if name == "backward":
                (images, *sizes), *after = rest
                rest = ([b * images, *sizes], *after)
            n = batch_of(arguments[0], in_dims[0])
            result = self.named(name)(*tensors, *rest)
            if isinstance(result, Tensor):
                return unfold(result, b, n), 0
            return tuple(unfold(t, b, n) for t in result), tuple(0 for _ in result)

        return rule


class _FakeCall(NamedTuple):
    """A call on fake tensors; sizes may be symbolic."""

    input_size: Size
    output_size: Size
    channels_last: bool
    codes_shape: tuple[int, ...]
    codes_dtype: torch.dtype

    def forward(self, x: Tensor, need_codes: bool) -> tuple[Tensor, Tensor]:
        shape = self.codes_shape if need_codes else (x.shape[0], 0)
        codes = torch.empty(shape, dtype=self.codes_dtype, device=x.device)
        return self.apply(x, codes), codes

    def backward(self, dy: Tensor, codes: Tensor) -> Tensor:
        return self._empty(dy, self.input_size)

    def apply(self, x: Tensor, codes: Tensor) -> Tensor:
        return self._empty(x, self.output_size)

    def _empty(self, like: Tensor, size: Size) -> Tensor:
        layout = memory_format(self.channels_last)
        return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=layout)


class Checked:
    """The operators with the arguments of their schemas: checks, then a call to a backend.

    Args:
        make: creates the calls, like ``Kernels.call``.
        alignment: in bytes, of the tensors that a kernel reads; 0 for fake tensors.
    """

    def __init__(self, make: Callable[..., Call], alignment: int) -> None:
        self._make, self._alignment = make, alignment

    def forward(self, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        *rest, need_codes = arguments
        call = self._call("input", x, x.shape, rest)
        return call.forward(self._readable(x, rest[-1]), need_codes)

    def backward(
        self, dy: Tensor, codes: Tensor, input_size: Sequence[int], *arguments: Any
    ) -> Tensor:
        call = self._call("grad_output", dy, input_size, arguments)
        _check_grad_output(call, dy)
        _check_codes(call, codes, dy)
        return call.backward(self._readable(dy, arguments[-1]), self._readable(codes, False))

    def apply(self, x: Tensor, codes: Tensor, *arguments: Any) -> Tensor:
        call = self._call("input", x, x.shape, arguments)
        _check_codes(call, codes, x)
        return call.apply(self._readable(x, arguments[-1]), self._readable(codes, False))

    def _call(
        self, name: str, beside: Tensor, input_size: Sequence[int], arguments: Sequence[Any]
    ) -> Call:
        _check_tensor(name, beside)
        if len(input_size) != 4:
            raise ValueError(f"input_size must have 4 entries, got {list(input_size)}")
        *geometry, channels_last = arguments
        return self._make(_hashable(geometry), tuple(input_size), channels_last, beside)

    def _readable(self, t: Tensor, channels_last: bool) -> Tensor:
        """The tensor itself, or a dense, aligned copy that a kernel can read."""
        if self._alignment == 0:
            return t
        t = t.contiguous(memory_format=memory_format(channels_last))
        return t.clone() if self._alignment > 1 and t.data_ptr() % self._alignment else t


# ---- checks ------------------------------------------------------------------------------------


def check_dense(name: str, t: Tensor | None) -> None:
    """Raises TypeError unless ``t`` is a dense tensor: the dispatcher's error names no argument."""
    if t is None:  # which a schema takes for a tensor
        raise TypeError(f"{name} must be a tensor, got None")
    if t.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {t.layout}")


def _check_tensor(name: str, t: Tensor) -> None:
    check_dense(name, t)
    if t.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {t.dtype}")
    if t.dim() != 4:
        raise ValueError(f"{name} must have 4 dimensions (N, C, H, W), got {t.dim()}")


def _check_grad_output(call: Call, dy: Tensor) -> None:
    if _differ(dy.shape, call.output_size):
        raise ValueError(
            f"grad_output must have the output's shape {list(call.output_size)}, got "
            f"{list(dy.shape)}"
        )


def _check_codes(call: Call, codes: Tensor, beside: Tensor) -> None:
    check_dense("codes", codes)
    if codes.device != beside.device:
        raise RuntimeError(
            f"codes must be on the input's device {beside.device}, got {codes.device}"
        )
    if codes.dtype != call.codes_dtype:
        kind = str(call.codes_dtype).removeprefix("torch.")
        raise TypeError(
            f"codes must be the {kind} tensor that forward of this backend returned, got "
            f"{codes.dtype}"
        )
    if _differ(codes.shape, call.codes_shape):
        raise ValueError(
            f"codes must belong to this geometry, which has shape {list(call.codes_shape)}, got "
            f"{list(codes.shape)}"
        )


def _differ(ours: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether sizes surely differ. Symbolic sizes are not compared, which would add guards."""
    if len(ours) != len(wanted):
        return True
    for n in (*ours, *wanted):  # a loop, because compiled code calls this
        if type(n) is not int:
            return False
    return tuple(ours) != tuple(wanted)


def geometry_from(arguments: Sequence[Any]) -> Geometry:
    """The inverse of ``Geometry.arguments()`` after a schema; unchecked."""
    return Geometry(*_hashable(arguments))


def _hashable(arguments: Sequence[Any]) -> Arguments:
    """Turns lists, which a schema makes of tuples, back into tuples."""
    # From a list, because compiled code calls this, and a generator takes longer.
    return tuple([tuple(a) if isinstance(a, list) else a for a in arguments])


# ---- layouts -----------------------------------------------------------------------------------


def memory_format(channels_last: bool, dims: int = 4) -> torch.memory_format:
    """The memory format of x, y and their gradients."""
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last if dims == 4 else torch.channels_last_3d


def is_channels_last(x: Tensor) -> bool:
    """Whether a 4-D or 5-D tensor is channels_last, or should be made so, by torch's rule.

    Going outwards over channels, columns, rows, slices and images, each stride must be at least the
    extent of everything inside it.
    """
    if x.is_contiguous():
        return False
    if x.is_contiguous(memory_format=memory_format(True, x.dim())):
        return True
    size, stride = x.shape, x.stride()
    if stride[1] == 0:
        return False
    extent = 0
    for axis in (1, *range(x.dim() - 1, 1, -1), 0):
        if size[axis] == 0 or stride[axis] < extent:
            return False
        if axis == 0 and extent == stride[1]:  # one element per image: both formats, so contiguous
            return False
        extent = stride[axis] * size[axis]
    return True


def fold(x: Tensor, dim: int | None, batch_size: int) -> Tensor:
    """Folds a vmapped axis, at any position, into the batch: [B N, ...]."""
    x = x.expand(batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def unfold(x: Tensor, batch_size: int, n: int) -> Tensor:
    """The inverse of :func:`fold`: [B, n, ...], the vmapped axis first."""
    return x.reshape(batch_size, n, *x.shape[1:])


def batch_of(x: Tensor, mapped: int | None) -> int:
    """The number of images per vmap level; axis ``mapped`` of x is vmapped, or none."""
    return x.shape[1 if mapped == 0 else 0]


def autocast(x: Tensor) -> Tensor:
    """Casts like autocast casts the input of conv2d: all dtypes except float64, if enabled."""
    device_type = x.device.type
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return x
    return x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(device_type))
