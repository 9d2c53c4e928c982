"""What a change of a model found and did, for programs and for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .._geometry import Geometry


class Row(Protocol):
    """One layer that might have been changed."""

    @property
    def outcome(self) -> str | None:
        """What became of it; None where it was left alone."""


RowType = TypeVar("RowType", bound=Row)


@dataclass(frozen=True)
class Report(Generic[RowType]):
    """A row for each layer, of two kinds."""

    rows: tuple[RowType, ...]

    @property
    def changed(self) -> tuple[RowType, ...]:
        """The rows of layers that were changed."""
        return tuple(row for row in self.rows if row.outcome is not None)

    @property
    def left(self) -> tuple[RowType, ...]:
        """The rows of layers that were left alone."""
        return tuple(row for row in self.rows if row.outcome is None)


@dataclass(frozen=True)
class FuseRow:
    """One layer that blurs.

    Attributes:
        path: of the layer in the model.
        what: the classes of the modules that it takes in, in the order in which they ran.
        fused: what the fused layer does; None where the layer was left alone.
        note: why it was left alone, or what could not join it and why.
        joined: the paths of the modules in front that joined it.
    """

    path: str
    what: tuple[str, ...]
    fused: str | None
    note: str = ""
    joined: tuple[str, ...] = ()

    @property
    def outcome(self) -> str | None:
        """What the fused layer does; None where the layer was left alone."""
        return self.fused

    @property
    def in_words(self) -> str:
        """The classes, and where those are that joined the last one."""
        places = [f" ({path})" for path in self.joined] + [""]
        return " + ".join(f"{name}{place}" for name, place in zip(self.what, places, strict=True))


@dataclass(frozen=True)
class FuseReport(Report[FuseRow]):
    """What :func:`fastblur.fuse_` found, in the order of the model; ``str()`` is a table.

    Attributes:
        rows: one for each layer that was not fused.
        already: how many were fused before.
    """

    rows: tuple[FuseRow, ...]
    already: int = 0

    @property
    def fused(self) -> tuple[FuseRow, ...]:
        """The rows of layers that are fused now, which are those that were changed."""
        return self.changed

    def __str__(self) -> str:
        if not self.rows and self.already:
            return f"nothing to fuse; layers that are fused already: {self.already}"
        if not self.rows:
            return (
                "nothing to fuse: no layer that blurs and subsamples was recognised "
                "(docs/models.md has those that are, and what to do about your own)"
            )
        header = ("where", "what", "fused", "note")
        cells = [
            (row.path or "(the model)", row.in_words, row.fused or "no", row.note)
            for row in self.rows
        ]
        return f"{table(header, cells)}\n{len(self.fused)} of {len(self.rows)} fused"


@dataclass(frozen=True)
class UnfuseReport:
    """What :func:`fastblur.unfuse_` put back; ``str()`` is for people.

    Attributes:
        restored: the paths of the modules that are back, in the order of the model.
        apart: the paths of the modules that call those in them one by one again; "" is the model.
    """

    restored: tuple[str, ...]
    apart: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.restored and not self.apart:
            return "nothing to unfuse: the model holds no layer that fuse_ made"
        back = f"back where they were: {', '.join(self.restored) or 'none'}"
        if not self.apart:
            return back
        paths = ", ".join(path or "the model" for path in self.apart)
        return f"{back}; calls one by one again in: {paths}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, the last one as it comes."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def describe(geometry: Geometry) -> str:
    """What a layer of this geometry does, in a few words: relu, max 3x3, blur 4x4 reflect, / 2."""
    g = geometry
    parts = ["relu"] if g.relu else []
    if g.kernel_size != (1, 1):
        parts.append(f"max {_size(g.kernel_size)}")
        if g.padding != (0, 0):
            parts[-1] += f" padding {_size(g.padding)}"
    parts.append(f"blur {len(g.taps_h)}x{len(g.taps_w)} {g.padding_mode}")
    return ", ".join(parts) + f", stride {_size(g.stride)}"


def _size(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"
