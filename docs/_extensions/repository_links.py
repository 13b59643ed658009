"""Make links to files of the repository work in the site as they do on a code host.

A link to a root page such as CONTRIBUTING.md leads to its copy in docs/project/, whose text is taken from the root page
when the site is built. README.md is the site's first page, before the lists of contents of docs/index.md. A link to any
other file outside docs/ is a download. A link to a folder is its text.

`<picture>` with a source for `prefers-color-scheme: dark` becomes two images, of which furo shows the one of its colours.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

SHOWN = {
    "index": "README.md",
    "project/changelog": "CHANGELOG.md",
    "project/code_of_conduct": "CODE_OF_CONDUCT.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/readme_zh": "README.zh.md",
    "project/security": "SECURITY.md",
}
"""Pages of the site -> the page at the root whose text they show."""

_PAGES = {ROOT / source: DOCS / f"{page}.md" for page, source in SHOWN.items()}
_CONTENTS = re.compile(r"^```\{toctree\}\n.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<text>\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<path>[^)\s#:]+)(?P<heading>#[^)\s]*)?\)")
_PICTURE = re.compile(
    r"<picture>\s*<source [^>]*dark[^>]*srcset=\"(?P<dark>[^\"]+)\"[^>]*>\s*(?P<image><img [^>]*>)\s*</picture>"
)
_IMAGE = """
```{{image}} {path}
:alt: {text}
:class: only-{colours}
```
"""
_FENCE = re.compile(r"^ *(```|~~~)")


def rewrite_links(text: str, source: Path, shown_in: Path) -> str:
    """Return a page with its links to files of the repository changed for the site.

    Args:
        text: the page, Markdown.
        source: the file that its links are relative to.
        shown_in: the file in docs/ that shows it.
    """
    lines = []
    in_code = False
    for line in text.split("\n"):
        if _FENCE.match(line):
            in_code = not in_code
        lines.append(line if in_code else _LINK.sub(lambda link: _rewritten(link, source, shown_in), line))
    return "\n".join(lines)


def split_pictures(text: str) -> str:
    """Return a page with an image for light and one for dark colours in place of each `<picture>`."""
    return _PICTURE.sub(_images, text)


def _images(picture: re.Match[str]) -> str:
    light = re.search(r'src="([^"]+)"', picture["image"])
    alternative = re.search(r'alt="([^"]*)"', picture["image"])
    if light is None or alternative is None:
        raise ValueError(f"an <img> in a <picture> must have src and alt, got {picture['image']}")
    paths = {"light": light[1], "dark": picture["dark"]}
    return "".join(_IMAGE.format(path=path, text=alternative[1], colours=colours) for colours, path in paths.items())


def _rewritten(link: re.Match[str], source: Path, shown_in: Path) -> str:
    target = Path(os.path.normpath(source.parent / link["path"]))
    if target.is_dir():
        index = target / "index.md"
        return f"{link['text']}({_relative(index, shown_in)})" if index.is_file() else link["text"][1:-1]
    heading = link["heading"] or ""
    return f"{link['text']}({_relative(_PAGES.get(target, target), shown_in)}{heading})"


def _relative(target: Path, shown_in: Path) -> str:
    return Path(os.path.relpath(target, shown_in.parent)).as_posix()


def _read(app: Sphinx, docname: str, content: list[str]) -> None:
    page = DOCS / f"{docname}.md"
    source = page
    if docname in SHOWN:
        source = ROOT / SHOWN[docname]
        app.env.note_dependency(str(source))
        content[0] = "\n\n".join([source.read_text(encoding="utf-8"), *_CONTENTS.findall(content[0])])
    content[0] = split_pictures(rewrite_links(content[0], source, page))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
