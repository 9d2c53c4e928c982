"""Calls of the compiled operators that must not succeed, each in a process of its own.

`python -m tests.kernels.hostile` forks one child a call from a parent that has torch loaded, and
prints a line of JSON each: the name, the status of the child, and the exception it got.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from fastblur._backends import compiled

from . import test_raw

GEOMETRY: dict[str, Any] = test_raw.GEOMETRY | dict(channels_last=False)
SIZE = [2, 3, 6, 7]
OPERATORS = ("forward", "backward", "apply")
NAN, INF, HUGE = float("nan"), float("inf"), 2**62
Size = list[int]
DENSE = "must be a dense tensor, got layout "


Says = tuple[str, ...]


class Call(NamedTuple):
    """An entry point, the argument that is wrong, and how; ``says``: texts of the error's line 1.

    They are the argument's name, the value and what is allowed, where the message can have them.
    The first line alone counts: what follows prints the signature, and so has every name.
    """

    entry: str
    argument: str
    value: Any
    says: Says

    def __str__(self) -> str:
        text = str(self.value).replace("\n", "")[:40]
        return f"{self.entry}({self.argument}={text})"


def wrong(argument: str, allowed: str, values: dict[str, Any]) -> list[tuple[str, Any, Says]]:
    """Rows of BAD_GEOMETRY; ``values`` by what the message says that it got."""
    return [(argument, value, (argument, allowed, got)) for got, value in values.items()]


BAD_GEOMETRY: list[tuple[str, Any, Says]] = [
    *wrong("kernel_size", "must be 1 to 15", {
        "got 0 along the height": [0, 2],
        "got 16 along the width": [2, 16],
        "got -1 along the height": [-1, 2],
        f"got {HUGE} along the height": [HUGE, 2],
        f"got {2**31 + 2} along the width": [2, 2**31 + 2],
        f"got {-HUGE} along the width": [2, -HUGE],
    }),
    *wrong("kernel_size", "is larger than the padded input", {
        "kernel_size 7 is larger than the padded input, 6 along the height": [7, 2],
        "kernel_size 8 is larger than the padded input, 7 along the width": [2, 8],
    }),
    *wrong("stride", "must be 1 to 2147483647", {
        "got 0 along the height": [0, 2],
        "got -1 along the width": [2, -1],
        f"got {HUGE} along the height": [HUGE, 1],
        f"got {2**31} along the height": [2**31, 2],
    }),
    *wrong("padding", "must be 0 to half of kernel_size 2", {
        "got 2 along the height": [2, 0],
        "got -1 along the width": [0, -1],
        f"got {HUGE} along the height": [HUGE, 0],
        f"got {-HUGE} along the height": [-HUGE, 0],
    }),
    *wrong("blur_padding", "must be 0 to 2147483647", {
        "got (0, -1) along the height": [0, -1, 0, 0],
        f"got ({HUGE}, {HUGE}) along the height": [HUGE] * 4,
        f"got ({-HUGE}, 0) along the width": [0, 0, -HUGE, 0],
        f"got ({2**31}, 0) along the height": [2**31, 0, 0, 0],
    }),
    *wrong("blur_padding", "smaller than the pooled map", {
        "padding_mode 'reflect' needs blur_padding": [4, 5, 0, 0],
        "got 5 for 5 along the height": [5, 0, 0, 0],
        "got 6 for 6 along the width": [0, 0, 0, 6],
    }),
    *(row for name, count, values in (
        ("kernel_size", 2, ([], [2], [2, 2, 2])),
        ("stride", 2, ([], [1], [1, 2, 3])),
        ("padding", 2, ([], [0, 0, 0])),
        ("blur_padding", 4, ([], [0, 1], [0] * 5)),
    ) for value in values for row in wrong(name, f"must have {count} entries", {
        f"got {value}": value})),
    *(row for taps, side, size in (("taps_h", "height", 6), ("taps_w", "width", 7)) for row in (
        *wrong(taps, "must have 1 to 31 entries", {
            "got 0": [], "got 32": [0.1] * 32, "got 1000": [0.5] * 1000}),
        *wrong(taps, "must be finite", {
            "got nan at index 0": [NAN],
            "got inf at index 1": [1.0, INF],
            "got -inf at index 0": [-INF],
        }),
        (taps, [0.1] * 9, (f"taps (9) are longer than the padded pooled map, {size} along the "
                           f"{side}",)),
    )),
    *wrong("padding_mode", "must be 'reflect', 'replicate', 'zeros' or 'circular'", {
        f"got '{value}'": value for value in ("constant", "", "x" * 300, "REFLECT")
    }),
    ("padding_mode", "reflect\0", ("padding_mode must be", "got 'reflect")),  # C ends texts at 0
]  # fmt: skip

# Of types that a schema or pybind refuses, in words of their own.
BAD_TYPES: list[tuple[str, Any]] = [
    *(("kernel_size", v) for v in (None, "ab", [NAN, 2])),
    *(("stride", v) for v in (None, [0.5, 1])),
    *((name, None) for name in ("padding", "blur_padding")),
    *((taps, v) for taps in ("taps_h", "taps_w") for v in (None, "taps", [[0.5], [0.5, 0.5]])),
    *(("padding_mode", v) for v in (None, 3)),
    ("relu", "no"),
    ("channels_last", "yes"),
]
NO_SIZES: list[Any] = [None, "size", [2.5, 3, 6, 7]]

DTYPE = "must be float32, float64, float16 or bfloat16, got torch."
DIMENSIONS = "must have 4 dimensions (N, C, H, W), got "
BAD_INPUTS: list[tuple[str, Callable[[], Any], str]] = [
    ("int", lambda: torch.zeros(SIZE, dtype=torch.int32), DTYPE + "int32"),
    ("complex", lambda: torch.zeros(SIZE, dtype=torch.complex64), DTYPE + "complex64"),
    ("bool", lambda: torch.zeros(SIZE, dtype=torch.bool), DTYPE + "bool"),
    ("float8", lambda: torch.zeros(SIZE).to(torch.float8_e4m3fn), DTYPE + "float8_e4m3fn"),
    ("three dimensions", lambda: torch.zeros(SIZE[1:]), DIMENSIONS + "3"),
    ("five dimensions", lambda: torch.zeros([1, *SIZE]), DIMENSIONS + "5"),
    ("a scalar", lambda: torch.tensor(1.0), DIMENSIONS + "0"),
    ("no elements", lambda: torch.zeros(0), DIMENSIONS + "1"),
    ("sparse", lambda: torch.zeros(SIZE).to_sparse(), DENSE + "torch.sparse_coo"),
    ("mkldnn", lambda: torch.zeros(SIZE).to_mkldnn(), DENSE + "torch._mkldnn"),
    ("None", lambda: None, "must be a tensor, got None"),
]
NO_TENSORS: dict[str, Callable[[], Any]] = {"a list": lambda: [[[[1.0]]]], "a number": lambda: 3}
HUGE_X = "expanded past all memory"
BAD_X: list[tuple[str, Callable[[], Any], str]] = [
    ("no channels", lambda: torch.zeros(2, 0, 6, 7), "input must have 1 channel or more, got 0"),
    ("no rows", lambda: torch.zeros(2, 3, 0, 7), "input must have a height of 1 or more, got 0"),
    ("no columns", lambda: torch.zeros(2, 3, 6, 0), "input must have a width of 1 or more, got 0"),
    (
        "one element",
        lambda: torch.zeros(2, 3, 1, 1),
        "kernel_size 2 is larger than the padded input, 1 along the height",
    ),
    (
        "expanded past 63 bits",
        lambda: torch.zeros(1).expand(2**20, 2**20, 2**10, 2**9),
        "input is too large: [1048576, 1048576, 1024, 512]",
    ),
    (HUGE_X, lambda: torch.zeros(1).expand(2**30, 2**10, 8, 8), ""),
]
# What forward and apply say of that one: torch, which cannot allocate y; and of the codes, which
# come first.
OF_HUGE_X = {
    "forward": "can't allocate memory: you tried to allocate 281474976710656 bytes",
    "apply": "codes must belong to this geometry, which has shape [1073741824, 14336], got [2, 30]",
}
BAD_DY: list[tuple[str, Callable[[], Any], Size]] = [
    ("of the input", lambda: torch.zeros(SIZE), SIZE),
    ("a column more", lambda: torch.zeros(2, 3, 3, 4), [2, 3, 3, 4]),
    ("an image less", lambda: torch.zeros(1, 3, 3, 3), [1, 3, 3, 3]),
    ("empty", lambda: torch.zeros(0, 3, 3, 3), [0, 3, 3, 3]),
]
DY_SHAPE = "grad_output must have the output's shape [2, 3, 3, 3], got "
SHAPE = "must belong to this geometry, which has shape [2, 30], got "
KIND = "must be the uint8 tensor that forward of this backend returned, got torch."
BAD_CODES: list[tuple[str, Callable[[torch.Tensor], Any], str]] = [
    ("too short", lambda c: c[:, :-1], SHAPE + "[2, 29]"),
    ("too long", lambda c: torch.cat([c, c], 1), SHAPE + "[2, 60]"),
    ("one image", lambda c: c[:1], SHAPE + "[1, 30]"),
    ("flat", lambda c: c.flatten(), SHAPE + "[60]"),
    ("empty", lambda c: c[:0], SHAPE + "[0, 30]"),
    ("without columns", lambda c: c[:, :0], SHAPE + "[2, 0]"),
    ("transposed", lambda c: c.T, SHAPE + "[30, 2]"),
    ("deep", lambda c: c[None], SHAPE + "[1, 2, 30]"),
    ("int32", lambda c: c.int(), KIND + "int32"),
    ("int8", lambda c: c.view(torch.int8), KIND + "int8"),
    ("bool", lambda c: c.bool(), KIND + "bool"),
    ("float", lambda c: c.float(), KIND + "float32"),
    ("meta", lambda c: c.to("meta"), "must be on the input's device cpu, got meta"),
    ("sparse", lambda c: c.to_sparse(), DENSE + "torch.sparse_coo"),
    ("None", lambda c: None, "must be a tensor, got None"),
]
BAD_SIZES: list[tuple[Size, str]] = [
    ([-1, 3, 6, 7], "input must have a batch of 0 or more, got -1"),
    ([2, -3, 6, 7], "input must have 1 channel or more, got -3"),
    ([2, 0, 6, 7], "input must have 1 channel or more, got 0"),
    ([2, 3, 0, 7], "input must have a height of 1 or more, got 0"),
    ([2, 3, 6, -7], "input must have a width of 1 or more, got -7"),
    ([2, 3, 6, HUGE], f"input is too large: its width is {HUGE}"),
    ([HUGE, HUGE, HUGE, HUGE], f"input is too large: its height is {HUGE}"),
    ([2**31, 2**31, 6, 7], f"input is too large: [{2**31}, {2**31}, 6, 7]"),
    ([2, 3, 2**32, 2**32], f"input is too large: [2, 3, {2**32}, {2**32}]"),
    ([2, 3, 1, 1], "kernel_size 2 is larger than the padded input, 1 along the height"),
]
# Numbers of sizes: of which the operator takes a list, and _C four arguments.
NOT_FOUR: list[Size] = [[], [2, 3, 6], [2, 3, 6, 7, 8]]
NO_SUCH_CALL = ("incompatible constructor arguments",)  # pybind's; Python never makes such a call


def refused_by_schema(operator: str, argument: str, value: Any) -> Call:
    """What torch says of a value that is not of the schema's type."""
    found = f"but instead found type '{type(value).__name__}'"
    return Call(operator, argument, value, (f"for argument '{argument}' {found}",))


