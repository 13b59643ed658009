"""Libraries that read dates, durations, numbers and money, compared on sentences of this project."""

from collections.abc import Sequence
from typing import Any

from pages.parts import MISSING, Content, Results, measured, share, table, wilson
from pages.plot_data import Dots, Panel, Point

_KINDS = ("number", "ordinal", "duration", "date", "time", "money")
_LANGUAGES = {"en": "English", "zh": "Chinese"}


def build(results: Results) -> Content:
    """Return the tables by language and kind, and the plot."""
    content = Content()
    found = results.get("values")
    if found is None:
        content.blocks.update(totals=MISSING, english="", chinese="", measured="")
        return content
    totals = [row for row in found if "kind" not in row]
    totals.sort(key=lambda row: -row["right"] / row["of"])
    rows = [("library", "right", "of", "%, with its 95 % interval", "median ms a value")]
    for row in totals:
        counts = (str(row["right"]), str(row["of"]), share(row["right"], row["of"]))
        rows.append((f"`{row['library']}`", *counts, f"{row['median_ms']:g}"))
    libraries = [row["library"] for row in totals]
    content.blocks.update(totals=table(rows), measured=measured("values", found))
    for code, language in _LANGUAGES.items():
        content.blocks[language.lower()] = _by_kind(found, libraries, code)
    panels = []
    for code, language in _LANGUAGES.items():
        points = [_point(found, library, code) for library in libraries]
        panels.append(Panel(f"{language}, % right of the kinds that it claims", tuple(points)))
    title = "Values that libraries read as expected"
    interval = "95 % interval (Wilson)"
    content.plots["values"] = Dots("values", title, tuple(libraries), tuple(panels), interval)
    widest = max(totals, key=lambda row: (row["of"], row["right"]))
    percent = 100 * widest["right"] / widest["of"]
    content.headline = f"`{widest['library']}` reads {percent:.0f} % of {widest['of']} values as expected"
    return content


def _by_kind(found: Sequence[Any], libraries: Sequence[str], language: str) -> str:
    cells = {(row["library"], row["kind"]): row for row in found if row.get("language") == language}
    kinds = [kind for kind in _KINDS if any((library, kind) in cells for library in libraries)]
    rows = [("library", *kinds)]
    for library in libraries:
        if any((library, kind) in cells for kind in kinds):
            told = []
            for kind in kinds:
                cell = cells.get((library, kind))
                told.append(f"{cell['right']} of {cell['of']}" if cell else "")
            rows.append((f"`{library}`", *told))
    return table(rows)


def _point(found: Sequence[Any], library: str, language: str) -> Point | None:
    cells = [row for row in found if row["library"] == library and row.get("language") == language]
    count = sum(row["of"] for row in cells)
    if not count:
        return None
    right = sum(row["right"] for row in cells)
    return Point(100 * right / count, *wilson(right, count))
