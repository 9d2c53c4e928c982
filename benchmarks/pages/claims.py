"""Sentences of the docs that state a speed or a size, made from the stored results.

``claims`` returns them by page. ``tests/docs/test_claims.py`` finds each on its page, and no other
such figure beside them: a new run that changes a figure fails there until the page says the new
one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..baselines import ONE_OPERATOR, OURS, TRITON
from ..instruction_counts import TOLERANCE
from ..timing import LARGEST_BUFFER
from ..workloads import GPU, HEADLINE, Workload
from .results import Row, by_rival, grouped, load, of_kind
from .tables import fastest_peer

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
LARGE_ON_GPU = [workload.layer for workload in GPU[:3]]
LARGE_ON_CPU = [workload.layer for workload in (*HEADLINE[:2], HEADLINE[-1])]


class Entry(NamedTuple):
    """One call of one layer, and everybody's time in it."""

    ours: Row
    everybody: list[Row]

    @property
    def of_copy(self) -> float:
        """How many times as long as the copy it takes."""
        return 1 / float(self.ours["fraction_of_limit"])

    def against(self, rival: Row) -> float:
        return float(rival["ms"] / self.ours["ms"])


class Measured:
    """The results beside one page."""

    def __init__(self, page: str) -> None:
        self.folder = FIGURES / page
        self.results = load(self.folder / "results.json")
        found = grouped(of_kind(self.results, "layer"), "label", "mode").values()
        self.entries = [Entry(by_rival(rows)[OURS], rows) for rows in found]

    def of(self, mode: str | None = None, **wanted: Iterable[str]) -> list[Entry]:
        """Entries of a mode, whose ours[key] is one of the values."""
        return [
            entry
            for entry in self.entries
            if mode in (None, entry.ours["mode"])
            and all(entry.ours[key] in values for key, values in wanted.items())
        ]

    def networks(self) -> list[str]:
        """Those of which every fused step keeps less than the plain network's."""
        kept: dict[str, list[bool]] = {}
        for (_, name), rows in grouped(of_kind(self.results, "model"), "label", "layer").items():
            by = by_rival(rows)
            less = by["fused"]["saved_bytes"] < by["plain"]["saved_bytes"]
            kept.setdefault(name, []).append(less)
        return [name for name, less in kept.items() if all(less)]

    def of_plain_steps(self) -> list[float]:
        """How many times as long a fused step takes as the plain network's."""
        steps = grouped(of_kind(self.results, "model"), "label", "layer").values()
        return [by["fused"]["ms"] / by["plain"]["ms"] for by in map(by_rival, steps)]


def span(values: Iterable[float], shown: Callable[[float], str]) -> str:
    """From the least to the largest, or the one that both are."""
    ordered = sorted(values)
    ends = dict.fromkeys(map(shown, (ordered[0], ordered[-1])))
    return " to ".join(ends)


WHOLE, TENTHS, HUNDREDTHS = "{:.0f}".format, "{:.1f}".format, "{:.2f}".format


def rough(value: float) -> str:
    """Two significant digits from one on."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def peers(entries: list[Entry]) -> list[float]:
    """How many times as long the fastest eager layer takes, where there is one."""
    found = [(entry, fastest_peer(entry.everybody, compiled=False)) for entry in entries]
    return [entry.against(peer) for entry, peer in found if peer is not None]


def triton(entries: list[Entry]) -> list[float]:
    """How many times as long Triton's kernels take."""
    found = [(entry, by_rival(entry.everybody).get(TRITON)) for entry in entries]
    return [entry.against(row) for entry, row in found if row is not None]


def copies(entries: list[Entry], shown: Callable[[float], str] = HUNDREDTHS) -> str:
    return span((entry.of_copy for entry in entries), shown)


