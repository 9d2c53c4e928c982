"""Figures of speed and memory in the documents' prose are those of the stored results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").exists():
    pytest.skip("runs from a source tree only", allow_module_level=True)
pytest.importorskip("rich", reason="the tables are written with it")

from benchmarks.pages import tables  # noqa: E402
from benchmarks.pages.claims import claims  # noqa: E402
from benchmarks.pages.results import load  # noqa: E402
from benchmarks.report import fill, filled  # noqa: E402

ELSEWHERE = {"science.md"}  # its figures are held to its tables by tests/docs/test_figures.py
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md") if p.name not in ELSEWHERE),
]
CLAIMS = claims()
NUMBER = r"\d[\d.]*(?:/\d+)?"
FIGURE = re.compile(
    rf"(?:{NUMBER} (?:to|and|or) )?{NUMBER} ?(?:times|%|[mnµ]s\b|[MG]i?B\b|micro|nano|milli)"
    rf"|(?:{NUMBER} (?:to|and|or) )?1/\d+"
)
# What is chosen or derived and not measured, and what another test holds to a stored baseline.
CHOSEN = {
    "docs/cuda.md": [
        "That is 1/16, 1/8 and 1/32 of a float32 input",  # bits of a code over bits of an element
        "a quarter of y, 1/4 byte of codes",
        "the instruction count of every specialisation within 2 % of",  # test_cuda_budgets.py
        "a second loop of 1.1 to 1.7 times as many instructions",  # the same
    ],
    "docs/how_it_works.md": [
        "A $dx$ of 2 MiB or more",
        "A channels_last $y$ of 4 MiB or more",
        "counts 1.8 to 2 times as many instructions",  # tests/aarch64/test_aarch64.py
    ],
    "docs/volumes.md": [  # bytes of the tensors that calls pass on
        "read and write 3.6 times the input in forward",
        "would move 1.1 times",
        "moves 1.25 times the input",
    ],
    "docs/triton.md": [
        "1/16 of a float32 x for max 2 and 1/8 for max 3",
        # tests/gpu/test_triton_budgets.py
        "Each count is within 1.5 times the CUDA kernel's, but for one of 1.52 times",
    ],
}


def prose(page: str) -> str:
    """On one line, without code, tables and generated parts."""
    text = (ROOT / page).read_text()
    for taken in (
        r"<!-- [\w./]+: begin -->.*?<!-- [\w./]+: end -->",
        r"^```.*?^```",
        r"`[^`]*`",
        r"^\|[^\n]*",
    ):
        text = re.sub(taken, " ", text, flags=re.DOTALL | re.MULTILINE)
    return " ".join(text.split())


def whole(page: str) -> str:
    return " ".join((ROOT / page).read_text().split())


@pytest.mark.parametrize(
    ("page", "claim"), [(page, claim) for page, found in CLAIMS.items() for claim in found]
)
def test_claim_is_what_was_measured(page: str, claim: str) -> None:
    assert claim in whole(page)


@pytest.mark.parametrize("page", [page for page in PAGES if not page.endswith("_tables.md")])
def test_no_other_figure(page: str) -> None:
    text = prose(page)
    for known in (*CLAIMS.get(page, []), *CHOSEN.get(page, [])):
        text = text.replace(known, " ")
    assert FIGURE.findall(text) == []


def test_table_of_volumes_is_what_was_measured() -> None:
    page = ROOT / "docs" / "volumes.md"
    results = load(page.parent / "figures" / "volumes" / "results.json")
    assert results["run"]["command"] in whole("docs/volumes.md")
    text = page.read_text()
    assert fill(text, tables.volumes(results["rows"]), "benchmarks.volumes") == text


def test_table_of_upsampling_is_what_was_measured() -> None:
    page = ROOT / "docs" / "upsampling.md"
    results = load(page.parent / "figures" / "upsampling" / "results.json")
    assert filled(results, page) == page.read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_table_is_what_was_measured(page: str) -> None:
    """Each row's figures stand in one row of the tables that were generated."""
    measured = [
        line
        for name in ("performance_tables.md", "performance_gpu_tables.md")
        for line in (ROOT / "docs" / name).read_text().splitlines()
        if " full " in line
    ]
    text = (ROOT / page).read_text().replace("\N{MULTIPLICATION SIGN}", "x")
    rows = re.findall(r"^\| (\d+x\d.*) \|$", text, re.MULTILINE)
    assert len(rows) == 4
    for row in rows:
        workload, device, *cells = row.split(" | ")
        size, pool, taps, *kind = workload.split(", ")
        names = [f"{size} ", pool.replace(" ", ""), f"f{taps[0]} ", *kind]
        figures = set(re.findall(r"[\d.]+(?= ms)|[\d.]+(?=x\))", " ".join(cells)))
        # Medians, ratios and limits, and not the quartiles beside them.
        found = [
            line
            for line in measured
            if all(name in line for name in names)
            and figures <= set(re.findall(r"[\d.]+(?= \[| times| +\|)", line))
        ]
        assert len(found) == 1, (device, names, figures)
