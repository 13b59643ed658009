"""Names of models and labels, as directories, requests, metrics and logs hold them."""

import unicodedata

NAME_RULE = "1 to 100 letters, digits, '.', '_' or '-' of any script, the first a letter or digit"
_LONGEST = 100
_PUNCTUATION = str.maketrans("", "", "._-")
_KINDS = {"L", "N", "M"}
"""Letters, numbers, and marks: the vowels and accents of many scripts."""


def is_model_name(name: str) -> bool:
    """Return True for a name or a label that can be served: NAME_RULE."""
    if not 1 <= len(name) <= _LONGEST or not name[0].isalnum():
        return False
    return set(map(_kind, name.translate(_PUNCTUATION))) <= _KINDS


def _kind(character: str) -> str:
    return unicodedata.category(character)[0]


def normalized_name(name: str) -> str:
    """Return a name with composed characters (NFC). File systems and keyboards differ in how they write an accent."""
    return unicodedata.normalize("NFC", name)
