"""Reports about changes of a model, for programs and for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from .._geometry import Geometry


class Row(Protocol):
    """A layer that could change."""

    @property
    def outcome(self) -> str | None:
        """What it became; None if it was left alone."""


RowType = TypeVar("RowType", bound=Row)


@dataclass(frozen=True)
class Report(Generic[RowType]):
    """One row per layer, changed or left alone."""

    rows: tuple[RowType, ...]

    @property
    def changed(self) -> tuple[RowType, ...]:
        """The rows of the layers that changed."""
        return tuple(row for row in self.rows if row.outcome is not None)

    @property
    def left(self) -> tuple[RowType, ...]:
        """The rows of the layers that were left alone."""
        return tuple(row for row in self.rows if row.outcome is None)


@dataclass(frozen=True)
class FuseRow:
    """One layer that blurs.

    Attributes:
        path: path of the layer in the model.
        what: classes of the modules that the fused layer combines, in the order of their calls.
        fused: what the fused layer does, in words; None if the layer was left alone.
        note: why it was left alone, or what could not join it and why.
        joined: paths of the modules in front that joined it.
    """

    path: str
    what: tuple[str, ...]
    fused: str | None
    note: str = ""
    joined: tuple[str, ...] = ()

    @property
    def outcome(self) -> str | None:
        """What the fused layer does, in words; None if the layer was left alone."""
        return self.fused

    @property
    def in_words(self) -> str:
        """The classes, with the paths of those that joined the last one."""
        places = [f" ({path})" for path in self.joined] + [""]
        return " + ".join(f"{name}{place}" for name, place in zip(self.what, places, strict=True))


@dataclass(frozen=True)
class FuseReport(Report[FuseRow]):
    """The result of :func:`fastblur.fuse_`, in the order of the model; ``str()`` is a table.

    Attributes:
        rows: one per recognised layer that was not already fused.
        already: number of layers that were already fused.
    """

    rows: tuple[FuseRow, ...]
    already: int = 0

    @property
    def fused(self) -> tuple[FuseRow, ...]:
        """The rows of the layers that this call fused; the same as ``changed``."""
        return self.changed

    def __str__(self) -> str:
        if not self.rows and self.already:
            return f"nothing to fuse; layers already fused: {self.already}"
        if not self.rows:
            return (
                "nothing to fuse: no layer that blurs and subsamples was recognised "
                "(docs/models.md lists the layers that are, and explains how to use your own)"
            )
        header = ("where", "what", "fused", "note")
        cells = [
            (row.path or "(the model)", row.in_words, row.fused or "no", row.note)
            for row in self.rows
        ]
        return f"{table(header, cells)}\n{len(self.fused)} of {len(self.rows)} fused"


@dataclass(frozen=True)
class UnfuseReport:
    """The result of :func:`fastblur.unfuse_`; ``str()`` gives a readable report.

    Attributes:
        restored: paths of the restored modules, in the order of the model.
        apart: paths of the modules that again call their submodules one by one; "" is the model.
    """

    restored: tuple[str, ...]
    apart: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.restored and not self.apart:
            return "nothing to unfuse: the model has no layer that fuse_ created"
        back = f"restored: {', '.join(self.restored) or 'none'}"
        if not self.apart:
            return back
        paths = ", ".join(path or "the model" for path in self.apart)
        return f"{back}; separate calls again in: {paths}"


@dataclass(frozen=True)
class UnantialiasReport:
    """What :func:`fastblur.unantialias_` took out; ``str()`` is for people.

    Attributes:
        removed: the paths of the blurs, and of modules with their blurs, in the model of before.
        renamed: for each key of the state dict before that has another name now, the new one.
    """

    removed: tuple[str, ...]
    renamed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.removed:
            return "nothing to take out: the model holds no blur that antialias_ made"
        return f"taken out: {', '.join(self.removed)}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Pads columns to their widest entry, except the last."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def describe(geometry: Geometry) -> str:
    """A layer of this geometry in words: relu, max 3, blur 4x4 reflect, stride 2."""
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
