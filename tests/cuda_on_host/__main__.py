"""Runs cases on the CPU, and compares them with the unfused chain.

``python -m tests.cuda_on_host --case k2x2-s2x2 --dtype float16 --layout channels_last``
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from testing.cases import CASES, Case, fill
from testing.judge import judge_with_gradient, scale

from . import ORDERS, VARIANTS, HostCuda, HostCudaError, Job, Options

KINDS = ("normal", "ties", "nan", "inf")
DTYPES = ("float32", "float64", "float16", "bfloat16")
LAYOUTS = ("contiguous", "channels_last")
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 4e-3, "bfloat16": 3e-2}


def worst(ours: Tensor, theirs: Tensor) -> tuple[float, list[int]]:
    """The largest difference and where it is; infinite where only one is a NaN."""
    a, b = ours.double(), theirs.double()
    if a.numel() == 0:
        return 0.0, []
    off = (a - b).abs()
    off[(a == b) | (a.isnan() & b.isnan())] = 0
    off[off.isnan()] = torch.inf
    where = torch.unravel_index(off.argmax(), off.shape)
    return off.max().item(), [int(i) for i in where]


def check(host: HostCuda, case: Case, kind: str, dtype: str, layout: str, options: Options) -> str:
    """What is wrong, or nothing."""
    n, c, h, w = case.shape
    x = fill(case.shape, kind, getattr(torch, dtype))
    dy = fill((n, c, *case.geometry().output_size(h, w)), "normal", x.dtype, seed=1)
    job = Job("all", case.geometry(), case.shape, x.dtype, layout == "channels_last", x, dy)
    (result,) = host.run([Job(**{**vars(job), "options": options})])
    wide = x.double() if x.element_size() == 2 else x
    y, dx = judge_with_gradient(wide, dy.to(wide.dtype), *case.chain())
    text = f"cudaError_t {result.error} " if result.error else ""
    for name, want in {"y": y, "y_without_codes": y, "applied": y, "dx": dx}.items():
        error, where = worst(result[name], want)
        size = max(scale(dy if name == "dx" else x, case.taps_h, case.taps_w), 1.0)
        if error > TOLERANCE[dtype] * size:
            ours, theirs = (t[tuple(where)].item() for t in (result[name], want))
            text += f"{name}{where} is {ours} and should be {theirs} "
    return text + (f"({result.specialisation})" if text else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="", help="a part of the case's name")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--layout", choices=LAYOUTS)
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="plain")
    parser.add_argument("--order", choices=ORDERS, default="forward")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--multiprocessors", type=int, default=132)
    parser.add_argument("--trace", action="store_true", help="check every access")
    parser.add_argument("-D", dest="defines", action="append", default=[], help="NAME=value")
    parser.add_argument("--all", action="store_true", help="go on after the first failure")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    host = HostCuda(args.variant, defines=[f"-D{d}" for d in args.defines])
    print(f"built in {time.monotonic() - start:.1f} s: {host.runner}")
    start = time.monotonic()
    options = Options(
        order=args.order,
        trace=args.trace,
        offset=args.offset,
        multiprocessors=args.multiprocessors,
    )
    done = failed = 0
    for case in CASES:
        if args.case not in str(case):
            continue
        for layout in [args.layout] if args.layout else LAYOUTS:
            for dtype in [args.dtype] if args.dtype else DTYPES:
                for kind in [args.kind] if args.kind else KINDS:
                    try:
                        wrong = check(host, case, kind, dtype, layout, options)
                    except HostCudaError as error:
                        wrong = str(error)
                    done += 1
                    if wrong:
                        failed += 1
                        print(f"FAILED {case} {layout} {dtype} {kind}: {wrong}")
                    if wrong and not args.all:
                        raise SystemExit(1)
    print(f"{done} runs, {failed} failed, {time.monotonic() - start:.1f} s")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
