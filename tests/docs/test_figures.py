"""The pictures and the tables of docs/science.md come out of examples/figures.py alone."""

from __future__ import annotations

import importlib
import json
import re
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE, FIGURES = ROOT / "docs" / "science.md", ROOT / "docs" / "figures"
pytestmark = pytest.mark.skipif(
    not (ROOT / "examples").exists(), reason="runs from a source tree only"
)


@pytest.fixture
def page_of() -> ModuleType:
    for name in ("matplotlib", "rich"):
        pytest.importorskip(name, reason="the script needs it")
    return importlib.import_module("examples.science.page")


@pytest.fixture
def data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIGURES / "science.json").read_text())
    return found


def test_the_page_says_what_was_measured(page_of: ModuleType, data: dict[str, Any]) -> None:
    """No figure of a table was typed by hand or is left over from another run."""
    page = PAGE.read_text()
    assert set(page_of.generated(page)) == set(page_of.PARTS)
    assert page_of.fill(page, data) == page


def test_all_networks_are_there(page_of: ModuleType, data: dict[str, Any]) -> None:
    kinds = [(n["network"], n["pooling"], n["shifts"], n["seed"]) for n in data["networks"]]
    seeds = data["run"]["seeds"]
    assert len(seeds) >= 3
    assert len(set(kinds)) == len(kinds) == 2 * len(seeds) * len(list(page_of.kinds()))


def test_figures_in_the_text_stand_in_the_tables(page_of: ModuleType) -> None:
    """A figure with a decimal point that the text names is one of a table's means."""
    page = PAGE.read_text()
    tables = "".join(page_of.generated(page).values())
    means = set(re.findall(r"(?<=\| )[\d.,]+(?= )", tables))
    text = page_of.PART.sub("", page).partition("## Published results")[0]
    named = re.findall(r"\d+\.\d+", re.sub(r"\(http[^)]*\)", "", text))
    assert len(named) >= 10
    assert set(named) <= means, sorted(set(named) - means)


def test_the_text_states_the_protocol_of_the_run(data: dict[str, Any]) -> None:
    text, run, timing = " ".join(PAGE.read_text().split()), data["run"], data["cost"]["timing"]
    for words in (
        f"shifts of up to {run['shift']} pixels along each axis, one pair for each of "
        f"{run['shifted_images']} test images",
        f"over {2 * run['shift'] + 1} diagonal shifts, averaged over {run['curves']} test images",
        f"in each of {timing['rounds']} rounds, every pooling runs {timing['steps']} steps",
        f"a white canvas of {run['canvas']} pixels",
        f"similarity within {run['near']} pixels of the anchor",
        f"the middle row of {run['curves']} test images",
    ):
        assert words in text
    assert run["pairs"] == 1


def test_pictures_are_small_and_all_shown() -> None:
    pictures = sorted(path.name for path in FIGURES.glob("*.png"))
    assert pictures == ["consistency.png", "signal.png", "similarity.png", "stability.png"]
    for name in pictures:
        assert (FIGURES / name).stat().st_size < 150_000
        assert f"(figures/{name})" in PAGE.read_text()


def test_table_by_hand(page_of: ModuleType, data: dict[str, Any]) -> None:
    scalars = ("accuracy", "consistency", "swing", "local", "global", "global_corner")
    networks = [
        dict(network=network, pooling=pooling, shifts=shifts, seed=seed)
        | dict.fromkeys(scalars, 0.25)
        | {"accuracy": 0.5 + 0.25 * shifts + 0.1 * seed}
        for network, pooling in page_of.kinds()
        for shifts in (False, True)
        for seed in range(2)
    ]
    spent = [
        dict(network=network, pooling=pooling, saved_bytes=1_500_000, peak_bytes=2_000_000)
        | {"speeds": [1000.0, 2000.0, 3000.0]}
        for network, pooling in page_of.kinds()
    ]
    table = page_of.results(data | {"networks": networks, "cost": {"rows": spent}}).splitlines()
    assert len(table) == 2 + len(spent)
    assert table[2] == (
        "| ResNet | max | 55.0 ± 7.1 | 80.0 ± 7.1 | 25.0 ± 0.0 | 25.0 ± 0.0 | 0.250 ± 0.000 "
        "| 0.250 ± 0.000 | 2,000 ± 1,000 | 1.5 | 2.0 |"
    )


def test_shown_curves_are_of_the_networks(data: dict[str, Any]) -> None:
    """The photographs of the stability picture follow the rule that the page states."""
    swings = [max(shown["max"]) - min(shown["max"]) for shown in data["examples"]]
    middle = data["axes"]["shifts"].index(0)
    assert len({shown["class"] for shown in data["examples"]}) == len(swings) == 4
    assert swings == sorted(swings, reverse=True)
    assert all(
        shown[name][middle] > 0.1 for shown in data["examples"] for name in ("max", "blur 4")
    )


def test_speeds_are_medians_of_many_rounds(page_of: ModuleType, data: dict[str, Any]) -> None:
    cost, timing = data["cost"], data["cost"]["timing"]
    assert timing["rounds"] >= 9
    for row in cost["rows"]:
        assert len(row["speeds"]) == timing["rounds"]
        assert f"| {statistics.median(row['speeds']):,.0f} ± " in PAGE.read_text()
