"""Sections of Rasa's training data that say what values stand for: synonym, regex, lookup."""

from palm_trainer.data.formats.text_files import Defects
from palm_trainer.data.found_values import ALL_SLOTS

SECTIONS = ("synonym", "regex", "lookup")
EMPTY_SECTION = "{} section without a name or examples (passed over)"


def add_section_item(section: str, name: str, text: str, source: str, defects: Defects) -> None:
    """Keep one item of a section. As in Rasa, a synonym is for all slots.

    Args:
        section: kind of the section, of `SECTIONS`.
        name: its name: the canonical value of synonyms, else that of a slot or any other.
        text: the item.
        source: `file:line`, for messages.
        defects: holds the values.

    Raises:
        DataError: a synonym stands for another value already.
    """
    if section == "synonym":
        defects.values.add_synonyms(ALL_SLOTS, name, [text], source)
    elif section == "regex":
        defects.values.add_pattern(name, text, source)
    else:
        defects.values.add_values(name, [text], source, is_open=True)
