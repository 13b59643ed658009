"""Text from bundles, servers and data files, as a terminal or a log may show it.

Such text can hold anything: sequences that move the cursor or set the title, line breaks that forge a line, marks that
turn the order of letters round, and the markup of rich.
"""

import json
import os
import re
from typing import TYPE_CHECKING, Any

from palm_serve.errors import shorten_message

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 80
"""Characters of a line where nobody knows better."""
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters
    "\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"  # order of letters, line breaks, no width
    "\ud800-\udfff\U000e0000-\U000e007f]"  # halves of surrogate pairs, tags
)


def plain(text: object, keep: str = "") -> str:
    """Return a text with its control characters written as escapes, as in `\\x1b`.

    Args:
        text: the text, or an object to print.
        keep: characters that stay as they are, such as line breaks in a message of several lines.
    """
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else repr(match[0])[1:-1], str(text))


def plain_message(message: object, keep: str = "") -> str:
    """Return a message for the terminal: long values shortened, control characters as escapes.

    Args:
        message: an error, a warning or a line about data.
        keep: as for `plain`.
    """
    return plain(shorten_message(str(message)), keep)


def os_message(error: OSError) -> str:
    """Return the message of an operating system error: the file, and why."""
    return plain_message(f"{error.filename or 'input or output'}: {error.strerror or error}")


def plain_json(line: str) -> str:
    """Return JSON of one line or more with its control characters written as escapes of JSON."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], line)


def plain_console(**options: Any) -> "Console":
    """Return a console of rich that prints every text as it is, in tables too: no markup, no emoji codes, `plain`.

    Args:
        options: as for `rich.console.Console`.
    """
    from rich.console import Console
    from rich.text import Text

    if os.environ.get("COLUMNS") == "0":  # of a terminal that does not know its width; rich would print nothing
        options.setdefault("width", _WIDTH)

    class PlainConsole(Console):
        def render_str(self, text: str, **styles: Any) -> Text:
            """Return the text, escaped."""
            return super().render_str(plain(text, keep="\n"), **styles)

    return PlainConsole(markup=False, emoji=False, **options)
