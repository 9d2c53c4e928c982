"""Calls of the compiled operators that must not succeed, each in a process of its own.

`python -m tests.hostile` forks one child a call from a parent that has torch loaded, and prints a
line of JSON each: the name, the status of the child, and the exception it got.
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


class Call(NamedTuple):
    """An entry point, the argument that is wrong, and how: what its error must mention."""

    entry: str
    argument: str
    value: Any
    mentions: str

    def __str__(self) -> str:
        text = str(self.value).replace("\n", "")[:40]
        return f"{self.entry}({self.argument}={text})"


BAD_GEOMETRY: list[tuple[str, Any, str]] = [
    *(("kernel_size", v, "kernel_size") for v in (
        [0, 2], [2, 16], [-1, 2], [HUGE, 2], [], [2], [2, 2, 2], [7, 2], [2, 8], None, "ab",
        [2, 2**31 + 2], [2, -HUGE], [NAN, 2])),
    *(("stride", v, "stride") for v in (
        [0, 2], [2, -1], [HUGE, 1], [], [1], [2**31, 2], [1, 2, 3], None, [0.5, 1])),
    *(("padding", v, "padding") for v in (
        [2, 0], [0, -1], [HUGE, 0], [-HUGE, 0], [], [0, 0, 0], None)),
    *((t, v, "taps") for t in ("taps_h", "taps_w") for v in (
        [], [0.1] * 32, [NAN], [INF, 1.0], [-INF], [0.1] * 9, [0.5] * 1000, None, "taps",
        [[0.5], [0.5, 0.5]])),
    *(("blur_padding", v, "blur_padding") for v in (
        [0, 1], [0, -1, 0, 0], [5, 0, 0, 0], [0, 0, 0, 6], [HUGE] * 4, [], [0] * 5, None,
        [0, 0, -HUGE, 0], [2**31, 0, 0, 0])),
    *(("padding_mode", v, "padding_mode") for v in (
        "constant", "", "reflect\0", "x" * 10_000, "REFLECT", None, 3)),
    ("relu", "no", "relu"),
    ("channels_last", "yes", "channels_last"),
]  # fmt: skip

BAD_INPUTS: list[tuple[str, Callable[[], Any], str]] = [
    ("int", lambda: torch.zeros(SIZE, dtype=torch.int32), "must be float32"),
    ("complex", lambda: torch.zeros(SIZE, dtype=torch.complex64), "must be float32"),
    ("bool", lambda: torch.zeros(SIZE, dtype=torch.bool), "must be float32"),
    ("float8", lambda: torch.zeros(SIZE).to(torch.float8_e4m3fn), "must be float32"),
    ("three dimensions", lambda: torch.zeros(SIZE[1:]), "4 dimensions"),
    ("five dimensions", lambda: torch.zeros([1, *SIZE]), "4 dimensions"),
    ("a scalar", lambda: torch.tensor(1.0), "4 dimensions"),
    ("no elements", lambda: torch.zeros(0), "4 dimensions"),
    ("sparse", lambda: torch.zeros(SIZE).to_sparse(), ""),
    ("mkldnn", lambda: torch.zeros(SIZE).to_mkldnn(), ""),
    ("None", lambda: None, ""),
    ("a list", lambda: [[[[1.0]]]], ""),
    ("a number", lambda: 3, ""),
]
BAD_X: list[tuple[str, Callable[[], Any], str]] = [
    ("no channels", lambda: torch.zeros(2, 0, 6, 7), "channel"),
    ("no rows", lambda: torch.zeros(2, 3, 0, 7), "height"),
    ("no columns", lambda: torch.zeros(2, 3, 6, 0), "width"),
    ("one element", lambda: torch.zeros(2, 3, 1, 1), "kernel_size"),
    ("expanded past all memory", lambda: torch.zeros(1).expand(2**30, 2**10, 8, 8), ""),
    ("expanded past 63 bits", lambda: torch.zeros(1).expand(2**20, 2**20, 2**10, 2**9), "large"),
]
BAD_DY: list[tuple[str, Callable[[], Any], str]] = [
    ("of the input", lambda: torch.zeros(SIZE), "grad_output"),
    ("a column more", lambda: torch.zeros(2, 3, 3, 4), "grad_output"),
    ("an image less", lambda: torch.zeros(1, 3, 3, 3), "grad_output"),
    ("empty", lambda: torch.zeros(0, 3, 3, 3), "grad_output"),
]
CODES_MENTION = "codes"
BAD_CODES: list[tuple[str, Callable[[torch.Tensor], Any], str]] = [
    ("too short", lambda c: c[:, :-1], CODES_MENTION),
    ("too long", lambda c: torch.cat([c, c], 1), CODES_MENTION),
    ("one image", lambda c: c[:1], CODES_MENTION),
    ("flat", lambda c: c.flatten(), CODES_MENTION),
    ("empty", lambda c: c[:0], CODES_MENTION),
    ("without columns", lambda c: c[:, :0], CODES_MENTION),
    ("transposed", lambda c: c.T, CODES_MENTION),
    ("deep", lambda c: c[None], CODES_MENTION),
    ("int32", lambda c: c.int(), CODES_MENTION),
    ("int8", lambda c: c.view(torch.int8), CODES_MENTION),
    ("bool", lambda c: c.bool(), CODES_MENTION),
    ("float", lambda c: c.float(), CODES_MENTION),
    ("meta", lambda c: c.to("meta"), CODES_MENTION),
    ("sparse", lambda c: c.to_sparse(), ""),
    ("None", lambda c: None, ""),
    ("a list", lambda c: c.tolist(), ""),
]
BAD_SIZES: list[tuple[Any, str]] = [
    ([], "input_size"),
    ([2, 3, 6], "input_size"),
    ([2, 3, 6, 7, 8], "input_size"),
    ([-1, 3, 6, 7], "batch"),
    ([2, -3, 6, 7], "channel"),
    ([2, 0, 6, 7], "channel"),
    ([2, 3, 0, 7], "height"),
    ([2, 3, 6, -7], "width"),
    ([2, 3, 6, HUGE], "too large"),
    ([HUGE, HUGE, HUGE, HUGE], "large"),
    ([2**31, 2**31, 6, 7], "large"),
    ([2, 3, 2**32, 2**32], "large"),
    ([2, 3, 1, 1], "kernel_size"),
    (None, "input_size"),
    ("size", "input_size"),
    ([2.5, 3, 6, 7], "input_size"),
]


def calls() -> Iterator[Call]:
    """All calls, in the same order each time."""
    for operator in OPERATORS:
        for argument, value, mentions in BAD_GEOMETRY:
            yield Call(operator, argument, value, mentions)
        tensor = "grad_output" if operator == "backward" else "x"
        for name, _, mentions in BAD_INPUTS + (BAD_DY if operator == "backward" else BAD_X):
            yield Call(operator, tensor, name, mentions)
        if operator != "forward":
            for name, _, mentions in BAD_CODES:
                yield Call(operator, "codes", name, mentions)
    for value, mentions in BAD_SIZES:
        yield Call("backward", "input_size", value, mentions)
    for argument, value, _ in BAD_GEOMETRY:
        if argument != "channels_last":
            yield Call("sizes", argument, value, "")
    for value, mentions in BAD_SIZES:
        yield Call("sizes", "input_size", value, mentions if mentions != "input_size" else "")


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
        value = {key: make for key, make, _ in BAD_CODES}[value](codes)
    elif call.argument in ("x", "grad_output"):
        table = {key: make for key, make, _ in BAD_INPUTS + BAD_DY + BAD_X}
        value = table[value]()
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
