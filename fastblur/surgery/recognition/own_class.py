"""Recognises a blur of somebody's own class, whatever its name, by its source and by one run.

Numbers alone cannot prove what a module computes: it may do something else in half precision, on
large values, or at its hundredth call. So the source of its ``forward`` must be a pad and a
depthwise convolution with the module's one buffer, and nothing that asks for a value, a mode or a
size. Then all calls do the same, and one run tells stride and padding. Afterwards
:func:`.recognise.check_numbers` compares the numbers, as for all layers.
"""

from __future__ import annotations

import ast
import functools
import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..joins.calls import is_unwatched
from ..joins.source import NoProof, is_source_of, tree_of
from .known import PADS, CannotFuse, Layer, geometry_of

_FUNCTIONS = (F.pad, F.conv2d)
_SETTINGS = (int, str, tuple, list)  # no bool: a module's mode is one
_AS_ALL = ("__call__", "__getattr__", "__getattribute__", "_call_impl", "__setattr__")


def is_own_blur(module: nn.Module) -> bool:
    """Whether the module pads and convolves with its one buffer, and does nothing else."""
    if len(module._buffers) != 1 or module._parameters:
        return False
    if any(type(child) not in PADS for child in module._modules.values()):
        return False
    ((buffer, filter),) = module._buffers.items()
    if type(filter) is not Tensor or not filter.is_floating_point():
        return False
    if filter.dim() != 4 or filter.shape[1] != 1:
        return False
    kind: Any = type(module)
    if any(getattr(kind, name) is not getattr(nn.Module, name) for name in _AS_ALL):
        return False
    plain = type(kind.forward) is types.FunctionType
    names = _attributes_in(kind.forward, kind.forward.__code__) if plain else None
    known = {buffer, *module._modules}
    return names is not None and all(
        not hasattr(kind, name) and (name in known or type(vars(module).get(name)) in _SETTINGS)
        for name in names
    )


def read_own(module: nn.Module) -> Layer:
    """What a blur of an own class computes.

    Raises:
        CannotFuse: it pads or convolves in another way than the kernels.
    """
    ((name, filter),) = module.named_buffers()
    if not all(map(is_unwatched, module.modules())):
        raise CannotFuse("it has hooks, or its forward has been replaced")
    if filter.is_meta:
        raise CannotFuse(f"its filter {name!r} is on the meta device, without values")
    channels = 3 if filter.shape[0] == 1 else filter.shape[0]
    size = 2 * max(filter.shape[-2:]) + 8
    seen = _Seen()
    x = torch.zeros(1, channels, size, size, dtype=filter.dtype, device=filter.device)
    try:
        with torch.no_grad(), seen:
            module(x)
    except Exception as error:
        raise CannotFuse(f"it fails on an input of shape {tuple(x.shape)}: {error}") from error
    if [*seen.calls] not in (["conv2d"], ["pad", "conv2d"]) or seen.twice:
        raise CannotFuse("it is not one pad and one convolution")
    conv, pad = seen.calls["conv2d"], seen.calls.get("pad", {})
    if conv["dilation"] not in (1, (1, 1), [1, 1]) or isinstance(conv["padding"], str):
        raise CannotFuse("its convolution is dilated, or pads by name")
    if conv["bias"] is not None or len(pad.get("pad", (0,) * 4)) != 4:
        raise CannotFuse("its convolution has a bias, or its pad is not one of height and width")
    left, right, top, bottom = pad.get("pad", (0, 0, 0, 0))
    zeros = conv["padding"]
    above, beside = (zeros, zeros) if isinstance(zeros, int) else tuple(zeros)
    mode = pad.get("mode", "constant")
    if pad and (above or beside or pad["value"]):
        raise CannotFuse("it pads twice, or not with zeros")
    geometry = geometry_of(
        kernel_size=1,
        stride=conv["stride"] if isinstance(conv["stride"], int) else tuple(conv["stride"]),
        filter_size=tuple(filter.shape[-2:]),
        blur_padding=(top, bottom, left, right) if pad else (above, above, beside, beside),
        padding_mode="zeros" if mode == "constant" else mode,
    )
    return Layer(geometry, name)


def _pad(input: Any, pad: Any, mode: str = "constant", value: Any = None) -> dict[str, Any]:
    return {"pad": pad, "mode": mode, "value": value}


def _conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> dict[str, Any]:
    return {"bias": bias, "stride": stride, "padding": padding, "dilation": dilation}


