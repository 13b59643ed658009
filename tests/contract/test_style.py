"""The checks of `.ci/` find what they are for: `make lint` and the commit hook rely on them."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def style() -> ModuleType:
    return load("style")


BROKEN = {
    "docstring-opener": 'def f():\n    """Whether it is due."""',
    "missing-args": 'def f(a, b, c):\n    """Add three numbers."""',
    "vague-name": "found = 1",
    "nested-comprehension": "rows = [[cell for cell in row] for row in table]",
    "comprehension": "rows = [row for row in table]",
    "kind-comparison": 'flag = kind == "classify"',
}
GOOD = {
    "docstring-opener": 'def f():\n    """Return True when it is due."""',
    "missing-args": 'def f(self, a, b):\n    """Add two numbers."""',
    "vague-name": "metrics = 1",
    "nested-comprehension": "rows = [row for row in table]",
    "comprehension": "rows = list(table)",
    "kind-comparison": 'flag = name == "intent"',
}


@pytest.mark.parametrize("rule", BROKEN)
def test_rule_finds_its_fault(style: ModuleType, rule: str) -> None:
    [place] = style.RULES[rule]("module.py", ast.parse(BROKEN[rule]))
    assert place.line == 1


@pytest.mark.parametrize("rule", GOOD)
def test_rule_passes_good_code(style: ModuleType, rule: str) -> None:
    assert not list(style.RULES[rule]("module.py", ast.parse(GOOD[rule])))


def test_every_rule_is_tested(style: ModuleType) -> None:
    assert set(BROKEN) == set(GOOD) == set(style.RULES)


def test_repeated_class_counts_within_a_package(style: ModuleType) -> None:
    tree = ast.parse("class Gate: ...")
    trees = {"palm_serve/a.py": tree, "palm_trainer/a.py": tree, "palm_trainer/b.py": tree}
    assert [place.path for place in style.repeated_classes(trees)] == ["palm_trainer/b.py"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one vague name and limits that allow it."""
    (tmp_path / "palm_trainer").mkdir()
    (tmp_path / "palm_trainer" / "module.py").write_text("found = 1\n", encoding="utf-8")
    (tmp_path / "limits.json").write_text('{"vague-name": 1}', encoding="utf-8")
    return tmp_path


def run(style: ModuleType, checkout: Path, *options: str) -> int:
    code: int = style.main(["--root", str(checkout), "--limits", str(checkout / "limits.json"), *options])
    return code


def test_ratchet_passes_at_its_limit(style: ModuleType, checkout: Path) -> None:
    assert run(style, checkout) == 0


def test_ratchet_fails_when_a_figure_rises(
    style: ModuleType, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "palm_trainer" / "module.py").write_text("found = own = 1\n", encoding="utf-8")
    assert run(style, checkout, "--update") == 1
    assert "vague-name: 2 places, the limit is 1" in capsys.readouterr().out
    assert run(style, checkout, "--list", "vague-name") == 0
    assert "palm_trainer/module.py:1: own" in capsys.readouterr().out


def test_ratchet_records_a_figure_that_fell(style: ModuleType, checkout: Path) -> None:
    (checkout / "palm_trainer" / "module.py").write_text("metrics = 1\n", encoding="utf-8")
    assert run(style, checkout) == 1
    assert run(style, checkout, "--update") == 0
    assert json.loads((checkout / "limits.json").read_text(encoding="utf-8"))["vague-name"] == 0


def test_comprehensions_have_a_density(style: ModuleType, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "limits.json").write_text('{"comprehension": 100.0}', encoding="utf-8")
    module = checkout / "palm_trainer" / "module.py"
    module.write_text("rows = [row for row in table]\n" + "table = 1\n" * 9, encoding="utf-8")
    assert run(style, checkout) == 0
    module.write_text("rows = [row for row in table]\n" + "table = 1\n" * 8, encoding="utf-8")
    assert run(style, checkout, "--update") == 1
    assert "comprehension: 111.1 places per 1,000 lines, the limit is 100.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("training: read each split once\n\nA run read its files twice.\n", ""),
        ("training: read each split once\n\n# a comment of git\n", "say why"),
        ("x" * 73, "at most 72 characters, got 73"),
        ("Mend things", "area: imperative"),
        ("training: read each split once.\n\nWhy.\n", "area: imperative"),
        ("training: read\nno empty line\nbody\n", "second line"),
        ("", "must not be empty"),
        ("Merge branch 'kinds'", ""),
    ],
)
def test_commit_message_is_checked(message: str, fault: str) -> None:
    faults = load("commit_message").faults(message)
    assert fault in " ".join(faults)
    assert bool(faults) == bool(fault)


WORDS = "word " * 30
SHORT_PAGES = {
    "thirty words": f"{WORDS}.",
    "two sentences": f"{WORDS}.\n{WORDS}.",
    "code": f"Run this:\n\n```sh\n{WORDS}{WORDS}\n```\n\nand `{WORDS}{WORDS}` too.",
    "a comment": f"<!-- {WORDS}{WORDS} -->",
    "items of a list": f"- {WORDS}\n- {WORDS}\n1. {WORDS}",
    "a heading": f"# {WORDS}\n{WORDS}",
    "cells of a table": f"| {WORDS} | {WORDS} |\n|---|---|\n| {WORDS} | {WORDS} |",
    "the address of a link": f"{'word ' * 29}[last](a/b/{'c-' * 40}.md).",
    "a picture": f"{WORDS}![{WORDS}](picture.png).",
    "Chinese": "一个编码器 " * 31,
}
LONG_PAGES = {
    "one word more": f"{WORDS}more.",
    "a line break": f"{'word ' * 15}\n{'word ' * 16}.",
    "a list item of two lines": f"- {'word ' * 15}\n  {'word ' * 16}.",
    "the text of a link": f"{WORDS}[more](page.md).",
}


@pytest.mark.parametrize("page", SHORT_PAGES.values(), ids=SHORT_PAGES)
def test_sentences_that_are_short_are_passed(page: str) -> None:
    assert load("sentences").long_sentences(page) == []


@pytest.mark.parametrize("page", LONG_PAGES.values(), ids=LONG_PAGES)
def test_sentences_that_are_long_are_told(page: str) -> None:
    [told] = load("sentences").long_sentences(page)
    assert re.match("31 words: (- )?word word", told)


def test_sentences_script_names_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{WORDS}more. Short.", encoding="utf-8")
    assert load("sentences").main([str(page)]) == 1
    assert capsys.readouterr().out.startswith(f"{page}: 31 words: ")
    page.write_text("Short.", encoding="utf-8")
    assert load("sentences").main([str(page)]) == 0
