"""Page of the findings: health.html, a single file that also works without a server."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_trainer.config.atomic_files import write_output
from palm_trainer.data.formats.jsonl import value_as_json
from palm_trainer.data.words import word_ranges
from palm_trainer.health.contexts import NO_SPAN
from palm_trainer.health.findings import SIGNALS, ClassWarning, ContextKind, Health
from palm_trainer.health.review_lines import Item, ReviewLines
from palm_trainer.health.rows import Row, TaskRows
from palm_trainer.report.blocks import Table, TableCell, count_cell
from palm_trainer.report.template import render_page

_LONG = 12
_SHORT = 3
"""Words from which, and up to which, a text has a tag for its length."""
_MAX_KINDS = 200


def write_page(name: str, health: Health, tasks: Sequence[TaskRows], review: ReviewLines, output: Path) -> None:
    """Write the page. An existing file is replaced as a whole.

    Args:
        name: name of the configuration.
        health: what the checks found.
        tasks: the rows, for the labels that can be chosen.
        review: the lines that the page shows and saves.
        output: the HTML file.

    Raises:
        OSError: if it cannot be written.
    """
    counts = count_signals(review.items)
    signals = []
    for signal, description in SIGNALS.items():
        if counts[signal]:
            signals.append({"name": signal, "description": description, "count": f"{counts[signal]:,}"})
    html = render_page(
        "health.html",
        script_files=("table.js", "health.js"),
        name=name,
        findings=f"{len(review.items) + len(review.merges):,}",
        signals=signals,
        facts=health.facts,
        notes=health.notes,
        contexts=_make_context_table(health.contexts),
        warnings=_make_warning_table(health.warnings),
        data=_as_script_text(make_page_data(tasks, review)),
    )
    write_output(output, html, errors="replace")


def count_signals(items: Iterable[Item]) -> Counter[str]:
    """Count the items by signal."""
    counts: Counter[str] = Counter()
    for item in items:
        counts.update(item.line["signals"])
    return counts


def make_page_data(tasks: Sequence[TaskRows], review: ReviewLines) -> dict[str, Any]:
    """Return what the script of the page reads: findings, the rows to compare with, and labels to choose from."""
    near_rows: dict[tuple[int, str], int] = {}
    rows: list[dict[str, Any]] = []
    items = []
    for item in review.items:
        near: dict[int, None] = {}
        for finding in item.findings:
            for row in finding.near:
                key = (id(row), finding.field)
                if key not in near_rows:
                    near_rows[key] = len(rows)
                    rows.append(_row_data(row, finding.field))
                near[near_rows[key]] = None
        items.append(
            {
                **_row_data(item.row, item.line["field"]),
                "line": item.line,
                "why": [[finding.signal, finding.why] for finding in item.findings],
                "near": list(near)[:3],
                "score": round(item.score, 3),
                "tags": _tags(item.row),
            }
        )
    merges = [{"line": line, "why": merge.why} for line, merge in review.merges]
    labels = {rows.field: {"kind": rows.kind, "names": _label_names(rows)} for rows in tasks}
    return {
        "items": items,
        "rows": rows,
        "merges": merges,
        "kept": review.decided,
        "labels": labels,
        "order": review.order(),
    }


def _row_data(row: Row, field: str) -> dict[str, Any]:
    """Return place, pair or context, and label of a row. The text of a finding stands in its line."""
    value = row.example.fields.get(field)
    data: dict[str, Any] = {"place": row.example.source, "split": row.split, "text": row.example.text}
    second = row.example.inputs.second
    if second is not None:
        data["pair"] = second
    data["value"] = None if value is None else value_as_json(value)
    return data


def _label_names(rows: TaskRows) -> list[str]:
    names: set[str] = set()
    for split_rows in rows.rows.values():
        for row in split_rows:
            names.update(_plain_labels(row, rows.field))
    return sorted(names)


def _plain_labels(row: Row, field: str) -> list[str]:
    """Return classes, or labels of spans without roles."""
    value = row.example.fields[field]
    if isinstance(value, str):
        return [value]
    return [item if isinstance(item, str) else item.label for item in value]


def _tags(row: Row) -> list[str]:
    """Return what is unusual about a text."""
    text = row.example.text
    words = len(word_ranges(row.example))
    tags = []
    if words >= _LONG:
        tags.append(f"{_LONG} words or more")
    if words <= _SHORT:
        tags.append(f"{_SHORT} words or fewer")
    sentences = 0
    for sentence in text.replace("?", ".").replace("!", ".").split(". "):
        sentences += bool(sentence.strip(" ."))
    if sentences > 1:
        tags.append("several sentences")
    return tags


def _make_context_table(kinds: Sequence[ContextKind]) -> Table | None:
    """Make a table of the strings that are labelled in two ways between the same words."""
    rows = []
    for kind in kinds:
        unmarked = kind.counts.get(NO_SPAN, 0)
        labels = {label: count for label, count in kind.counts.items() if label != NO_SPAN}
        listed = ", ".join(f"{label} {count}" for label, count in sorted(labels.items(), key=lambda item: -item[1]))
        texts = (kind.before or "(beginning)", kind.string, kind.after or "(end)", listed)
        rows.append((*map(TableCell, texts), count_cell(sum(labels.values())), count_cell(unmarked)))
    if not rows:
        return None
    columns = ("two words before", "string", "word after", "labels", "spans", "no span")
    hidden = max(0, len(rows) - _MAX_KINDS)
    note = "Each string has two labels, or is a span in some rows and none in others. Click a heading to sort."
    title = "Strings that are labelled in two ways between the same words"
    return Table(title, columns, rows[:_MAX_KINDS], text_columns=4, hidden=hidden, note=note)


def _make_warning_table(warnings: Sequence[ClassWarning]) -> Table | None:
    if not warnings:
        return None
    rows = []
    for warning in warnings:
        rows.append(tuple(map(TableCell, (warning.task, warning.label, warning.warning, warning.figure))))
    return Table("Classes", ("task", "label", "warning", "rows or figures"), rows, text_columns=4)


def _as_script_text(data: Mapping[str, Any]) -> str:
    """Return JSON that can stand in a script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
