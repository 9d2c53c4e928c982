"""The instructions of a kernel as nvdisasm prints them, its blocks, and the loop that is counted.

The rules are in sass.py.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

# ---- instructions ------------------------------------------------------------------------------

# The first that matches an opcode. Integer multiply-adds share the FP32 pipe on some architectures
# and the compiler uses them as moves, so they have a row of their own.
CLASSES = {
    "local": r"(LDL|STL)\b",
    "load": r"(LDG|LD)\b",
    "store": r"(STG|ST|RED|REDG|ATOM|ATOMG)\b",
    "prefetch": r"CCTL\b",
    "shared": r"(LDS|LDSM|STS|STSM|ATOMS)\b",
    "constant": r"(LDC|LDCU|ULDC)\b",
    "shuffle": r"(SHFL|VOTE|VOTEU|MATCH|REDUX)\b",
    "branch": r"(BRA|BRX|BSSY|BSYNC|BREAK|CALL|RET|EXIT|WARPSYNC|JMP|JMX|YIELD|BAR|BMOV)\b",
    "uniform": r"(U[A-Z]|R2UR|S2UR|REDUX|PLOP3\.U)",
    "move": r"(MOV|IMAD\.MOV|CS2R|S2R)\b",
    "convert": r"(F2F|F2FP|F2I|I2F|I2FP|I2I|HADD2\.F32)\b",
    "half": r"(HADD2|HFMA2|HMUL2|HMNMX2|HSETP2|HSET2|VHMNMX)\b",
    "fp32": r"(FFMA|FMUL|FADD)2?\b",
    "fp64": r"D[A-Z]+\b",
    "imad": r"IMAD\b",
    "alu": r"(FMNMX|FSEL|FSET|FCHK|ISETP|ICMP|IABS|IADD|LOP|SHF|SH[LR]|SEL|LEA|PRMT|PLOP3|P2R|R2P|"
    r"VI|VABSDIFF|IMNMX|INEG|BMSK|SGXT|POPC|FLO|BREV)",
    "other": r"",
}
_classes = [(name, re.compile(pattern)) for name, pattern in CLASSES.items()]


@functools.cache
def class_of(opcode: str) -> str:
    return next(name for name, pattern in _classes if pattern.match(opcode))


@dataclass(frozen=True)
class Instruction:
    address: int
    guard: str  # "@P0", "@!UP1" or ""
    opcode: str
    operands: str

    @property
    def kind(self) -> str:
        # Half arithmetic on two zero registers is how the compiler makes constants.
        is_constant = self.opcode.startswith("HFMA2") and "-RZ, RZ," in self.operands
        return "move" if is_constant else class_of(self.opcode)

    @property
    def width(self) -> int:
        """The bytes of a memory access."""
        parts = self.opcode.split(".")
        wide = [
            int(part.lstrip("US")) for part in parts if re.fullmatch(r"[US]?(8|16|64|128)", part)
        ]
        return 32 if "ENL2" in parts else wide[0] // 8 if wide else 4


@dataclass
class Block:
    instructions: list[Instruction]
    successors: list[int] = field(default_factory=list)

    @property
    def is_marked(self) -> bool:
        return any(i.opcode == "PMTRIG" and not i.guard for i in self.instructions)

    @property
    def weight(self) -> tuple[int, int]:
        return traffic(self.instructions), len(self.instructions)


def traffic(code: Iterable[Instruction], kinds: tuple[str, ...] = ("load", "store")) -> int:
    """Squared widths of the accesses to global memory: bytes count more in fewer pieces."""
    return sum(i.width**2 for i in code if i.kind in kinds)


_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:(@\S+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"([.$\w]+):$")
_TARGET = re.compile(r"`\((.+?)\)|(\.L_x_\d+)")


def blocks(lines: Iterable[str]) -> list[Block]:
    """The control flow graph of one kernel, from nvdisasm's text; the first block is the entry."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in lines:
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := _INSTRUCTION.match(line):
            code.append(Instruction(int(found[1], 16), *(found[n] or "" for n in (2, 3, 4))))
    edges = [_successors(at, i, labels) for at, i in enumerate(code)]
    jumps = {at for at, to in enumerate(edges) if to != [at + 1]}
    starts = {0, *(at + 1 for at in jumps), *(to for at in jumps for to in edges[at])}
    order = sorted(at for at in starts if at < len(code))
    number = {at: n for n, at in enumerate(order)}
    found_blocks = []
    for start, end in zip(order, [*order[1:], len(code)], strict=True):
        to = [number[at] for at in edges[end - 1] if at in number]
        found_blocks.append(Block(code[start:end], to))
    return found_blocks


