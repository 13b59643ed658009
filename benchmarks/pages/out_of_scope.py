"""Texts that a model refuses: sentences from outside its domain, and its own test split."""

from typing import Any

from quality_table import clinc_rows, demo_rows

from pages.parts import MISSING, Content, Goal, Results, measured, share, table, wilson
from pages.plot_data import Dots, Panel, Point

_OUTSIDE, _INSIDE = 85.0, 2.0
_ROWS = (
    ("outside", "sentences from outside its domain that are refused", f"at least {_OUTSIDE:g} %"),
    ("inside", "sentences of its own test split that are refused", f"at most {_INSIDE:g} %"),
)


def build(results: Results) -> Content:
    """Return the tables, the plot and the goals."""
    content = Content()
    found, cells = results.get("out_of_scope"), results.get("quality")
    if found is None:
        content.blocks.update(refused=MISSING, reasons="", wrong="", measured="")
    else:
        _demo(content, found)
    demo = [cell for cell in (cells or {}).values() if cell["task"] == "demo"]
    if demo:
        content.blocks["seeds"] = f"{table(demo_rows(demo))}\n\n{measured('quality', demo)}"
    else:
        content.blocks["seeds"] = MISSING
    clinc = [cell for cell in (cells or {}).values() if cell["task"] == "clinc150"]
    if clinc:
        content.blocks["clinc"] = f"{table(clinc_rows(clinc))}\n\n{measured('quality', clinc)}"
    else:
        content.blocks["clinc"] = MISSING
    return content


def _demo(content: Content, found: Any) -> None:
    rows = [("demo model", "texts", "refused, % (95 % interval)", "goal", "verdict")]
    panels = []
    for name, title, wanted in _ROWS:
        cell = found[name]
        count, percent = cell["texts"], cell["refused"]
        refused = count - cell["reasons"].get("none", 0)
        met = percent >= _OUTSIDE if name == "outside" else percent <= _INSIDE
        shown = share(refused, count)
        content.goals.append(Goal(f"demo model: {title}", wanted, shown, met))
        rows.append((title, str(count), shown, wanted, content.goals[-1].verdict))
        goal = _OUTSIDE if name == "outside" else _INSIDE
        panels.append((title, Point(percent, *wilson(refused, count), goal)))
    reasons = [("fallback reason", *(name for name, *_ in _ROWS))]
    names = dict.fromkeys(reason for name, *_ in _ROWS for reason in found[name]["reasons"])
    for reason in names:
        reasons.append((f"`{reason}`", *(str(found[name]["reasons"].get(reason, 0)) for name, *_ in _ROWS)))
    wrong = [f"- {name}: {'; '.join(found[name]['wrong']) or 'none'}" for name, *_ in _ROWS]
    content.blocks.update(refused=table(rows), reasons=table(reasons), wrong="\n".join(wrong))
    content.blocks["measured"] = measured("out_of_scope", found)
    labels = ("from outside its domain", "of its own test split")
    panel = Panel("refused, %", tuple(point for _, point in panels))
    what = "Sentences that the demo model refuses"
    content.plots["refused"] = Dots("out_of_scope", what, labels, (panel,), "95 % interval (Wilson)")
    content.headline = f"outside its domain {share(_refused(found['outside']), found['outside']['texts'])} % refused"


def _refused(cell: Any) -> int:
    count: int = cell["texts"] - cell["reasons"].get("none", 0)
    return count
