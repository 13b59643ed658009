#!/usr/bin/env python3
"""Print the sentences of Markdown pages that are longer than 30 words: `.ci/sentences.py README.md docs/tutorials/*.md`.

The exit code is 1 where one is. Code blocks, addresses of links and HTML comments do not count. An item of a list, a cell of
a table and a heading end a sentence, as a full stop does. Text in Chinese is not counted: it has no blanks between words.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

MOST_WORDS = 30

_FENCED = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"(`+)(?:.+?)\1", re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\([^)]*\)")
_BLOCK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*+]|\d+\.)[ \t])|\n(?=[ \t]*[|#>])|(?<=\|)\n|(?<!\\)\|")
_HEADING = re.compile(r"^([ \t]*#{1,6} .*)$", re.MULTILINE)
_END = re.compile(r"(?<=[.!?])[\"')*_]*\s+")
_CHINESE = re.compile(r"[\u3400-\u9fff]")


def blank_code(page: str) -> str:
    """Return the text of a page without code blocks and comments. Lines stay where they are."""
    for pattern in (_FENCED, _COMMENT):
        page = pattern.sub(lambda match: "\n" * (match[0].count("\n") + 1), page)
    return page


def sentences(page: str) -> Iterator[str]:
    """Yield the sentences of a page. Code within a sentence counts as one word."""
    text = _CODE.sub("CODE", blank_code(page))
    text = _LINK.sub(lambda match: "" if match[1] else match[2], text)
    text = _HEADING.sub(r"\1\n", text)
    for block in _BLOCK.split(text):
        for sentence in _END.split(" ".join(block.split())):
            if re.search(r"\w", sentence):
                yield sentence


def long_sentences(page: str) -> list[str]:
    """Return the sentences of more than `MOST_WORDS` words, each with their number in front."""
    counted = []
    for sentence in sentences(page):
        words = len([word for word in sentence.split() if re.search(r"\w", word)])
        if words > MOST_WORDS and not _CHINESE.search(sentence):
            counted.append(f"{words} words: {sentence}")
    return counted


def main(arguments: list[str]) -> int:
    """Check some pages; the exit code is 1 where a sentence is too long."""
    found = 0
    for name in arguments:
        for sentence in long_sentences(Path(name).read_text(encoding="utf-8")):
            print(f"{name}: {sentence}")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