def calls() -> Iterator[Call]:
    """All calls, in the same order each time."""
    for operator in OPERATORS:
        yield from calls_of(operator)
    for size, says in BAD_SIZES:
        yield Call("backward", "input_size", size, (says,))
        yield Call("sizes", "input_size", size, (says,))
    for size in NOT_FOUR:
        text = f"input_size must have 4 entries, got {size}"
        yield Call("backward", "input_size", size, (text,))
        yield Call("sizes", "input_size", size, NO_SUCH_CALL)
    for value in NO_SIZES:
        yield refused_by_schema("backward", "input_size", value)
        if value is not None:
            yield Call("sizes", "input_size", value, NO_SUCH_CALL)
    for row in BAD_GEOMETRY:
        yield Call("sizes", *row)
    for argument, value in BAD_TYPES:
        if argument != "channels_last":
            yield Call("sizes", argument, value, NO_SUCH_CALL)


def calls_of(operator: str) -> Iterator[Call]:
    """With a wrong geometry, tensor or codes."""
    for row in BAD_GEOMETRY:
        yield Call(operator, *row)
    for argument, value in BAD_TYPES:
        yield refused_by_schema(operator, argument, value)
    tensor, called = ("grad_output",) * 2 if operator == "backward" else ("x", "input")
    for name, _, says in BAD_INPUTS:
        yield Call(operator, tensor, name, (f"{called} {says}",))
    for name, make in NO_TENSORS.items():
        yield refused_by_schema(operator, tensor, make())._replace(value=name)
    if operator == "backward":
        for name, _, size in BAD_DY:
            yield Call(operator, tensor, name, (DY_SHAPE + str(size),))
    else:
        for name, _, says in BAD_X:
            yield Call(operator, tensor, name, (says or OF_HUGE_X[operator],))
    if operator != "forward":
        for name, _, says in BAD_CODES:
            yield Call(operator, "codes", name, (f"codes {says}",))
        yield refused_by_schema(operator, "codes", [])._replace(value="a list")


