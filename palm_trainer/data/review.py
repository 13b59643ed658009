"""Apply a review: relabel, drop and merge what a person decided on the page of `palm-train health`.

The files of the data stay as they are. A row is changed only if it still is what was reviewed, so that a review can be
applied to the same files any number of times with the same result.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from palm_trainer.data.example import Example, FieldValue, LabelledSpan, spans_in
from palm_trainer.data.formats.row_values import read_field
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.data.review_file import MergeDecision, Review, RowDecision, row_digest, split_source
from palm_trainer.errors import DataError

DROPPED = "row that the review removed (drop)"
_FAULTS_NAMED = 5
_REMEDY = "Run `palm-train health` again, or remove the line from the review."


def apply_review(examples: Sequence[Example], split: str, review: Review, defects: Defects) -> list[Example]:
    """Return the examples of a split as a review changes them.

    Where one decision drops a row, others about the row have no effect. Classes are merged after rows are relabelled.

    Args:
        examples: examples as the files have them.
        split: their split.
        review: decisions about the data set.
        defects: tally of the changed rows, one kind for each decision.

    Raises:
        DataError: a row has changed since it was reviewed, or decisions contradict each other.
    """
    decisions = [decision for decision in review.rows if decision.split == split]
    by_row = _find_rows(examples, decisions)
    merged_classes = _resolve_merges(review.merges)
    reviewed = []
    for number, example in enumerate(examples):
        row_decisions = by_row.get(number, ())
        if any(decision.to is None for decision in row_decisions):
            defects.add(DROPPED, example.source)
            continue
        reviewed.append(_merge(_relabel(example, row_decisions, defects), merged_classes, defects))
    if examples and not reviewed:
        raise DataError(f"{decisions[0].place}: the review removes all rows of the split '{split}'. Keep some of them.")
    return reviewed


def _find_rows(examples: Sequence[Example], decisions: Sequence[RowDecision]) -> dict[int, list[RowDecision]]:
    """Return the decisions about each row, by the row's position.

    Raises:
        DataError: no row at a place is the one that was reviewed.
    """
    by_line: dict[int | None, list[RowDecision]] = defaultdict(list)
    for decision in decisions:
        by_line[decision.line].append(decision)
    by_row: dict[int, list[RowDecision]] = defaultdict(list)
    matched: set[str] = set()
    changed: dict[str, str] = {}
    for number, example in enumerate(examples) if decisions else ():
        file, line = split_source(example.source)
        for decision in by_line.get(line, ()):
            if not f"/{file}".endswith(f"/{decision.file}"):
                continue
            if row_digest(example, decision.field) == decision.digest:
                by_row[number].append(decision)
                matched.add(decision.place)
            else:
                changed[decision.place] = example.source
    faults = []
    for decision in decisions:
        if decision.place in changed and decision.place not in matched:
            faults.append(f"{changed[decision.place]} has changed since the review ({decision.place})")
        elif decision.place not in matched:
            source = decision.file if decision.line is None else f"{decision.file}:{decision.line}"
            faults.append(f"{source} is no row of the split '{decision.split}' any more (reviewed in {decision.place})")
    if faults:
        remainder = f"\nand {len(faults) - _FAULTS_NAMED} more" if len(faults) > _FAULTS_NAMED else ""
        listed = "\n".join(faults[:_FAULTS_NAMED])
        raise DataError(f"{listed}{remainder}. {_REMEDY}")
    return by_row


def _relabel(example: Example, decisions: Sequence[RowDecision], defects: Defects) -> Example:
    """Return an example with the fields that decisions give it."""
    fields = dict(example.fields)
    applied: list[RowDecision] = []
    for decision in decisions:
        if any(_is_same(decision, earlier) for earlier in applied):
            continue
        for earlier in applied:
            if _is_conflict(decision, earlier):
                raise DataError(
                    f"{decision.place} and {earlier.place} relabel the same part of {example.source}. "
                    "Keep one of the two decisions."
                )
        fields[decision.field] = _new_value(example, fields.get(decision.field, ()), decision)
        applied.append(decision)
    for name, value in fields.items():
        if example.fields.get(name) != value:
            defects.add(f"row whose {name} the review changed (relabel)", example.source)
    return replace(example, fields=fields) if fields != example.fields else example


def _is_same(decision: RowDecision, earlier: RowDecision) -> bool:
    return replace(decision, place="") == replace(earlier, place="")


def _is_conflict(decision: RowDecision, earlier: RowDecision) -> bool:
    """Return True if two decisions change the same part of a row."""
    if decision.field != earlier.field:
        return False
    if decision.start is None or decision.end is None or earlier.start is None or earlier.end is None:
        return True
    return decision.start < earlier.end and earlier.start < decision.end


def _new_value(example: Example, value: FieldValue, decision: RowDecision) -> FieldValue:
    """Return the value of a field after a decision."""
    place = f'{decision.place}: "to"'
    value_defects = Defects()
    is_answer = decision.field == "answer"
    text = example.pair if is_answer and example.pair is not None else example.text
    new_value = read_field(decision.to, len(text), place, value_defects, is_answer=is_answer)
    for defect in value_defects:
        raise DataError(f"{place} has a {defect.kind}. Correct it.")
    if decision.start is None or decision.end is None:
        return new_value
    untouched = []
    for span in spans_in(value):
        if span.end <= decision.start or decision.end <= span.start:
            untouched.append(span)
    spans = sorted([*untouched, *spans_in(new_value)], key=lambda span: (span.start, span.end))
    for first, second in pairwise(spans):
        if second.start < first.end:
            raise DataError(
                f"{place} must not overlap other spans of {example.source}, got {second.start}-{second.end} and "
                f"{first.start}-{first.end}. Correct the line."
            )
    return tuple(spans)


def _resolve_merges(merges: Sequence[MergeDecision]) -> dict[tuple[str, str], str]:
    """Return the last class that each merged class becomes, by field and class.

    Raises:
        DataError: a class becomes two others, or itself.
    """
    targets: dict[tuple[str, str], MergeDecision] = {}
    for merge in merges:
        first = targets.setdefault((merge.field, merge.merged), merge)
        if first.to != merge.to:
            raise DataError(
                f"{merge.place} and {first.place} merge '{merge.merged}' with two classes. Keep one of them."
            )
    resolved = {}
    for key, merge in targets.items():
        passed = {merge.merged}
        target = merge.to
        while target not in passed and (merge.field, target) in targets:
            passed.add(target)
            target = targets[merge.field, target].to
        if target in passed:
            raise DataError(
                f"{merge.place}: merging '{merge.merged}' leads back to '{target}'. Remove one of the merges."
            )
        resolved[key] = target
    return resolved


def _merge(example: Example, merged_classes: Mapping[tuple[str, str], str], defects: Defects) -> Example:
    """Return an example with merged classes."""
    if not merged_classes:
        return example
    fields = {}
    for name, value in example.fields.items():
        fields[name], classes = _merge_value(name, value, merged_classes)
        for merged in classes:
            kind = f"row whose {name} '{merged}' the review made '{merged_classes[name, merged]}' (merge)"
            defects.add(kind, example.source)
    return replace(example, fields=fields) if fields != example.fields else example


def _merge_value(
    name: str, value: FieldValue, merged_classes: Mapping[tuple[str, str], str]
) -> tuple[FieldValue, dict[str, None]]:
    """Return the value of a field with merged classes, and the classes that were merged."""
    if isinstance(value, str):
        target = merged_classes.get((name, value))
        return (value, {}) if target is None else (target, {value: None})
    classes: dict[str, None] = {}
    items: list[str | LabelledSpan] = []
    for item in value:
        label = item.label if isinstance(item, LabelledSpan) else item
        target = merged_classes.get((name, label))
        if target is not None:
            classes[label] = None
            item = replace(item, label=target) if isinstance(item, LabelledSpan) else target
        items.append(item)
    return tuple(dict.fromkeys(items)), classes  # type: ignore[return-value]
