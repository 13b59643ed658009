"""Label names as text: `book_flight` and `BookFlight` are read as `book flight`."""

import re
import unicodedata
from collections.abc import Container, Mapping

from palm_trainer.errors import ConfigError

_SEPARATORS = "PSZC"
"""Unicode categories that separate words: punctuation, symbols, separators, control characters."""
_APOSTROPHES = "'\u2019"
_WORD_ENDS = re.compile(r"(?<=l)(?=U)|(?<=U)(?=Ul)|(?<=[lUo])(?=d)|(?<=d)(?=[lUo])")
"""Ends of words that nothing separates, in the shape of a name."""


def spell_out(label: str) -> str:
    """Return a label name as words with single spaces, "" where it has no letter and no digit.

    Words end at underscores, hyphens and other punctuation, at capitals (`BookFlight`), and between letters and digits.
    Words of several capitals (`ATM`) keep them. Others get lower case.
    """
    text = unicodedata.normalize("NFC", label)
    shape = "".join(map(_shape, text))
    ends = {match.start() for match in _WORD_ENDS.finditer(shape)}
    spaced = ""
    for position, char in enumerate(text):
        spaced += " " * (position in ends) + (" " if shape[position] == " " else char)
    words = []
    for word in spaced.split():
        words.append(word if word.isupper() and len(word) > 1 else word.lower())
    spelled = " ".join(words)
    return spelled if any(map(str.isalnum, spelled)) else ""


def _shape(char: str) -> str:
    """Return the class of a character: digit, upper case, lower case, space, or other."""
    if char.isdecimal():
        return "d"
    if char.isupper():
        return "U"
    if char.islower():
        return "l"
    is_separator = char not in _APOSTROPHES and unicodedata.category(char)[0] in _SEPARATORS
    return " " if is_separator else "o"


def label_text(label: str, names: Mapping[str, str]) -> str:
    """Return the words of a label: those in `names`, else the label itself in words. "" where it has none."""
    return names[label] if label in names else spell_out(label)


def check_names(task_path: str, names: Mapping[str, str], labels: Container[str], *, names_only: bool) -> None:
    """Check the words of labels.

    Args:
        task_path: dotted path of the task, for messages.
        names: words by label.
        labels: labels that an example has.
        names_only: labels without an example are allowed.

    Raises:
        ConfigError: a label has no words, no example that it needs, or the words of another label without examples.
    """
    without_examples: dict[str, str] = {}
    for label, words in names.items():
        if not spell_out(words):
            raise ConfigError(
                f"{task_path}.names.{label} must be words with a letter or digit, got {words!r}. "
                "Describe the class, or remove it."
            )
        if label in labels:
            continue
        if not names_only:
            raise ConfigError(
                f"{task_path}.names must be of labels that a training text has, got '{label}'. "
                f"Add texts of it, set {task_path}.names_only = true, or remove it."
            )
        twin = without_examples.setdefault(spell_out(words).casefold(), label)
        if twin != label:
            raise ConfigError(
                f"{task_path}.names must differ for classes without texts, got {words!r} for '{twin}' and '{label}'. "
                "Describe each of them in other words."
            )
