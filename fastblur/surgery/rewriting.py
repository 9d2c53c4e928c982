"""Calls in a method whose results only the next call can read, and the method with those as one.

    x = self.bn1(x)
    x = self.act1(x)     ->      x = self.bn1(x)
    x = self.maxpool(x)          x = self._call_in_turn(x, ("act1", "maxpool"), ...)

A value between two calls is read by the second alone if it has no name (``f(g(x))``), or if the
name is a local variable that the second statement, the very next one, reads and then gives to
something else, or leaves behind by returning. This is read off the source of the method, which
counts only if compiling it gives the very code that runs. No example and no trace could show as
much: they show one way through the code, this holds for all.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .joining import Tail, is_fresh, steps

# Functions whose result is a new tensor, that nobody else holds.
_FRESH = (F.batch_norm, F.group_norm, F.layer_norm, F.instance_norm, F.conv1d, F.conv2d)
# With these a function can read variables that its source does not name.
_SEES_LOCALS = {"locals", "vars", "eval", "exec", "dir", "_getframe", "currentframe", "stack"}
#: The method that a class with rewritten methods has, for these to call.
RUN_NAMES = "_call_in_turn"
_NOT_PLAIN = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


@dataclass(eq=False)
class Link:
    """A call ``self.name(argument)``.

    Attributes:
        name: of the attribute that is called; dotted, where it is an attribute of an attribute.
        call: the call in the tree of the method.
        block: the statements among which its statement is, if it is the value of one.
        statement: that one.
    """

    name: str
    call: ast.Call
    block: list[ast.stmt] | None = None
    statement: ast.stmt | None = None


@dataclass
class Chain:
    """Links of which each gets the result of the one before, and nobody else does.

    Attributes:
        links: in the order of the calls.
        fresh: whether the first gets the result of a function that nobody else holds.
    """

    links: list[Link] = field(default_factory=list)
    fresh: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the attributes that are called."""
        return tuple(link.name for link in self.links)


@dataclass(frozen=True)
class Window:
    """Links of one chain that become one call.

    Attributes:
        chain: its index among the chains of the method.
        begin: the first link.
        end: the one behind the last.
    """

    chain: int
    begin: int
    end: int


