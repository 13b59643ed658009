"""How many labels that were made wrong `palm-train health` lists first."""

from typing import Any

from pages.parts import MISSING, Content, Goal, Results, at_most, goals_table, measured, share, table, wilson
from pages.plot_data import Dots, Panel, Point

_SETS = {"banking77": "BANKING77, intents", "snips": "SNIPS, spans"}
_ORDERS = {"health": "`palm-train health`", "cleanlab": "cleanlab, called directly"}

_PAGE = (("made_s", "made in, s", 90.0), ("opened_s", "opened in Chromium in, s", 2.0))
"""Key, title, and the goal, at most."""


def build(results: Results) -> Content:
    """Return the table, the plot and the goals."""
    content = Content()
    found = results.get("health")
    if found is None:
        content.blocks.update(precision=MISSING, goals="", facts="", measured="")
        return content
    sets = {name: title for name, title in _SETS.items() if name in found}
    rows = [("labels", "wrong", "order", "wrong ones among the first, % (95 % interval)", "labels listed")]
    panels = []
    for name, title in sets.items():
        cell = found[name]
        points = []
        for order, shown in _ORDERS.items():
            if order in cell:
                hits, listed = _hits(cell, order), str(cell[order]["listed"])
                rows.append(
                    (f"{title}: {cell['labels']}", str(cell["wrong"]), shown, share(hits, cell["wrong"]), listed)
                )
                points.append(Point(100 * hits / cell["wrong"], *wilson(hits, cell["wrong"])))
            else:
                points.append(None)
        rows.append((f"{title}: {cell['labels']}", str(cell["wrong"]), "random", f"{100 * cell['random']:.1f}", ""))
        panels.append(Panel(f"{title}, %", tuple(points), line=100 * cell["random"]))
        if "cleanlab" in cell:
            wanted = f"at least cleanlab's {100 * cell['cleanlab']['precision_at_k']:.1f} %"
            met = cell["health"]["precision_at_k"] >= cell["cleanlab"]["precision_at_k"]
            content.goals.append(Goal(f"{title}: wrong labels among the first", wanted, _percent(cell), met))
    page = found.get("page", {})
    for key, what, wanted in _PAGE:
        if key in page:
            what = f"the page of {page['rows']:,} rows: {what}"
            content.goals.append(at_most(what, wanted, page[key], f"{page[key]:g}"))
    content.blocks.update(
        precision=table(rows, 3), goals=goals_table(content.goals), measured=measured("health", found)
    )
    limit = found.get("rows_limit")
    facts = (
        f"Seed: {found['seed']}. Share of wrong labels: {100 * found['share']:g} %. Rows of each set: {limit or 'all'}."
    )
    content.blocks["facts"] = f"{facts} Results for all rows are still to be measured." if limit else facts
    labels = tuple(shown.replace("`", "") for shown in _ORDERS.values())
    title = "Wrong labels among the first of the list (dashed: a random order)"
    content.plots["precision"] = Dots("data_health", title, labels, tuple(panels), "95 % interval (Wilson)")
    content.headline = "; ".join(f"{title}: {_percent(found[name])} found first" for name, title in sets.items())
    return content


def _hits(cell: Any, order: str) -> int:
    """Return how many of the first labels of an order are wrong ones."""
    return round(cell[order]["precision_at_k"] * cell["wrong"])


def _percent(cell: Any) -> str:
    return f"{100 * cell['health']['precision_at_k']:.1f} %"