class _Seen(TorchFunctionMode):
    """The arguments of the pad and the convolution that run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, dict[str, Any]] = {}
        self.twice = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for function, read in ((F.pad, _pad), (F.conv2d, _conv2d)):
            if func is function:
                name = read.__name__[1:]
                self.twice |= name in self.calls
                self.calls[name] = read(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


# By the code too: a function may be given another.
@functools.lru_cache(maxsize=1024)
def _attributes_in(function: Any, code: types.CodeType) -> frozenset[str] | None:
    """The attributes of self that a forward reads; None if it may do more than pad and convolve."""
    try:
        _, node = tree_of(function)
        reader = _Reader(node, function)
        return frozenset(reader.attributes) if is_source_of(code, function) else None
    except NoProof:
        return None


class _Reader:
    """Reads a method that pads its input and convolves it with an attribute.

    A variable is a map, which is padded or convolved; or a number of channels.
    """

    def __init__(self, method: ast.FunctionDef, function: types.FunctionType) -> None:
        a = method.args
        if len(a.args) != 2 or a.posonlyargs or a.vararg or a.kwonlyargs or a.kwarg or a.defaults:
            raise NoProof("it gets more than one argument")
        if method.decorator_list or function.__code__.co_freevars:
            raise NoProof("it is decorated, or reads what is around it")
        self._function = function
        self._self, x = (arg.arg for arg in a.args)
        self._maps, self._counts = {x}, set[str]()
        self.attributes: set[str] = set()
        *statements, last = method.body
        for statement in statements:
            match statement:
                case ast.Expr(value=ast.Constant()):
                    continue  # the docstring
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name != self._self:
                    self._assign(name, value)
                case _:
                    raise NoProof("it does more than pad and convolve")
        if not isinstance(last, ast.Return) or not self._is_map(last.value):
            raise NoProof("its result is no map")

    def _assign(self, name: str, value: ast.expr) -> None:
        is_map, is_count = self._is_map(value), self._is_count(value)
        if not is_map and not is_count:
            raise NoProof("it computes something else")
        for names, holds in ((self._maps, is_map), (self._counts, is_count)):
            (names.add if holds else names.discard)(name)

    def _is_map(self, value: Any) -> bool:
        """The input, padded or convolved."""
        match value:
            case ast.Name(id=name):
                return name in self._maps
            case ast.Call(func=function, args=[x], keywords=[]) if self._reads(function):
                return self._is_map(x)
            case ast.Call(func=function, args=[x, *rest], keywords=keywords):
                others = [*rest, *(k.value for k in keywords if k.arg)]
                named = len(others) == len(rest) + len(keywords)
                known = self._is_function(function) and named and self._is_map(x)
                return known and all(self._is_setting(one) for one in others)
        return False

    def _is_function(self, value: ast.expr) -> bool:
        names = ast.unparse(value).split(".")
        variables = self._function.__code__.co_varnames
        found = None if names[0] in variables else self._function.__globals__.get(names[0])
        for name in names[1:]:
            found = getattr(found, name, None)
        return any(found is function for function in _FUNCTIONS)

    def _is_setting(self, value: ast.expr) -> bool:
        """An attribute, a constant, the number of channels, or the filter for as many."""
        match value:
            case ast.Constant():
                return True
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
                return True
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return all(map(self._is_setting, parts))
            case ast.Call(func=ast.Attribute(value=owner, attr="repeat" | "expand"), keywords=[]):
                return self._is_setting(owner) and all(map(self._is_setting, value.args))
            case ast.Call(func=ast.Attribute(value=owner, attr="to" | "type_as"), keywords=[]):
                return self._is_setting(owner) and all(map(self._is_kind, value.args))
        return self._reads(value) or self._is_count(value)

    def _is_kind(self, value: ast.expr) -> bool:
        if isinstance(value, ast.Attribute) and value.attr in ("dtype", "device"):
            value = value.value
        return isinstance(value, ast.Name) and value.id in self._maps

    def _is_count(self, value: ast.expr) -> bool:
        """``x.shape[1]`` or ``x.size(1)``."""
        match value:
            case ast.Name(id=name):
                return name in self._counts
            case (
                ast.Subscript(
                    value=ast.Attribute(value=ast.Name(id=name), attr="shape"),
                    slice=ast.Constant(value=1),
                )
                | ast.Call(
                    func=ast.Attribute(value=ast.Name(id=name), attr="size"),
                    args=[ast.Constant(value=1)],
                    keywords=[],
                )
            ):
                return name in self._maps
        return False

    def _reads(self, value: ast.expr) -> bool:
        match value:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == self._self:
                self.attributes.add(attribute)
                return not attribute.startswith("__")
        return False
