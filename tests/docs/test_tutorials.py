"""The tutorials run as they stand, and are written as CONTRIBUTING asks.

`tutorial_py` says how a page is read and run.
"""

import re
import time
import tomllib

import pytest
from tutorial_pages import PAGES, ROOT, PageRunner, copy_repository, find_missing_line, read_blocks

CHAINS = {
    "first_model": ("first_model.md", "dialogue_system.md"),  # the second starts from the run of the first
    "your_own_data": ("your_own_data.md",),
    "ten_examples_an_intent": ("ten_examples_an_intent.md",),
    "chinese": ("chinese.md",),
    "original_palm_api": ("original_palm_api.md",),
}
TRANSLATED = {"zh_first_model.md": "first_model.md"}
"""Pages whose commands are those of another page, which a test compares."""


def all_pages() -> list[str]:
    return sorted(path.name for path in PAGES.glob("*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_every_command_of_a_tutorial_runs(chain, tmp_path, process_limit_s, capsys):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the repository cannot be told")
    folder = tmp_path / "palm"
    copy_repository(folder)
    runner = PageRunner(folder, process_limit_s)
    for name in CHAINS[chain]:
        begin = time.monotonic()
        runner.run(PAGES / name)
        with capsys.disabled():
            print(f"\n{name}: {time.monotonic() - begin:.0f} s")


def test_every_tutorial_is_run():
    run = {name for chain in CHAINS.values() for name in chain}
    assert sorted(run | set(TRANSLATED) | {"index.md"}) == all_pages()


@pytest.mark.parametrize("page", TRANSLATED)
def test_a_translation_has_the_commands_of_its_original(page):
    def commands(name):
        blocks = read_blocks(PAGES / name)
        return [(block.kind, block.file, re.sub(r" *#.*", "", block.text)) for block in blocks]

    assert commands(page) == commands(TRANSLATED[page])


def test_index_names_every_tutorial():
    listed = re.findall(r"\]\((\w+\.md)\)", (PAGES / "index.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [name for name in all_pages() if name != "index.md"]


@pytest.mark.parametrize("page", all_pages())
def test_extras_that_a_tutorial_installs_exist(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (PAGES / page).read_text(encoding="utf-8")
    named = {extra for extras in re.findall(r"(?:\.|palm-nlu)\[([\w,-]+)\]", text) for extra in extras.split(",")}
    assert named <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    ("expected", "output", "missing"),
    [
        ("loading took 3.0 s", "x\n loading  took 12 s\n", None),
        ("demo ffa45f2f7350 -> b", "demo 0123456789ab -> b", None),
        ("a\n...\nb", "a\nother\nb", None),
        ("step 1/320 ... left", "step 20/320  lr 1.3e-04  9 s left", None),
        ("b\na", "a\nb", "a"),
        ("intent set_timer", "intent set_alarm", "intent set_timer"),
        ("loading took 3.0 s", "loading took long", "loading took 3.0 s"),
    ],
)
def test_lines_are_compared_without_figures(expected, output, missing):
    assert find_missing_line(expected, output) == missing


def test_blocks_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\necho 1\n```\n\nYou see\n\n```text\n1\n```\n```toml\n# a.toml\nx = 1\n```\n```toml\ny = 1\n```\n"
        "```sh background\npalm-serve run b\n```\n",
        encoding="utf-8",
    )
    found = [(block.kind, block.text, block.file, block.expected) for block in read_blocks(page)]
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
        PageRunner(tmp_path, 60).run(page)
    page.write_text("```sh\necho one\n```\n```text\ntwo\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"page\.md:1: no line 'two'"):
        PageRunner(tmp_path, 60).run(page)
