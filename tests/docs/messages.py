"""The messages that users can meet, read from the sources; what is filled in is written as "…".

Of Python: what is raised, but for the reasons in the reports of ``fuse_`` and ``antialias_``, which
are answers and no errors, and what the functions return that say why a backend cannot run. Of C++:
the checks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOLE = "…"
NO_ERRORS = {"AssertionError", "CannotFuse", "NoProof", "_Leave"}
REASONS = re.compile(r"_?why_not|_load|_define")
SAY_WHY = "_backends"
CHECK = re.compile(
    r"\b(?:require|refuse|throw std::\w+)\((.*?)\);|\btext <<(.*?);\n", re.S
)  # both ways to say why
C_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


def template(node: ast.expr) -> str | None:
    """A message as it is written, or None for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
        return "".join(map(str, parts))
    return None


def of_python(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            if ast.unparse(node.exc.func) not in NO_ERRORS:
                values = node.exc.args[:1]
        elif (
            isinstance(node, ast.FunctionDef) and SAY_WHY in path.parts and REASONS.match(node.name)
        ):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Tuple):
                    values += inner.value.elts
                elif isinstance(inner, (ast.Return, ast.Assign)) and inner.value is not None:
                    values.append(inner.value)
        for value in values:
            text = template(value)
            if text is not None and len(text.replace(HOLE, " ").split()) > 1:
                yield text


def of_cpp(path: Path) -> Iterator[str]:
    for check in map("".join, CHECK.findall(path.read_text())):
        text, end = "", None
        for found in C_STRING.finditer(check):
            between = "" if end is None else check[end : found.start()].strip(", +<\n")
            text += (HOLE if between else "") + found[1]
            end = found.end()
        if end is None:
            continue
        lead = HOLE if text.startswith(" ") else ""  # a name, behind the condition
        yield lead + text + (HOLE if check[end:].strip(", +<)\n") else "")


def all_messages() -> set[str]:
    """Every one, on one line."""
    found: set[str] = set()
    for path in sorted((ROOT / "fastblur").rglob("*.py")):
        found |= set(of_python(path))
    for pattern in ("*.cpp", "*.h", "*.cu"):
        for path in sorted((ROOT / "csrc").rglob(pattern)):
            found |= set(of_cpp(path))
    return {re.sub(r"\s+", " ", re.sub(f"{HOLE}+", HOLE, text)).strip() for text in found}
