"""Generated parts of docs/reference are what the code says now."""

import difflib

import pytest
from reference_pages.markdown import prose
from reference_pages.parts import COMMAND, make_page, page_names, read_page


@pytest.mark.parametrize("page", page_names())
def test_page_is_what_the_code_says(page: str) -> None:
    committed, wanted = read_page(page).splitlines(), make_page(page).splitlines()
    changes = "\n".join(difflib.unified_diff(committed, wanted, "committed", "from the code", lineterm="", n=0))
    assert not changes, f"docs/reference/{page}.md is stale: run `{COMMAND}`.\n{changes}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Seconds of --max-queue.", "Seconds of `--max-queue`."),
        ("fails with RESOURCE_EXHAUSTED", "fails with `RESOURCE_EXHAUSTED`"),
        ("see train.epochs=3, e.g. here", "see `train.epochs=3`, e.g. here"),
        ("any of `a_b` or x*y <b> [n]", r"any of `a_b` or x\*y \<b\> \[n\]"),
        ("two\n    lines", "two lines"),
    ],
)
def test_names_become_code_and_nothing_becomes_markup(text: str, shown: str) -> None:
    assert prose(text) == shown
