"""What a converted file does not hold of its source, found by comparing examples with what was read back."""

from collections.abc import Sequence

from palm_trainer.data.example import Example, FieldValue, LabelledSpan, spans_in
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

TEXT_CHANGED = "text: its white space changed"
PAIR_LOST = "second text: left out"
CONTEXT_LOST = "context: left out"
WORDS_LOST = "words that the data was tagged on: left out or changed"
ROLES_LOST = "span whose role and group are left out"


def find_losses(originals: Sequence[Example], copies: Sequence[Example], field: str | None) -> Defects:
    """Compare examples with what was read back.

    Args:
        originals: the examples of the source.
        copies: what was read back.
        field: field that was renamed to `label`, or None.

    Raises:
        DataError: another number of examples could be read back.
    """
    losses = Defects()
    if len(originals) != len(copies):
        raise DataError(f"{len(copies)} of {len(originals)} examples could be read back; choose format 'jsonl'")
    for original, copy in zip(originals, copies, strict=True):
        _note_text_losses(original, copy, losses)
        _note_field_losses(original, copy, field, losses)
    return losses


def _note_text_losses(original: Example, copy: Example, losses: Defects) -> None:
    if original.text != copy.text:
        losses.add(TEXT_CHANGED, original.source)
    if original.pair != copy.pair:
        losses.add(PAIR_LOST, original.source)
    if original.context != copy.context:
        losses.add(CONTEXT_LOST, original.source)
    if original.words is not None and original.words != copy.words and original.text == copy.text:
        losses.add(WORDS_LOST, original.source)


def _note_field_losses(original: Example, copy: Example, field: str | None, losses: Defects) -> None:
    for name, value in original.fields.items():
        copied_value = copy.fields.get("label" if name == field else name)
        if copied_value is None:
            losses.add(f"field '{name}': left out or under another name", original.source)
            continue
        before = _comparable(_labelled_text(original, name), value)
        after = _comparable(_labelled_text(copy, name), copied_value)
        if before != after:
            losses.add(f"field '{name}': changed", original.source)
        elif lost := _count_changed_roles(value, copied_value):
            losses.add(ROLES_LOST, original.source, lost)
    for name in copy.fields:
        if name not in original.fields and (name != "label" or field not in original.fields):
            losses.add(f"field '{name}': made up, the source has none here under this name", original.source)


def _labelled_text(example: Example, field: str) -> str:
    """Return the text that the spans of a field refer to."""
    return example.pair if field == ANSWER and example.pair is not None else example.text


def _comparable(text: str, value: FieldValue) -> object:
    """Return classes unchanged, and spans as positions that do not count white space, without roles."""
    if isinstance(value, str):
        return value
    solid_counts = [0]
    for character in text:
        solid_counts.append(solid_counts[-1] + (not character.isspace()))
    items: list[object] = []
    for item in value:
        if isinstance(item, LabelledSpan):
            items.append((solid_counts[item.start], solid_counts[item.end], item.label))
        else:
            items.append(item)
    return items


def _count_changed_roles(value: FieldValue, copied_value: FieldValue) -> int:
    """Count the spans whose role or group differs in the copy. Both hold the same spans otherwise."""
    count = 0
    for span, copy in zip(spans_in(value), spans_in(copied_value), strict=True):
        count += (span.role, span.group) != (copy.role, copy.group)
    return count
