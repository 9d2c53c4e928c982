"""Proves by the source of a ``forward`` that it returns a tensor that nobody else holds.

A frozen batch norm, of which many packages have one of their own, ends in ``return x * scale +
bias``. The sum is a new tensor without a name: an in-place ReLU behind it overwrites nothing that
somebody reads. The proof covers methods that only do arithmetic on their input and on the tensors
and numbers of the module.
"""

from __future__ import annotations

import ast
import functools
import types
from typing import Any

from torch import Tensor, nn

from .source import NoProof, is_source_of, tree_of

# Of these autograd does not keep the result for backward either, as it does for a power.
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div)
# Methods of a tensor whose result is a tensor.
_METHODS = {"reshape", "view", "rsqrt", "sqrt", "unsqueeze", "to", "float"}
_GETATTR, _GETATTRIBUTE = nn.Module.__getattr__, nn.Module.__getattribute__


def returns_new(module: nn.Module) -> bool:
    """Whether a call of the module's ``forward`` on a tensor gives a tensor nobody else holds."""
    names = _attributes_of(type(module))
    return names is not None and all(_is_plain(module, name) for name in names)


def _is_plain(module: nn.Module, name: str) -> bool:
    """Whether the attribute is a tensor or a number of the module, and of no subclass of these."""
    if hasattr(type(module), name):
        return False
    tables = (vars(module), module._parameters, module._buffers)
    found = next((table[name] for table in tables if name in table), None)
    return type(found) in (Tensor, nn.Parameter, int, float)


def _attributes_of(kind: Any) -> tuple[str, ...] | None:
    """The attributes of self that must be tensors or numbers; None if the source proves nothing."""
    forward = kind.forward
    if kind.__getattr__ is not _GETATTR or kind.__getattribute__ is not _GETATTRIBUTE:
        return None
    plain = type(forward) is types.FunctionType
    return _attributes_in(forward, forward.__code__) if plain else None


# torch.compile cannot read sources. Like torch.compiler.assume_constant_result, which would import
# the compiler.
_attributes_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


# By the code too: a function may be given another.
@functools.lru_cache(maxsize=1024)
def _attributes_in(function: Any, code: types.CodeType) -> tuple[str, ...] | None:
    try:
        _, node = tree_of(function)
        reader = _Reader(node)
        return tuple(sorted(reader.attributes)) if is_source_of(code, function) else None
    except NoProof:
        return None


class _Reader:
    """Reads a method that assigns arithmetic to variables and returns arithmetic."""

    def __init__(self, method: ast.FunctionDef) -> None:
        a = method.args
        if len(a.args) != 2 or a.posonlyargs or a.vararg or a.kwonlyargs or a.kwarg or a.defaults:
            raise NoProof("it gets more than one argument")
        if method.decorator_list:
            raise NoProof("it is decorated")
        self._self, x = (arg.arg for arg in a.args)
        self._known = {x}
        self.attributes: set[str] = set()
        *statements, last = method.body
        for statement in statements:
            self._read(statement)
        if not isinstance(last, ast.Return) or not isinstance(last.value, ast.BinOp):
            raise NoProof("its result may have a name")
        self._check(last.value)

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return  # the docstring
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name != self._self:
                self._check(value)
                self._known.add(name)
            case _:
                raise NoProof("it does more than arithmetic")

    def _check(self, value: ast.expr) -> None:
        """Raises NoProof unless the expression is arithmetic on what is known."""
        match value:
            case ast.Name(id=name) if name in self._known:
                return
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == self._self:
                if attribute.startswith("__"):  # names that a class makes its own
                    raise NoProof("it reads a name that differs between classes")
                self.attributes.add(attribute)
            case ast.Constant(value=int() | float()):
                return
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                self._check(operand)
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
                self._check(left)
                self._check(right)
            case ast.Call(func=ast.Attribute(value=owner, attr=method), args=args, keywords=[]):
                if method not in _METHODS:
                    raise NoProof(f"it calls {method}")
                for part in (owner, *args):
                    self._check(part)
            case _:
                raise NoProof("it does more than arithmetic")
