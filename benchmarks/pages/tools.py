"""Tools of the training: what each changes on test, also where it changes nothing."""

import quality_table as made
from tables import of, paired

from pages.parts import MISSING, Content, Results, measured, table
from pages.plot_data import Dots, Panel
from pages.quality import INTERVAL, excluding_zero, point_of

_METRICS = (
    (made.INTENT, "test", "intent accuracy on test"),
    (made.SLOTS, "test", "slot F1 on test"),
    (made.EXACT, "test", "exact match on test"),
    (made.EXACT, "dev", "exact match on dev"),
)


def build(results: Results) -> Content:
    """Return the table, the plot and what is shown."""
    content = Content()
    found = results.get("quality")
    cells = list(found.values()) if found else []
    rows = made.tool_rows(cells)
    tried = [cell for cell in cells if cell["task"] in {task for task, *_ in made.TOOLS}]
    if len(rows) == 1:
        content.blocks.update(tools=MISSING, shown="", measured="")
        return content
    content.blocks.update(tools=table(rows), shown=excluding_zero(rows), measured=measured("quality", tried))
    panels: list[list] = [[] for _ in _METRICS]
    labels = []
    task, plain, begin, name = made.TOOLS[0]
    for tool in made.tools_of(cells, task, begin):
        labels.append(tool)
        for panel, (metric, split, _) in zip(panels, _METRICS, strict=True):
            with_tool, base = of(cells, task, f"{begin}{tool}", made.EXACT), of(cells, task, plain, made.EXACT)
            panel.append(point_of(paired(with_tool, base, metric, split)))
    titles = [f"{title}, points" for *_, title in _METRICS]
    drawn = tuple(Panel(title, tuple(points), line=0.0) for title, points in zip(titles, panels, strict=True))
    what = f"{name[0].upper()}{name[1:]}: training with a tool minus without, paired by seed"
    content.plots["tools"] = Dots("tools", what, tuple(labels), drawn, INTERVAL)
    helped = [label for label, point in zip(labels, panels[0], strict=True) if point and point.low and point.low > 0]
    content.headline = f"intent accuracy rises with {', '.join(f'`{label}`' for label in helped) or 'none of them'}"
    return content