class Method:
    """A method of a class, by its source.

    Args:
        function: as the class has it.

    Raises:
        ValueError: its source is not there, or is not what runs, or hides what it reads.
    """

    def __init__(self, function: Any) -> None:
        if type(function) is not types.FunctionType:
            raise ValueError("it is no plain function")
        code = function.__code__
        if code.co_flags & _NOT_PLAIN or _SEES_LOCALS & set(code.co_names) or not code.co_argcount:
            raise ValueError("it may read variables that its source does not name")
        self.function = function
        self._tree, self._node = _tree_of(function)
        if not _is_source_of(code, function):
            raise ValueError("its source is not what runs")
        self._self = code.co_varnames[0]
        self._plain = set(code.co_varnames) - set(code.co_cellvars)
        self._loads, stores = _names_in(self._node)
        if self._self in stores:
            raise ValueError("it changes what self is")
        self._seen: set[ast.Call] = set()
        self._returned: Chain | None = None  # whose last result the last statement returns
        self.chains: list[Chain] = []
        self._read_block(self._node.body, sure=True)
        self._read_expressions()
        self.chains = [chain for chain in self.chains if len(chain.links) > 1]

    def rewritten(self, windows: tuple[Window, ...], relu: bool) -> Callable[..., Any]:
        """The function with these links as one call each."""
        method = Method(self.function)  # its own tree, to be changed
        for window in windows:
            method._rewrite(window, relu)
        code = _compiled(ast.fix_missing_locations(method._tree), self.function)
        return _with_code(self.function, code)

    def tail(self) -> Tail | None:
        """The last call of the method, if there is one way out, and that returns its result."""
        returns = [node for node in _own_nodes(self._node) if isinstance(node, ast.Return)]
        if self._returned is None or len(returns) != 1 or len(_parameters(self._node)) != 2:
            return None
        method = Method(self.function)
        assert method._returned is not None
        *before, last = method._returned.links
        replaced = _Replaced(last.call, last.call.args[0]).visit(method._tree)
        code = _compiled(ast.fix_missing_locations(replaced), self.function)
        rest = _with_code(self.function, code)
        names = tuple(link.name for link in before)
        return Tail(last.name, names, method._returned.fresh, rest)

    # -- reading ----------------------------------------------------------------------------

    def _read_block(self, block: list[ast.stmt], sure: bool) -> None:
        chain, name = Chain(), None
        for statement in block:
            target, value = _assigned(statement)
            links, base = self._spine(value)
            for link in links:
                link.block, link.statement = block, statement
            reads = isinstance(base, ast.Name) and base.id == name
            before = chain
            if not (sure and links and reads and self._is_last_read(name, target, statement)):
                chain = Chain(fresh=self._is_fresh(base))
                self.chains.append(chain)
            chain.links += links
            if isinstance(statement, ast.Return) and block is self._node.body:
                given_back = chain if links else before if reads and sure else None
                self._returned = given_back if given_back and given_back.links else None
            name = target if sure and (links or chain.fresh) else None
            for inner, still_sure in _blocks_of(statement):
                self._read_block(inner, sure and still_sure)

    def _is_last_read(self, name: str | None, target: str | None, statement: ast.stmt) -> bool:
        """Whether nothing reads what ``name`` has now after the statement, which does."""
        if name not in self._plain:
            return False
        return name == target or isinstance(statement, ast.Return) or self._loads[name] == 1

    def _read_expressions(self) -> None:
        for node in _own_nodes(self._node):
            if isinstance(node, ast.Call) and node not in self._seen:
                links, base = self._spine(node)
                self.chains.append(Chain(links, self._is_fresh(base)))

    def _spine(self, value: ast.expr | None) -> tuple[list[Link], ast.expr | None]:
        """The links of ``self.c(self.b(self.a(base)))``, a first, and the base."""
        links: list[Link] = []
        while isinstance(value, ast.Call) and (name := self._called(value)) is not None:
            links.insert(0, Link(name, value))
            self._seen.add(value)
            (value,) = value.args
        return links, value

    def _called(self, call: ast.Call) -> str | None:
        """The attribute of self that is called, with one argument."""
        if len(call.args) != 1 or call.keywords or isinstance(call.args[0], ast.Starred):
            return None
        root, attributes = _dotted(call.func)
        return ".".join(attributes) if root == self._self and attributes else None

    def _is_fresh(self, value: ast.expr | None) -> bool:
        if not isinstance(value, ast.Call):
            return False
        root, attributes = _dotted(value.func)
        if root is None or root in self.function.__code__.co_varnames:
            return False
        found = self.function.__globals__.get(root)
        for attribute in attributes:
            found = getattr(found, attribute, None)
        return any(found is function for function in _FRESH)

    # -- writing ----------------------------------------------------------------------------

    def _rewrite(self, window: Window, relu: bool) -> None:
        chain = self.chains[window.chain]
        links = chain.links[window.begin : window.end]
        before = chain.names[: window.begin]
        first, last = links[0], links[-1]
        names = chain.names[window.begin : window.end]
        last.call.args = [
            first.call.args[0],
            *(_constant(value) for value in (names, before, chain.fresh, relu)),
        ]
        itself = ast.Name(self._self, ast.Load())
        last.call.func = ast.Attribute(itself, RUN_NAMES, ast.Load())
        gone = {id(link.statement) for link in links} - {id(last.statement)}
        if first.block is not None and gone:
            first.block[:] = [s for s in first.block if id(s) not in gone]


