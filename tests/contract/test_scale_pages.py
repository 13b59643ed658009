"""The pages about scale say what `palm-serve plan` computes, and their links lead somewhere. A failure prints the table as it should be."""

import re
from pathlib import Path

import pytest

from palm_serve.capacity.bench_figures import read_figures
from palm_serve.capacity.fleet import Demand, FleetPlan, plan_fleet

FOLDER = Path(__file__).parents[2] / "docs" / "how-to" / "scale"
RATES = (10, 1000, 100_000, 1_000_000)
PRICE = 0.04


@pytest.fixture(scope="module")
def plans() -> dict[int, FleetPlan]:
    """The plan of each rate."""
    figures = read_figures(FOLDER / "bench.json")
    return {rate: plan_fleet(figures, Demand(rate, 0.2, price=PRICE)) for rate in RATES}


def test_table_of_capacity_is_computed(plans: dict[int, FleetPlan]) -> None:
    rows = [
        "| calls/s | replicas | cores | memory, GiB | mean, ms | p99, ms | $ a month | $ a million calls | limits reached |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for rate, plan in plans.items():
        reached = [limit.name for limit in plan.limits if rate > limit.from_rate]
        cells = [
            *(f"{rate:,}", f"{plan.replicas:,}", f"{plan.cores:,.0f}", f"{plan.memory_gib:,.1f}"),
            *(f"{1000 * plan.mean_s:.1f}", f"{1000 * plan.p99_s:.1f}"),
            *(f"{plan.monthly_cost:,.0f}", f"{plan.cost_per_million:.3g}", ", ".join(reached) or "none"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    page = (FOLDER / "capacity.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- plan -->\n(.*?)\n<!-- /plan -->", page, re.DOTALL)
    assert table is not None
    wanted = "\n".join(rows)
    assert table[1] == wanted, f"the table of capacity.md is stale; it should be:\n{wanted}"


def test_table_of_the_index_is_computed(plans: dict[int, FleetPlan]) -> None:
    page = (FOLDER / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \| .* \| ([\d,]+) \| ([\d,]+) \$ \|", page, re.MULTILINE)
    assert rows == [(f"{rate:,}", f"{plan.replicas:,}", f"{plan.monthly_cost:,.0f}") for rate, plan in plans.items()]


def test_figures_of_the_pages_are_told_as_assumed() -> None:
    assert '"comment": "Assumed, not a measured sweep.' in (FOLDER / "bench.json").read_text(encoding="utf-8")
    assert "That file is no measured sweep." in (FOLDER / "capacity.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    for name, heading in links:
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), name
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
            assert heading in anchors, f"{name}#{heading}"
    files = re.findall(r"`((?:charts|benchmarks|tests)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    root = FOLDER.parents[2]
    assert [file for file in files if not (root / file).exists()] == []
