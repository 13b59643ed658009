"""The tutorials run as they stand, and are written as CONTRIBUTING asks.

`tutorial_pages.py` says how a page is read and run.
"""

import importlib.util
import re
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("tutorial_pages", Path(__file__).with_name("tutorial_pages.py"))
assert _spec is not None
assert _spec.loader is not None
pages = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = pages  # dataclasses look their module up
_spec.loader.exec_module(pages)

CHAINS = {
    "first_model": ("first_model", "dialogue_system"),  # the second starts from the run of the first
    "your_own_data": ("your_own_data",),
    "ten_examples_an_intent": ("ten_examples_an_intent",),
    "chinese": ("chinese",),
    "original_palm_api": ("original_palm_api",),
}
TRANSLATED = {"zh_first_model": "first_model"}
"""Pages whose commands are those of another page, which a test compares."""
LONGEST_SENTENCE = 30
"""Words."""


def all_pages() -> list[str]:
    return sorted(path.stem for path in pages.PAGES.glob("*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_every_command_of_a_tutorial_runs(chain, tmp_path, process_limit_s, capsys):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the repository cannot be told")
    folder = tmp_path / "palm"
    pages.copy_repository(folder)
    runner = pages.PageRunner(folder, process_limit_s)
    for name in CHAINS[chain]:
        begin = time.monotonic()
        runner.run(pages.PAGES / f"{name}.md")
        with capsys.disabled():
            print(f"\n{name}: {time.monotonic() - begin:.0f} s")


def test_every_tutorial_is_run():
    run = {name for chain in CHAINS.values() for name in chain}
    assert sorted(run | set(TRANSLATED) | {"index"}) == all_pages()


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_translation_has_the_commands_of_its_original(page):
    def commands(name):
        blocks = pages.read_blocks(pages.PAGES / f"{name}.md")
        return [(block.kind, block.file, re.sub(r" *#.*", "", block.text)) for block in blocks]

    assert commands(page) == commands(TRANSLATED[page])


def test_index_names_every_tutorial():
    listed = re.findall(r"\]\((\w+)\.md\)", (pages.PAGES / "index.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [name for name in all_pages() if name != "index"]


@pytest.mark.parametrize("page", all_pages())
def test_extras_that_a_tutorial_installs_exist(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (pages.PAGES / f"{page}.md").read_text(encoding="utf-8")
    named = {extra for extras in re.findall(r"(?:\.|palm-nlu)\[([\w,-]+)\]", text) for extra in extras.split(",")}
    assert named <= set(project["optional-dependencies"])


@pytest.mark.parametrize("page", [name for name in all_pages() if not name.startswith("zh_")])
def test_sentences_of_a_tutorial_are_short(page):
    text = (pages.PAGES / f"{page}.md").read_text(encoding="utf-8")
    long = [sentence for sentence in pages.sentences(text) if len(sentence.split()) > LONGEST_SENTENCE]
    assert long == []


@pytest.mark.parametrize(
    ("expected", "output", "missing"),
    [
        ("loading took 3.0 s", "x\n loading  took 12 s\n", None),
        ("demo ffa45f2f7350 -> b", "demo 0123456789ab -> b", None),
        ("a\n...\nb", "a\nother\nb", None),
        ("step 1 ... left", "step 20/320  lr 1.3e-04  9 s left", None),
        ("b\na", "a\nb", "a"),
        ("intent set_timer", "intent set_alarm", "intent set_timer"),
        ("loading took 3.0 s", "loading took long", "loading took 3.0 s"),
    ],
)
def test_lines_are_compared_without_figures(expected, output, missing):
    assert pages.find_missing_line(expected, output) == missing


def test_blocks_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\necho 1\n```\n\nYou see\n\n```text\n1\n```\n```toml\n# a.toml\nx = 1\n```\n```toml\ny = 1\n```\n"
        "```sh background\npalm-serve run b\n```\n",
        encoding="utf-8",
    )
    found = [(block.kind, block.text, block.file, block.expected) for block in pages.read_blocks(page)]
    assert found == [
        ("sh", "echo 1\n", "", "1\n"),
        ("file", "# a.toml\nx = 1\n", "a.toml", ""),
        ("toml", "y = 1\n", "", ""),
        ("sh background", "palm-serve run b\n", "", ""),
    ]


def test_a_page_that_fails_names_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n```sh\necho one\nfalse\necho two\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"page\.md:3: exit code 1\none\n"):
        pages.PageRunner(tmp_path, 60).run(page)
    page.write_text("```sh\necho one\n```\n```text\ntwo\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"page\.md:1: no line 'two'"):
        pages.PageRunner(tmp_path, 60).run(page)
