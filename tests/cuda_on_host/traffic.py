"""Bytes that the CUDA kernels move, counted access by access.

``python -m tests.cuda_on_host.traffic --shape 2,16,112,112 --dtype float16 --layout channels_last``

What it says of DRAM is exact if every line is fetched once (an endless L2), and a bound if the
blocks share nothing (no L2): the truth lies between `ideal` and `no L2`.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fastblur._geometry import Geometry
from testing.cases import Case, fill, zhang

from ..kernels.test_values import gradient_for
from . import HostCuda, Job, Options

SECTOR = 32
OPERATORS = ("forward", "forward_without_codes", "backward", "apply")


@dataclass(frozen=True)
class Row:
    """One operator on one shape.

    Attributes:
        minimum: bytes that must be moved: each input once, each output once, codes without gaps.
        once: bytes in the sectors that a launch touches, over `minimum`.
        each_block: the same if blocks share nothing, over `minimum`.
        asked: bytes that the threads ask for, over `minimum`.
        loads: share of the bytes loaded, by the width of the access.
        stores: the same of the bytes stored.
        blocks: of all launches.
        threads: in a block.
    """

    name: str
    kernel: str
    minimum: int
    once: float
    each_block: float
    asked: float
    loads: dict[int, float]
    stores: dict[int, float]
    blocks: int
    threads: int

    @property
    def reread(self) -> float:
        """How often a sector is moved if blocks share nothing."""
        return self.each_block / self.once

    def __str__(self) -> str:
        def shares(of: dict[int, float]) -> str:
            return " ".join(f"{width}:{share:.0%}" for width, share in of.items() if share)

        return (
            f"{self.name:<62} {self.kernel:<12} {self.minimum / 1e6:9.3f} {self.once:6.3f} "
            f"{self.each_block:6.3f} {self.asked:6.3f}  {self.blocks:>6}x{self.threads:<5}"
            f"{shares(self.loads):<24} {shares(self.stores)}"
        )


HEADER = (
    f"{'':<62} {'kernel':<12} {'ideal MB':>9} {'once':>6} {'no L2':>6} {'asked':>6}  "
    f"{'blocks':>6} {'':<5}{'loads by bytes':<24} stores"
)


def minimum_bytes(op: str, geometry: Geometry, size: tuple[int, ...], element: int) -> int:
    n, c, h, w = size
    out, pooled = geometry.output_size(h, w), geometry.pooled_size(h, w)
    codes = 0 if op.endswith("without_codes") else pooled[0] * pooled[1] * geometry.code_bits / 8
    return int(n * c * (element * (h * w + out[0] * out[1]) + codes))


def _shares(launches: list[dict[str, Any]], kind: str) -> dict[int, float]:
    total: dict[int, int] = {}
    for launch in launches:
        for width, count in launch[kind].items():
            total[int(width)] = total.get(int(width), 0) + int(width) * count
    return {width: size / max(sum(total.values()), 1) for width, size in total.items()}


def measure(
    host: HostCuda, case: Case, dtype: torch.dtype, channels_last: bool, multiprocessors: int = 132
) -> Iterator[Row]:
    """A row for each operator."""
    geometry = case.geometry()
    x, dy = fill(case.shape, "normal", dtype), gradient_for(case, dtype)
    options = Options(trace=True, multiprocessors=multiprocessors)
    job = Job("all", geometry, case.shape, dtype, channels_last, x, dy, options=options)
    (result,) = host.run([job])
    layout = "channels_last" if channels_last else "contiguous"
    for op in OPERATORS:
        launches = result.reports[op]["launches"]
        minimum = minimum_bytes(op, geometry, case.shape, x.element_size())

        def sectors(which: str, launches: list[dict[str, Any]] = launches) -> int:
            return sum(t["sectors"][which] for launch in launches for t in launch["traffic"])

        def asked(launches: list[dict[str, Any]] = launches) -> int:
            return sum(
                int(width) * count
                for launch in launches
                for kind in ("loads", "stores")
                for width, count in launch[kind].items()
            )

        k, f = geometry.kernel_size[0], len(geometry.taps_h)
        kind = f"k{k} f{f} {'x'.join(map(str, case.shape))} {str(dtype)[6:]} {layout}"
        yield Row(
            name=f"{op} {kind}",
            kernel=result.specialisation,
            minimum=minimum,
            once=SECTOR * sectors("launch") / minimum,
            each_block=SECTOR * sectors("blocks") / minimum,
            asked=asked() / minimum,
            loads=_shares(launches, "loads"),
            stores=_shares(launches, "stores"),
            blocks=sum(a["grid"][0] * a["grid"][1] * a["grid"][2] for a in launches),
            threads=max((a["block"][0] * a["block"][1] for a in launches), default=0),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", action="append", help="N,C,H,W; may be given several times")
    parser.add_argument("--dtype", action="append", help="may be given several times")
    parser.add_argument("--layout", choices=("contiguous", "channels_last"))
    parser.add_argument("--multiprocessors", type=int, default=132)
    args = parser.parse_args()
    torch.set_num_threads(1)
    host = HostCuda("plain")
    shapes = [tuple(map(int, s.split(","))) for s in args.shape or ["2,16,112,112"]]
    layouts = [args.layout] if args.layout else ["contiguous", "channels_last"]
    print(HEADER)
    for shape in shapes:
        for pool, taps, pad in ((1, 3, 0), (2, 4, 0), (3, 3, 1)):
            case = zhang(pool, taps, pad=(pad, pad), shape=shape)
            for dtype in args.dtype or ["float32", "float16"]:
                for layout in layouts:
                    last = layout == "channels_last"
                    for row in measure(
                        host, case, getattr(torch, dtype), last, args.multiprocessors
                    ):
                        print(row)


if __name__ == "__main__":
    main()