def of_gpu() -> dict[str, list[str]]:
    """Sentences about the GPU."""
    measured = Measured("performance_gpu")
    sixteen = ("bfloat16", "float16")
    full = measured.of("full", layer=LARGE_ON_GPU)
    small = [entry for entry in measured.of("full") if entry not in full]
    parts = {
        dtypes[0]: copies(measured.of("full", layer=LARGE_ON_GPU, dtype=dtypes))
        for dtypes in (("float32",), sixteen)
    }
    compiled = [(entry, fastest_peer(entry.everybody, compiled=True)) for entry in full]
    compiled_times = sorted(entry.against(row) for entry, row in compiled if row is not None)
    alone = {mode: measured.of(mode, layer=LARGE_ON_GPU) for mode in ("forward", "backward")}
    quicker = sum(times < 1 for times in triton(measured.entries))
    return {
        "README.md": [
            f"take {copies(full)} times as long as a copy of their bytes, forward and backward "
            f"together, and the fastest other layer {span(peers(full), rough)} times as long as "
            "they do",
        ],
        "docs/performance_gpu.md": [
            f"take {parts['float32']} times as long as a copy of their bytes in float32, and "
            f"{parts['bfloat16']} times in 16 bits",
            "The fastest layer of another package or of plain PyTorch takes "
            f"{span(peers(full), rough)} times as long as fastblur, the fastest of the three "
            f"compiled formulations {' and '.join(map(rough, compiled_times))} times",
            *(
                f"{mode} alone takes {copies(entries)} times as long as the copy, and the fastest "
                f"peer {span(peers(entries), rough)} times as long as fastblur"
                for mode, entries in alone.items()
            ),
            f"is over in {span((1e3 * e.ours['ms'] for e in small), rough)} microseconds",
            f"{copies(small, rough)} times the copy, and {span(peers(small), WHOLE)} times as "
            "fast as the fastest peer",
            f"take {span(triton(measured.of('full')), rough)} times as long as the CUDA ones",
        ],
        "docs/triton.md": [
            f"faster in all but {quicker} of the {len(triton(measured.entries))} calls that were "
            "measured",
        ],
    }


def of_cpu() -> dict[str, list[str]]:
    """Sentences about the CPU."""
    measured = Measured("performance")
    float32 = measured.of("full", dtype=["float32"])
    large = [entry for entry in float32 if entry.ours["layer"] in LARGE_ON_CPU]
    far = HEADLINE[0]
    others = [entry for entry in large if entry.ours["label"] != str(far)]
    (farthest,) = (entry for entry in large if entry.ours["label"] == str(far))
    (blur,) = (
        entry
        for entry in large
        if (entry.ours["layer"], entry.ours["layout"]) == (HEADLINE[-1].layer, "NHWC")
    )
    blur_peer = fastest_peer(blur.everybody, compiled=False)
    assert blur_peer is not None
    return {
        "docs/performance.md": [
            f"takes {copies(others)} times the limit in the large layers of float32, and "
            f"{farthest.of_copy:.2f} times with a 3x3 max of contiguous maps",
            f"takes {blur_peer['ms'] / blur.ours['limit_ms']:.1f} times the limit in NHWC",
            *_in_cache(measured),
            *_small(measured, [entry for entry in float32 if entry not in large]),
            f"three times their size, or {LARGEST_BUFFER / 2**20:.0f} MiB if that is less",
            f"more than {100 * TOLERANCE:.0f} % more *or less*",
        ]
    }