def tensors() -> dict[str, Callable[[], Any]]:
    """The wrong tensors by name."""
    rows = (*BAD_INPUTS, *BAD_DY, *BAD_X)
    return {name: make for name, make, _ in rows} | NO_TENSORS


def run(call: Call) -> object:
    """Makes the call; everything but one argument is right."""
    x = torch.ones(SIZE)
    arguments: dict[str, Any] = GEOMETRY | dict(input_size=SIZE)
    if call.entry == "sizes":  # what _C itself checks
        arguments[call.argument] = call.value
        plan = compiled.C.Plan(*(arguments[name] for name in test_raw.GEOMETRY))
        return compiled.C.cpu.Call(plan, 0, False, *arguments["input_size"]).sizes
    _, codes = torch.ops.fastblur.max_blur_pool_forward(x, **GEOMETRY, need_codes=True)
    arguments = {
        "forward": dict(x=x, need_codes=True),
        "backward": dict(grad_output=torch.ones(2, 3, 3, 3), codes=codes, input_size=SIZE),
        "apply": dict(x=x, codes=codes),
    }[call.entry] | GEOMETRY
    value = call.value
    if call.argument == "codes":
        make = {name: make for name, make, _ in BAD_CODES}
        value = codes.tolist() if value == "a list" else make[value](codes)
    elif call.argument in ("x", "grad_output"):
        value = tensors()[value]()
    arguments[call.argument] = value
    return getattr(torch.ops.fastblur, f"max_blur_pool_{call.entry}")(**arguments)


def in_child(call: Call) -> dict[str, Any]:
    """Forks, makes the call there, and tells how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            run(call)
            outcome = ["accepted", ""]
        except BaseException as error:
            outcome = [type(error).__name__, str(error)[:4000]]
        with os.fdopen(writer, "w") as file:
            json.dump(outcome, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    kind, message = json.loads(text) if text else ("nothing", "")
    return dict(call=str(call), status=status, kind=kind, message=message)


def main() -> None:
    """Prints what became of each call."""
    torch.set_num_threads(1)
    for call in calls():
        sys.stdout.write(json.dumps(in_child(call)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