def _successors(at: int, i: Instruction, labels: dict[str, int]) -> list[int]:
    name = i.opcode.split(".")[0]
    follows = [at + 1] if i.guard and i.guard not in ("@PT", "@UPT") else []
    if name in ("EXIT", "RET", "KILL"):
        return follows
    targets = [labels[a or b] for a, b in _TARGET.findall(i.operands) if (a or b) in labels]
    if name == "CALL":
        # A call of a local label does not return: old architectures jump out of loops that way.
        return follows + targets if ".L_" in i.operands else [at + 1]
    if name not in ("BRA", "BRX", "JMP", "JMX"):
        # That includes BSYNC, which is always right in front of the label that its BSSY names.
        return [at + 1]
    if i.opcode.startswith("BRA.DIV"):
        return [at + 1]
    is_conditional = name == "BRA" and not re.match(r"`?\(?\.?\w+\)?$", i.operands)
    return sorted({*follows, *targets, *([at + 1] if is_conditional else [])})


# ---- loops -------------------------------------------------------------------------------------


def loops(graph: list[Block]) -> dict[int, set[int]]:
    """The natural loops: header -> blocks."""
    order: list[int] = []
    seen = {0}
    stack: list[tuple[int, Iterator[int]]] = [(0, iter(graph[0].successors))]
    while stack:
        at, rest = stack[-1]
        to = next(rest, None)
        if to is None:
            order.append(at)
            stack.pop()
        elif to not in seen:
            seen.add(to)
            stack.append((to, iter(graph[to].successors)))
    order.reverse()
    before: dict[int, list[int]] = {at: [] for at in order}
    for at in order:
        for to in graph[at].successors:
            before[to].append(at)
    dominators = {at: set(order) for at in order} | {0: {0}}
    changed = True
    while changed:
        changed = False
        for at in order[1:]:
            new = {at} | set.intersection(*(dominators[b] for b in before[at]))
            changed |= new != dominators[at]
            dominators[at] = new
    found: dict[int, set[int]] = {}
    for at in order:
        for header in graph[at].successors:
            if header in dominators[at]:
                body = found.setdefault(header, {header})
                todo = [at]
                while todo:
                    if (block := todo.pop()) not in body:
                        body.add(block)
                        todo += before[block]
    return found


def hot_path(graph: list[Block], header: int, usable: set[int]) -> list[int]:
    """The blocks of the best path from a loop's header back to it; see the rules in sass.py."""
    best: dict[int, tuple[tuple[int, int], list[int]] | None] = {}

    def visit(at: int) -> tuple[tuple[int, int], list[int]] | None:
        if at not in best:
            best[at] = None  # while it is open: cuts what cycles irreducible flow leaves
            ends: list[tuple[tuple[int, int], list[int]]] = []
            for to in graph[at].successors:
                if to == header:
                    ends.append(((0, 0), []))
                elif to in usable and (end := visit(to)) is not None:
                    ends.append(end)
            if ends:
                (wide, count), rest = max(ends, key=lambda end: end[0])
                own = graph[at].weight
                best[at] = ((wide + own[0], count + own[1]), [at, *rest])
        return best[at]

    found = visit(header) if header in usable else None
    return found[1] if found else []


@dataclass
class Loop:
    """The steady loop: one turn of it along the hot path, and what it leaves out."""

    path: list[Instruction]
    slowest: int  # instructions in the longest loop that stores as much
    rare: int  # instructions in marked blocks
    aside: int  # in unmarked blocks off the hot path, inner loops included

    @property
    def classes(self) -> Counter[str]:
        return Counter(i.kind for i in self.path)

    def widths(self, kind: str) -> dict[int, int]:
        """Bytes of an access -> accesses."""
        return dict(sorted(Counter(i.width for i in self.path if i.kind == kind).items())[::-1])


def steady_loop(graph: list[Block]) -> Loop | None:
    found = loops(graph)
    marked = {n for n, block in enumerate(graph) if block.is_marked}
    candidates: dict[int, tuple[tuple[int, bool, int], list[int]]] = {}
    for header, body in sorted(found.items(), key=lambda item: len(item[1])):
        inner = [h for h in found if h in body and found[h] < body]
        usable = body - marked - set().union(*(found[h] for h in inner))
        path = hot_path(graph, header, usable)
        code = [i for n in path for i in graph[n].instructions]
        stored = traffic(code, ("store",))
        if stored and all(2 * candidates[h][0][0] < stored for h in inner if h in candidates):
            loads = traffic(code, ("load",)) > 0
            candidates[header] = ((stored, loads, -len(code)), path)
    if not candidates:
        return None
    header = max(candidates, key=lambda h: candidates[h][0])
    (stored, loads, _), path = candidates[header]
    aside = found[header] - set(path)
    rare = _only_through(graph, header, found[header], marked) & aside
    return Loop(
        path=[i for n in path for i in graph[n].instructions],
        slowest=max(-n for (*kind, n), _ in candidates.values() if kind == [stored, loads]),
        rare=sum(len(graph[n].instructions) for n in rare),
        aside=sum(len(graph[n].instructions) for n in aside - rare),
    )


def _only_through(graph: list[Block], header: int, body: set[int], marked: set[int]) -> set[int]:
    """The blocks of a loop that its header reaches only through marked ones, with these."""
    free: set[int] = set()
    todo = [header]
    while todo:
        if (at := todo.pop()) in body - marked - free:
            free.add(at)
            todo += [to for to in graph[at].successors if to != header]
    return body - free
