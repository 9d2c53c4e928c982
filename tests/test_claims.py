"""Figures of speed and memory in the documents' prose are those of the stored results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if not (ROOT / "benchmarks").exists():
    pytest.skip("runs from a source tree only", allow_module_level=True)
pytest.importorskip("rich", reason="the tables are written with it")

from benchmarks.claims import claims  # noqa: E402

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
CLAIMS = claims()
NUMBER = r"\d[\d.]*(?:/\d+)?"
FIGURE = re.compile(
    rf"(?:{NUMBER} (?:to|and|or) )?{NUMBER} ?(?:times|%|[mnµ]s\b|[MG]i?B\b|micro|nano|milli)"
    rf"|(?:{NUMBER} (?:to|and|or) )?1/\d+"
)
# What is chosen or derived and not measured, and what another test holds to a stored baseline.
CHOSEN = {
    "docs/cuda.md": [],
    "docs/performance.md": [],
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