def run_names(
    self: Any, x: Any, names: tuple[str, ...], before: tuple[str, ...], fresh: bool, relu: bool
) -> Any:
    """Calls attributes of a module in turn, in as few calls as :func:`.joining.steps` allows.

    Args:
        self: whose attributes they are.
        x: what the first gets.
        names: of those to call.
        before: of those that were called right before, the last of which made ``x``.
        fresh: whether nobody held what the first of all of them got.
        relu: whether ReLUs join, or only maxes.
    """
    if isinstance(x, Tensor):
        fresh = is_fresh([_attribute(self, name) for name in before], fresh)
        found = steps([_attribute(self, name) for name in names], relu, fresh)
        if any(step.joined for step in found):
            for step in found:
                x = step(x)
            return x
    for name in names:
        x = _attribute(self, name)(x)
    return x


def _attribute(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


# ---- source and code -----------------------------------------------------------------------------


def _tree_of(function: types.FunctionType) -> tuple[ast.Module, ast.FunctionDef]:
    """A new tree of the file that the function is from, and the function in it.

    The whole file, since what a compiler makes of a function depends on what is around it.
    """
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError as error:
        raise ValueError(f"its source cannot be read: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == code.co_firstlineno:
                return tree, node
    raise ValueError("its source is not there")


def _compiled(tree: ast.Module, function: types.FunctionType) -> types.CodeType:
    """The code of the function in a tree of its file."""
    code = function.__code__
    waiting = [compile(tree, code.co_filename, "exec", dont_inherit=True)]
    while waiting:
        found = waiting.pop()
        if (found.co_name, found.co_firstlineno) == (code.co_name, code.co_firstlineno):
            return found
        waiting += [c for c in found.co_consts if isinstance(c, types.CodeType)]
    raise ValueError("its source is not there")


@functools.lru_cache(maxsize=1024)
def _is_source_of(code: types.CodeType, function: types.FunctionType) -> bool:
    tree, _ = _tree_of(function)
    return _compiled(tree, function) == code


def _with_code(function: types.FunctionType, code: types.CodeType) -> types.FunctionType:
    made = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    for name in ("__kwdefaults__", "__doc__", "__qualname__", "__annotations__", "__module__"):
        setattr(made, name, getattr(function, name))
    made.__dict__.update(function.__dict__)
    return made


# ---- trees ---------------------------------------------------------------------------------------


def _assigned(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    """The one variable that the statement gives a value, and the value; or what it returns."""
    if isinstance(statement, ast.Return):
        return None, statement.value
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target: ast.expr = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    else:
        return None, None
    return (target.id, statement.value) if isinstance(target, ast.Name) else (None, None)


def _blocks_of(statement: ast.stmt) -> Iterator[tuple[list[ast.stmt], bool]]:
    """The blocks inside a statement, and whether an error in one ends the function."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    sure = not isinstance(statement, (ast.Try, ast.With, getattr(ast, "TryStar", ast.Try)))
    for name in ("body", "orelse", "finalbody"):
        if block := getattr(statement, name, None):
            yield block, sure
    for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield part.body, sure


def _own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, the outer before the inner, without those of functions in it."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield child
            yield from _own_nodes(child)


class _Replaced(ast.NodeTransformer):
    """A tree with one call replaced."""

    def __init__(self, call: ast.Call, by: ast.expr) -> None:
        self._call, self._by = call, by

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self._by if node is self._call else self.generic_visit(node)


def _parameters(node: ast.FunctionDef) -> list[ast.arg]:
    a = node.args
    extra = [arg for arg in (a.vararg, a.kwarg) if arg is not None]
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *extra]


class _Counts(dict[str, int]):
    def __missing__(self, key: str) -> int:
        return 0


def _names_in(tree: ast.AST) -> tuple[_Counts, set[str]]:
    """How often each name is read, and which are given values."""
    loads, stores = _Counts(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                stores.add(node.id)
            if not isinstance(node.ctx, ast.Store):
                loads[node.id] += 1
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            loads[node.target.id] += 1
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            stores.update(node.names)
    return loads, stores


def _dotted(node: ast.expr) -> tuple[str | None, list[str]]:
    """``a`` and the rest of ``a.b.c``; None where it is something else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else None), parts


def _constant(value: Any) -> ast.expr:
    return ast.Constant(value)
