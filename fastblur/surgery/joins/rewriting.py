"""Finds calls in a method whose results only the next call reads, and combines them into one.

    x = self.act1(x)     ->      x = self._fastblur_in_turn((self.act1,), x, ("maxpool",), ...)
    x = self.maxpool(x)

Only the second call reads the value between two calls if the value has no name (``f(g(x))``), or if
its name is a local variable that the very next statement reads and then reassigns or abandons by
returning. The method's source shows this. The source counts only if it compiles to exactly the
bytecode that runs. Examples and traces cannot show as much: they cover one path through the code,
the source covers all.
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F

from .calls import Tail, attribute, may_join
from .joining import Line
from .source import NoProof, compiled, is_source_of, names_of, stored_by, tree_of, with_code

# Functions whose result is a new tensor, that nobody else holds.
_FRESH = (F.batch_norm, F.group_norm, F.layer_norm, F.instance_norm, F.conv1d, F.conv2d)
# With these a function can read variables that its source does not name.
_SEES_LOCALS = {"locals", "vars", "eval", "exec", "dir", "_getframe", "currentframe", "stack"}
#: The method that a class with rewritten methods has, for these to call.
IN_TURN = "_fastblur_in_turn"
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
        NoProof: its source is not there, or is not what runs, or hides what it reads.
    """

    def __init__(self, function: Any) -> None:
        if type(function) is not types.FunctionType:
            raise NoProof("it is no plain function")
        code = function.__code__
        if code.co_flags & _NOT_PLAIN or _SEES_LOCALS & names_of(code) or not code.co_argcount:
            raise NoProof("it may read variables that its source does not name")
        self.function = function
        self._tree, self._node = tree_of(function)
        if not is_source_of(code, function):
            raise NoProof("its source is not what runs")
        self._self = code.co_varnames[0]
        self._plain = set(code.co_varnames) - set(code.co_cellvars)
        self._loads = _reads_in(self._node)
        if self._self in stored_by(code):
            raise NoProof("it changes what self is")
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
        code = compiled(ast.fix_missing_locations(method._tree), self.function)
        return with_code(self.function, code)

    def tail(self) -> Tail | None:
        """The last call of the method, if there is one way out, and that returns its result."""
        returns = [node for node in _own_nodes(self._node) if isinstance(node, ast.Return)]
        if self._returned is None or len(returns) != 1 or len(_parameters(self._node)) != 2:
            return None
        method = Method(self.function)
        assert method._returned is not None
        *before, last = method._returned.links
        replaced = _Replaced(last.call, last.call.args[0]).visit(method._tree)
        code = compiled(ast.fix_missing_locations(replaced), self.function)
        rest = with_code(self.function, code)
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
                sole = reads and sure and name in self._plain
                given_back = chain if links else before if sole else None
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
        if root != self._self or any(name.startswith("__") for name in attributes):
            return None  # names that a class makes its own are not called that
        return ".".join(attributes) or None

    def _is_fresh(self, value: ast.expr | None) -> bool:
        if not isinstance(value, ast.Call):
            return False
        root, attributes = _dotted(value.func)
        code = self.function.__code__
        if root is None or root in {*code.co_varnames, *code.co_cellvars, *code.co_freevars}:
            return False
        found = self.function.__globals__.get(root)
        for name in attributes:
            found = getattr(found, name, None)
        return any(found is function for function in _FRESH)

    # -- writing ----------------------------------------------------------------------------

    def _rewrite(self, window: Window, relu: bool) -> None:
        chain = self.chains[window.chain]
        links = chain.links[window.begin : window.end]
        first, last = links[0], links[-1]
        groups = _by_statement(links)
        # Python looks up all that one statement calls, the outermost first, before its argument.
        now = [_copy(link.call.func) for link in reversed(groups[0])]
        later = tuple(link.name for link in links[len(groups[0]) :])
        fresh = chain.fresh and window.begin == 0
        last.call.args = [
            ast.Tuple(now, ast.Load()),
            first.call.args[0],
            *(_constant(value) for value in (later, fresh, relu)),
        ]
        itself = ast.Name(self._self, ast.Load())
        last.call.func = ast.Attribute(itself, IN_TURN, ast.Load())
        gone = {id(link.statement) for link in links} - {id(last.statement)}
        if first.block is not None and gone:
            first.block[:] = [s for s in first.block if id(s) not in gone]


def in_turn(
    self: Any,
    first: tuple[Any, ...],
    x: Any,
    later: tuple[str, ...],
    fresh: bool,
    relu: bool,
) -> Any:
    """Calls attributes of a module in turn, in as few calls as can be.

    Args:
        self: whose attributes they are.
        first: those that the first statement calls, the last one first, as Python looks them up.
        x: what the first call gets.
        later: the names of those that further statements call, in the order of the calls.
        fresh: whether nobody else holds ``x``.
        relu: whether ReLUs join, or only maxes.
    """

    def module(index: int) -> Any:
        """What is called at this place, as things are now."""
        if index < len(first):
            return first[-1 - index]
        index -= len(first)
        return attribute(self, later[index]) if index < len(later) else None

    if may_join(x):
        return Line(module, relu, fresh).run(x)
    place = 0
    while (one := module(place)) is not None:
        x = one(x)
        place += 1
    return x


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


def _reads_in(tree: ast.AST) -> _Counts:
    """How often each name is read, deleting it and adding to it included."""
    reads = _Counts()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            reads[node.id] += 1
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            reads[node.target.id] += 1
    return reads


def _dotted(node: ast.expr) -> tuple[str | None, list[str]]:
    """``a`` and the rest of ``a.b.c``; None where it is something else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else None), parts


def _constant(value: Any) -> ast.expr:
    return ast.Constant(value)


def _copy(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body


def _by_statement(links: Sequence[Link]) -> list[list[Link]]:
    """Runs of links that are nested calls of one statement."""
    groups: list[list[Link]] = []
    for link in links:
        if groups and groups[-1][-1].statement is link.statement:
            groups[-1].append(link)
        else:
            groups.append([link])
    return groups
