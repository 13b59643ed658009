"""Quality: intents and slots, several corpora in one model, further tasks, and answers in context."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import context
import quality_table as made
import tasks_table
from common import mean_and_half_interval
from tables import by_seed, difference, of, paired, shown

from pages.parts import MISSING, Content, Goal, Results, at_least, at_most, measured, table
from pages.plot_data import Dots, Panel, Point

INTERVAL = "95 % interval over seeds"
_CHINESE_GAINS = {
    "cais": ("CAIS exact match", "exact_match", 3.0),
    "chnsenticorp": ("ChnSentiCorp accuracy", "sentiment accuracy", 2.0),
}
"""What the pretrained Chinese encoder should add to one from scratch: corpus -> title, metric, points."""
_NAMES = ("intent accuracy", "slot F1", "exact match")


def point_of(values: Sequence[float], goal: float | None = None) -> Point | None:
    """Return the mean of values with its t-interval, None without values."""
    if not values:
        return None
    mean, half = mean_and_half_interval(values)
    return Point(mean, mean - half, mean + half, goal) if half == half else Point(mean, goal=goal)


def build(results: Results) -> Content:
    """Return tables, plots and goals of the page."""
    content = Content()
    cells = results.get("quality")
    if cells is None:
        content.blocks.update(dict.fromkeys(("main", "beside", "three", "ways", "differences", "mixatis"), MISSING))
        content.blocks.update(shown_differences="", measured="")
    else:
        _corpora(content, list(cells.values()))
        content.blocks["measured"] = measured("quality", cells)
    _compare(content, results.get("compare_atis"))
    _tasks(content, results.get("tasks"))
    _context(content, results.get("context"))
    return content


def _corpora(content: Content, cells: list[Mapping[str, Any]]) -> None:
    blocks = content.blocks
    rows = made.main_rows(cells)
    blocks["main"] = table([(*row[:3], *row[4:6]) for row in rows])
    blocks["beside"] = table([(row[0], row[3], row[6]) for row in rows])
    mixatis = made.mixatis_rows(cells)
    blocks["mixatis"] = table(mixatis) if len(mixatis) > 1 else MISSING
    blocks["three"] = table(made.three_rows(cells))
    compared = made.compared(cells)
    sets = [f"**{name}**\n\n{table(made.reached_rows(ways, split))}" for name, ways, split in compared]
    blocks["ways"] = "\n\n".join(sets)
    differences = made.against_joint_rows(compared)
    blocks["differences"] = table(differences)
    blocks["shown_differences"] = excluding_zero(differences)
    content.goals += _corpus_goals(cells)
    content.plots["main"] = _main_plot(cells)
    content.plots["three"] = _three_plot(cells)
    atis = of(cells, "atis", "minilm", made.EXACT)
    if atis:
        content.headline = f"ATIS exact match {shown(atis, 'test', made.EXACT)}"


def _corpus_goals(cells: list[Mapping[str, Any]]) -> list[Goal]:
    goals = []
    for goal in made.GOALS:
        own = of(cells, goal.task, goal.variant, made.INTENT)
        for name, metric, wanted in zip(_NAMES, made.COLUMNS, goal.wanted, strict=True):
            if own and wanted is not None:
                mean = mean_and_half_interval(by_seed(own, "test", metric))[0]
                goals.append(at_least(f"{goal.name}: {name}", wanted, mean, shown(own, "test", metric)))
    for row in made.three_rows(cells)[1:]:
        what = f"three corpora in one model, {row[0]}: difference"
        goals.append(Goal(what, f"at least {made.WORST_DIFFERENCE:g}", row[3], row[4] == "yes"))
    own = of(cells, "clinc150", "minilm", made.INTENT)
    for name, metric, wanted in made.CLINC_GOALS:
        values = by_seed([cell for cell in own if metric in cell["test"]], "test", metric)
        if values:
            compare = at_most if metric == made.CLINC_ERROR else at_least
            mean = mean_and_half_interval(values)[0]
            goals.append(compare(f"CLINC150: {name}", wanted, mean, shown(own, "test", metric)))
    return goals


def _main_plot(cells: list[Mapping[str, Any]]) -> Dots:
    """Return how far each set is from its goals: what was missed is left of the line."""
    goals = [goal for goal in made.GOALS if of(cells, goal.task, goal.variant, made.INTENT)]
    panels = []
    for position, metric in enumerate(made.COLUMNS):
        points = []
        for goal in goals:
            wanted = goal.wanted[position]
            own = of(cells, goal.task, goal.variant, metric) if wanted is not None else []
            points.append(point_of([value - (wanted or 0) for value in by_seed(own, "test", metric)]))
        panels.append(Panel(f"{_NAMES[position]} minus its goal, points", tuple(points), line=0.0))
    labels = tuple(goal.name for goal in goals)
    return Dots("quality", "Intents and slots on test, against their goals", labels, tuple(panels), INTERVAL)


def _three_plot(cells: list[Mapping[str, Any]]) -> Dots:
    labels, points = [], []
    for name, task, metric, together in made.THREE:
        joint, alone = of(cells, "three", "minilm", together), of(cells, task, "minilm", metric)
        point = point_of(paired(joint, alone, together, other=metric))
        if point is not None:
            labels.append(name)
            points.append(point)
    panel = Panel("together minus alone, points", tuple(points), line=0.0)
    title = "Three corpora in one model against each alone, paired by seed"
    return Dots("three_corpora", title, tuple(labels), (panel,), INTERVAL)


def excluding_zero(rows: Sequence[Sequence[str]]) -> str:
    """Return the differences of a table whose interval does not hold zero, as a list."""
    head, *body = rows
    counted, found = 0, []
    for row in body:
        for name, text in zip(head[2:], row[2:], strict=True):
            limits = re.search(r"\((\S+) to (\S+)\)", text)
            if limits is None:
                continue
            counted += 1
            if float(limits[1]) > 0 or float(limits[2]) < 0:
                found.append(f"- {row[0]}, {name}: {text}")
    if not found:
        return f"Each of the {counted} intervals holds zero: no difference is shown."
    return f"Of {counted} intervals, these do not hold zero:\n\n" + "\n".join(found)


def _compare(content: Content, found: Any) -> None:
    """Tell what `palm-train compare` printed."""
    if found is None:
        content.blocks["compare"] = MISSING
        return
    rows = [("metric", "split", "joint", "alone", "difference (95 % interval)", "verdict")]
    for line in found["comparisons"]:
        gap = line["difference"]
        told = f"{100 * gap['mean']:+.2f} ({100 * gap['low']:+.2f} to {100 * gap['high']:+.2f})"
        means = [f"{100 * line[arm]['mean']:.2f}" for arm in ("joint", "alone")]
        rows.append((f"{line['task']} {line['metric']}", line["split"], *means, told, line["verdict"]))
    seeds = ", ".join(map(str, found["seeds"]))
    content.blocks["compare"] = f"{table(rows)}\n\nSeeds: {seeds}. {measured('compare_atis', found)}"


def _chinese_goals(cells: list[Mapping[str, Any]]) -> Iterator[Goal]:
    for task, (title, metric, wanted) in _CHINESE_GAINS.items():
        what, told = f"{title}: `e5-small-zh` minus `scratch`", f"at least +{wanted:g} points"
        values = paired(of(cells, task, "e5", metric), of(cells, task, "single", metric), metric)
        if not values:
            yield Goal(what, told)
            continue
        gain = mean_and_half_interval(values)[0]
        yield Goal(what, told, difference(values), round(gain, 2) >= wanted)


def _tasks(content: Content, cells: Any) -> None:
    if cells is None:
        content.goals += _chinese_goals([])
        content.blocks["tasks"] = MISSING
        return
    cells_list = list(cells.values())
    content.blocks["tasks"] = f"{tasks_table.table(cells_list).rstrip()}\n\n{measured('tasks', cells)}"
    labels, points = [], []
    for row in tasks_table.ROWS:
        values = by_seed(of(cells_list, row.task, row.variant, row.metric), "test", row.metric)
        if not values:
            continue
        point = point_of(values, row.goal)
        labels.append(row.name)
        points.append(point)
        if row.goal is not None:
            own = of(cells_list, row.task, row.variant, row.metric)
            shown_value = shown(own, "test", row.metric)
            content.goals.append(at_least(row.name, row.goal, mean_and_half_interval(values)[0], shown_value))
    content.goals += _chinese_goals(cells_list)
    panel = Panel("on test, %", tuple(points))
    content.plots["tasks"] = Dots("tasks", "Further tasks on test", tuple(labels), (panel,), INTERVAL)


def _context(content: Content, cells: Any) -> None:
    if cells is None:
        content.blocks["context"] = MISSING
        return
    content.blocks["context"] = f"{context.table(cells).rstrip()}\n\n{measured('context', cells)}"
    points = []
    for key, _ in context.SCORES:
        points.append(point_of(context.differences(cells, key)))
    panel = Panel("with context minus without, points", tuple(points), line=0.0)
    labels = tuple(title for _, title in context.SCORES)
    title = "What the text said before adds to answers, paired by seed"
    content.plots["context"] = Dots("context", title, labels, (panel,), INTERVAL)
