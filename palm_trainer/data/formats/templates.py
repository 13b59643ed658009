"""Templates: texts with slots in place of their values, written out with the values of the slots' types.

A template gives as many rows as its longest list of values has, at most `MOST_ROWS`. Each list is gone through in its order,
and the next template goes on where the last one ended, so that the rows are the same at each reading and use as many
values as they can.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.parts import Part, join_parts
from palm_trainer.data.formats.text_files import Defects

MOST_ROWS = 25
WRITTEN_OUT = f"template (written out with values of its slots, at most {MOST_ROWS} rows)"
NO_VALUES = "template with a slot of type '{}', which has no values here (left out)"
NOT_DECLARED = "template with a slot that its intent does not declare (left out)"
UNUSED = f"value of a slot type that no template used (each gives at most {MOST_ROWS} rows)"
LOOSE_BRACE = "brace that encloses no slot (kept as text)"
_SLOT = re.compile(r"\{([^{}]*)\}")


class Slot(NamedTuple):
    """A slot in a template.

    Args:
        label: its name.
        type: name of its type, which has values.
        value: the value that the template gives. Empty: those of the type.
    """

    label: str
    type: str
    value: str = ""


class SlotValues:
    """The values of slot types, and how far they were used.

    Args:
        values: the values of each type by its name.
    """

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, type_values in values.items():
            self._values[name] = list(dict.fromkeys(type_values))
        self._position = dict.fromkeys(values, 0)
        self._used: dict[str, set[int]] = {}

    def rows(
        self, template: Sequence[str | Slot], source: str, defects: Defects
    ) -> Iterator[tuple[str, tuple[LabelledSpan, ...]]]:
        """Yield text and spans of the rows of a template: one for a text without open slots.

        Args:
            template: texts and slots, in order.
            source: place of the template, for messages.
            defects: tally of templates that were written out or left out.

        Raises:
            DataError: the template has no text.
        """
        open_slots = [item for item in template if isinstance(item, Slot) and not item.value]
        for slot in open_slots:
            if not self._values.get(slot.type):
                defects.add(NO_VALUES.format(slot.type), source)
                return
        count = 1
        if open_slots:
            defects.add(WRITTEN_OUT, source)
            count = min(MOST_ROWS, max(len(self._values[slot.type]) for slot in open_slots))
        for _ in range(count):
            yield join_parts(self._filled(template), source, defects)

    def note_unused(self, place: str, defects: Defects) -> None:
        """Count the values that no row has. Types that no template names are counted too."""
        for name, values in self._values.items():
            unused = len(values) - len(self._used.get(name, ()))
            if unused:
                defects.add(UNUSED, place, unused)

    def _filled(self, template: Sequence[str | Slot]) -> list[Part]:
        """Return the parts of one row, with the next value of each slot."""
        offsets: dict[str, int] = {}
        segments = []
        for item in template:
            if isinstance(item, str):
                segments.append(Part(item))
            elif item.value:
                segments.append(Part(item.value, item.label))
            else:
                values = self._values[item.type]
                offset = offsets.get(item.type, 0)
                index = (self._position[item.type] + offset) % len(values)
                offsets[item.type] = offset + 1
                self._used.setdefault(item.type, set()).add(index)
                segments.append(Part(values[index], item.label))
        for name in offsets:
            self._position[name] += 1
        return segments


def read_braces(text: str, types: Mapping[str, str], source: str, defects: Defects) -> list[str | Slot] | None:
    """Read a template as Alexa and Lex write it: `{slot}`, or `{value|slot}`.

    Args:
        text: the template.
        types: type of each slot by its name.
        source: place of the template, for messages.
        defects: tally of braces without a slot, and of templates with undeclared slots.

    Returns:
        Texts and slots. None: a slot is not declared.
    """
    template: list[str | Slot] = []
    position = 0
    for match in _SLOT.finditer(text):
        value, bar, name = match[1].rpartition("|")
        name = name.strip()
        if not name:
            continue
        if name not in types:
            defects.add(NOT_DECLARED, source)
            return None
        template += [text[position : match.start()], Slot(name, types[name], value.strip() if bar else "")]
        position = match.end()
    template.append(text[position:])
    loose = 0
    for item in template:
        loose += isinstance(item, str) and ("{" in item or "}" in item)
    if loose:
        defects.add(LOOSE_BRACE, source)
    return template