def _in_cache(measured: Measured) -> list[str]:
    """What the kernels compute in cache, beside the copy of as many elements."""
    rows = json.loads((measured.folder / "roofline.json").read_text())["rows"]
    own = {
        (row["layer"], row["dtype"], row["layout"]): row["training forward"][0] + row["backward"][0]
        for row in rows
    }
    layers = {workload.layer: workload for workload in HEADLINE[:2]}

    def per_16(ms: float, workload: Workload) -> float:
        """Nanoseconds of each thread, of which as many as ran shared the elements."""
        n, c, h, w = workload.shape
        return 16e6 * ms * float(measured.results["run"]["threads"]) / (n * c * h * w)

    def both(dtypes: tuple[str, ...]) -> tuple[list[Entry], list[float]]:
        entries = measured.of("full", layer=layers, dtype=dtypes)
        return entries, [per_16(e.ours["limit_ms"], layers[e.ours["layer"]]) for e in entries]

    wide, wide_copy = both(("float32",))
    _, half_copy = both(("bfloat16", "float16"))
    bf16, bf16_copy = both(("bfloat16",))
    kernels = [per_16(e.ours["ms"], layers[e.ours["layer"]]) for e in wide]
    ratios = [
        own[e.ours["layer"].split(" ", 1)[1], e.ours["dtype"], e.ours["layout"]] / copy
        for e, copy in zip(bf16, bf16_copy, strict=True)
    ]
    return [
        f"compute for {span(own.values(), WHOLE)} of these nanoseconds in cache",
        f"{span((e.ours['limit_ms'] for e in wide), TENTHS)} ms, takes each of two threads "
        f"{span(wide_copy, WHOLE)} nanoseconds, the layers {span(kernels, WHOLE)}",
        f"With 16 bits the copy takes {span(half_copy, WHOLE)} nanoseconds",
        f"in cache, {span(ratios, TENTHS)} times as long as the copy takes with bfloat16",
    ]


def _small(measured: Measured, small: list[Entry]) -> list[str]:
    """What a call costs beside its work, and the small layers without that."""
    calls = {
        (row["rival"], row["cold"]): row["ms"]
        for row in of_kind(measured.results, "overhead")
        if row["mode"] == "full"
    }
    nothing = calls[OURS, True]
    less = {e.ours["label"]: (e.ours["ms"] - nothing) / e.ours["limit_ms"] for e in small}
    worst = str(HEADLINE[3])
    others = [times for label, times in less.items() if label != worst]
    limits: dict[str, list[float]] = {}
    for e in small:
        limits.setdefault(e.ours["layer"], []).append(e.ours["limit_ms"])
    shown = {workload: span(limits[workload.layer], HUNDREDTHS) for workload in HEADLINE[2:6]}
    return [
        f"with nothing to compute take {nothing:.2f} ms",
        f"With warm caches it is {calls[OURS, False]:.2f} ms",
        f"The copy takes {shown[HEADLINE[2]]} ms in the layers of 4 x 512 x 28 x 28, "
        f"{shown[HEADLINE[3]]} ms in those of 64 x 64 x 14 x 14 and {shown[HEADLINE[5]]} ms in "
        "those of 1 x 64 x 112 x 112",
        f"take {calls[ONE_OPERATOR, True] / nothing:.0%} of the {nothing:.2f} ms",
        f"Less these {nothing:.2f} ms, the small layers of float32 take {span(others, TENTHS)} "
        f"times the limit; but 64 x 64 x 14 x 14 contiguous takes {less[worst]:.1f} times",
    ]


def of_memory() -> dict[str, list[str]]:
    """Sentences about what is kept for backward."""
    measured = Measured("performance")
    shares = []
    for workload in (HEADLINE[1], HEADLINE[0]):  # max 2x2, max 3x3
        (row,) = (e.ours for e in measured.of("full") if e.ours["label"] == str(workload))
        shares.append(f"1/{row['input_bytes'] / row['saved_bytes']:.0f}")
    of_input = f"{' or '.join(shares)} of a float32 input"
    names = dict.fromkeys(measured.networks() + Measured("performance_gpu").networks())
    blurred = " and ".join(name.replace("net", "netblur") for name in names)
    on_cpu = span(measured.of_plain_steps(), HUNDREDTHS)
    on_gpu = span(Measured("performance_gpu").of_plain_steps(), HUNDREDTHS)
    price = f"takes longer: {on_cpu} times as long for {' and '.join(measured.networks())}"
    return {
        "README.md": [of_input, f"timm's {blurred}", price, f"{on_gpu} times for both"],
        "docs/how_it_works.md": [of_input],
    }


def claims() -> dict[str, list[str]]:
    """The sentences, by page."""
    found: dict[str, list[str]] = {}
    parts: list[dict[str, Any]] = [of_gpu(), of_cpu(), of_memory()]
    for part in parts:
        for page, sentences in part.items():
            found.setdefault(page, []).extend(sentences)
    return found
