"""Reads the source of a function as a syntax tree, and compiles a changed tree."""

from __future__ import annotations

import ast
import dis
import functools
import linecache
import types
import warnings


class NoProof(Exception):
    """Why the source of a function proves nothing."""


def tree_of(function: types.FunctionType) -> tuple[ast.Module, ast.FunctionDef]:
    """A new tree of the file that the function is from, and the function in it.

    The whole file, since what a compiler makes of a function depends on what is around it.
    """
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    try:
        with warnings.catch_warnings(action="ignore"):  # its author has seen them
            tree = ast.parse("".join(lines))
    except SyntaxError as error:
        raise NoProof(f"its source cannot be read: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == code.co_firstlineno:
                return tree, node
    raise NoProof("its source is not there")


def compiled(tree: ast.Module, function: types.FunctionType) -> types.CodeType:
    """The code of the function in a tree of its file."""
    code = function.__code__
    with warnings.catch_warnings(action="ignore"):
        waiting = [compile(tree, code.co_filename, "exec", dont_inherit=True)]
    while waiting:
        found = waiting.pop()
        if (found.co_name, found.co_firstlineno) == (code.co_name, code.co_firstlineno):
            return found
        waiting += [c for c in found.co_consts if isinstance(c, types.CodeType)]
    raise NoProof("its source is not there")


@functools.lru_cache(maxsize=1024)
def is_source_of(code: types.CodeType, function: types.FunctionType) -> bool:
    """Whether compiling the source of the function gives its code."""
    tree, _ = tree_of(function)
    return compiled(tree, function) == code


def with_code(function: types.FunctionType, code: types.CodeType) -> types.FunctionType:
    """The function with another code."""
    made = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    for name in ("__kwdefaults__", "__doc__", "__qualname__", "__annotations__", "__module__"):
        setattr(made, name, getattr(function, name))
    made.__dict__.update(function.__dict__)
    return made


def stored_by(code: types.CodeType) -> set[str]:
    """The variables that the code gives values, in whatever statement."""
    stored: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith(("STORE_", "DELETE_")):
            name = instruction.argval  # one, or in one instruction two
            stored.update(name if isinstance(name, tuple) else (name,))
    return stored


def names_of(code: types.CodeType) -> set[str]:
    """The globals and attributes in the code, and in that of functions in it."""
    inner = [names_of(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*inner)
