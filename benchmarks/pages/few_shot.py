"""New intents from few examples, with a plain encoder and with one that many tasks have trained."""

from collections.abc import Mapping
from typing import Any

import fewshot_table as made
from fewshot_arms import ARMS, GOALS, PRIMARY, ROWS
from paired_bootstrap import Estimate

from pages.parts import MISSING, NOT_MEASURED, Content, Goal, Results, at_least, measured
from pages.plot_data import Dots, Panel, Point

GAINS: Mapping[str, float] = {"banking77_5": 1.0, "banking77_10": 0.5, "clinc150_5": 1.0, "clinc150_10": 0.7}
"""What the primary difference should reach in points, by row. Its interval should not hold zero either."""


def build(results: Results) -> Content:
    """Return the section of fewshot_table.py, the plots and the goals of the page."""
    content = Content()
    cells = results.get("fewshot")
    content.goals += goals(cells or {})
    if not cells:
        content.blocks.update(section=f"<!-- {made.MARK} -->\n{MISSING}\n<!-- /{made.MARK} -->", measured="")
        return content
    content.blocks.update(section=made.section(cells), measured=measured("fewshot", cells))
    content.plots.update(_plots(cells))
    gains = [(row, made.difference_of(cells, row, *PRIMARY)) for row in GAINS]
    told = [f"{ROWS[row].name} {_told(gain)}" for row, gain in gains if gain is not None]
    content.headline = f"`{PRIMARY[0]}` - `{PRIMARY[1]}`: {'; '.join(told)}" if told else NOT_MEASURED
    return content


def goals(cells: Mapping[str, Any]) -> list[Goal]:
    """Return the goals of the arms and of their primary difference, measured or not."""
    found = []
    for arm, wanted_by_row in GOALS.items():
        for row, wanted in wanted_by_row.items():
            what = f"{ROWS[row].name} examples an intent, {ARMS[arm].title}"
            estimate = made.accuracy_of(cells, row, arm)
            if estimate is None:
                found.append(Goal(what, f"at least {wanted:g} %"))
            else:
                shown = f"{estimate.mean:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
                found.append(at_least(what, wanted, estimate.mean, shown, " %"))
    first, second = PRIMARY
    for row, wanted in GAINS.items():
        what = f"{ROWS[row].name} examples an intent, `{first}` - `{second}`"
        told = f"at least +{wanted:g} points, interval above 0"
        gain = made.difference_of(cells, row, first, second)
        if gain is None:
            found.append(Goal(what, told))
        else:
            found.append(Goal(what, told, _told(gain), round(gain.mean, 2) >= wanted and gain.low > 0))
    return found


def _told(gain: Estimate) -> str:
    return f"{gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"


def _plots(cells: Mapping[str, Any]) -> dict[str, Dots]:
    """Return the plot of accuracies and that of the primary difference, as far as there are cells."""
    arms, panels = [], []
    for arm in ARMS:
        if any(made.accuracy_of(cells, row, arm) is not None for row in ROWS):
            arms.append(arm)
    for row, about in ROWS.items():
        points = []
        for arm in arms:
            estimate = made.accuracy_of(cells, row, arm)
            goal = GOALS.get(arm, {}).get(row)
            points.append(None if estimate is None else Point(estimate.mean, estimate.low, estimate.high, goal))
        if any(points):
            panels.append(Panel(f"{about.name}, % right", tuple(points)))
    plots = {}
    title = "Accuracy on test after few examples"
    interval = "95 % interval over seeds and test texts"
    labels = tuple(arm.replace("_", " ") for arm in arms)
    if panels:
        plots["accuracy"] = Dots("few_shot", title, labels, tuple(panels), interval)
    gains = [(about.name, made.difference_of(cells, row, *PRIMARY)) for row, about in ROWS.items()]
    known = [(name, gain) for name, gain in gains if gain is not None]
    if known:
        points = tuple(Point(gain.mean, gain.low, gain.high, _wanted(name)) for name, gain in known)
        names = tuple(name for name, _ in known)
        panel = Panel("points", points, line=0.0)
        title = f"Accuracy of `{PRIMARY[0]}` minus `{PRIMARY[1]}`, paired by seed and text".replace("`", "")
        plots["gain"] = Dots("few_shot_gain", title, names, (panel,), interval)
    return plots


def _wanted(name: str) -> float | None:
    """Return the goal of the difference in a row."""
    wanted = [gain for row, gain in GAINS.items() if ROWS[row].name == name]
    return wanted[0] if wanted else None
