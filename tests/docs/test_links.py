"""Every link of the pages to a file or a heading of this repository leads there. No address of others is asked."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_pages import ROOT, anchors, links, pages, tracked_files

_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_PAGE_IN_CODE = re.compile(r"(?<![\w/.-])((?:docs|charts|examples|benchmarks)/[\w/.-]+\.md)(#[\w-]+)?")
_CODE = {".py", ".toml", ".sh", ".yaml", ".yml", ".proto", ".tpl", ".txt", ".js", ".html", ".md"}


def fault(page: Path, target: str) -> str:
    """Return why a link leads nowhere. Empty: it leads somewhere."""
    path, _, heading = unquote(target).partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        return f"there is no {path}"
    if heading and file.suffix == ".md" and heading not in anchors(file):
        return f"{file.relative_to(ROOT)} has no heading #{heading}"
    return ""


def test_links_lead_to_files_and_headings() -> None:
    faults = []
    for page in pages():
        for line, target in links(page):
            if not _ELSEWHERE.match(target) and (reason := fault(page, target)):
                faults.append(f"{page.relative_to(ROOT)}:{line}: {target}: {reason}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("style.md", ""),
        ("../../CONTRIBUTING.md#the-map", ""),
        ("../../CONTRIBUTING.md#no-such-heading", "CONTRIBUTING.md has no heading #no-such-heading"),
        ("no_such_page.md#here", "there is no no_such_page.md"),
    ],
)
def test_a_link_that_leads_nowhere_is_told(target: str, reason: str) -> None:
    assert fault(ROOT / "docs" / "contributing" / "index.md", target) == reason


def test_pages_that_code_names_exist() -> None:
    faults = []
    for path in tracked_files():
        if path.suffix not in _CODE or path.name == "CHANGELOG.md":  # what it tells of was so then
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for named in _PAGE_IN_CODE.finditer(text):
            is_link = path.suffix == ".md" and text[named.start() - 1] == "("
            if is_link:
                continue
            if reason := fault(ROOT / "README.md", named[0]):
                line = text.count("\n", 0, named.start()) + 1
                faults.append(f"{path.relative_to(ROOT)}:{line}: {named[0]}: {reason}")
    assert not faults, "\n".join(faults)
