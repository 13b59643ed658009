"""The Markdown pages of the repository, as the tests of the documentation read them."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]


@cache
def tracked_files() -> list[Path]:
    """Return the files of the repository, in the order of their paths."""
    if not (ROOT / ".git").exists():
        return sorted(path for path in ROOT.rglob("*") if path.is_file() and "build" not in path.parts)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return sorted(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def pages() -> list[Path]:
    """Return all Markdown pages, without the texts that `benchmarks/pages` makes pages of."""
    texts = ROOT / "benchmarks" / "pages" / "texts"
    return [path for path in tracked_files() if path.suffix == ".md" and path.parent != texts]


@cache
def tokens(page: Path) -> list[Token]:
    """Return the tokens of a page."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of the headings of a page, as code hosts and the site make them."""
    found: dict[str, None] = {}
    stream = tokens(page)
    for opening, inline in pairwise(stream):
        if opening.type == "heading_open":
            found[_unused(_slug(inline), found)] = None
    for name in re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page.read_text(encoding="utf-8")):
        found[name] = None
    return frozenset(found)


def _slug(heading: Token) -> str:
    text = "".join(child.content for child in heading.children or () if child.type in ("text", "code_inline"))
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def _unused(slug: str, taken: dict[str, None]) -> str:
    number = 0
    name = slug
    while name in taken:
        number += 1
        name = f"{slug}-{number}"
    return name


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield line and target of each link and image of a page."""
    for token in tokens(page):
        line = (token.map or [0])[0] + 1
        for child in token.children or ():
            target = child.attrGet("href" if child.type == "link_open" else "src")
            if child.type in ("link_open", "image") and isinstance(target, str):
                yield line, target
        if token.type in ("html_block", "html_inline"):
            for target in re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", token.content):
                yield line, target


def code_blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, language and text of each block of code of a page."""
    for token in tokens(page):
        if token.type == "fence":
            yield (token.map or [0])[0] + 1, token.info.strip(), token.content
