"""Python of the pages: it compiles, takes only names that PALM has, and runs where a server of the tests can answer it."""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_pages import ROOT, code_blocks, pages

_spec = importlib.util.spec_from_file_location("palm_serve_fixtures", ROOT / "tests" / "palm_serve" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
tiny_bundle = _fixtures.tiny_bundle
tiny_server = _fixtures.tiny_server

RUN_ELSEWHERE = {
    "docs/how-to/serve/call_it.md": "tests/palm_serve/http/test_call_page.py",
    "docs/how-to/train/custom_parts.md": "tests/palm_trainer/api/test_customization.py",
    "docs/tutorials/dialogue_system.md": "tests/docs/test_tutorials.py",
    "docs/tutorials/first_model.md": "tests/docs/test_tutorials.py",
    "docs/tutorials/ten_examples_an_intent.md": "tests/docs/test_tutorials.py",
    "docs/tutorials/zh_first_model.md": "tests/docs/test_tutorials.py",
}
"""Page -> the test that runs its Python."""

NOT_RUN = {
    "docs/contributing/style.md": "shows a docstring",
    "docs/how-to/serve/batch_of_rows.md": "needs Spark and Dask",
    "docs/how-to/train/python_api.md": "goes on from trainers that the page does not make",
}
"""Page -> why no test runs its Python."""


def python_blocks() -> dict[str, list[str]]:
    """Return the blocks of Python of each page that has some."""
    found: dict[str, list[str]] = {}
    for page in pages():
        for _, language, text in code_blocks(page):
            if language in ("python", "py"):
                found.setdefault(page.relative_to(ROOT).as_posix(), []).append(text)
    return found


PAGES = python_blocks()
RUN = [page for page in PAGES if page not in RUN_ELSEWHERE and page not in NOT_RUN]


def test_lists_name_pages_with_python() -> None:
    assert {*RUN_ELSEWHERE, *NOT_RUN} <= set(PAGES)
    for page, test in RUN_ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN_ELSEWHERE])
def test_python_takes_only_names_that_palm_has(page: str) -> None:
    names: dict[str, Any] = {}
    for text in PAGES[page]:
        tree = ast.parse(text, page)
        names |= dict(imported(tree))
        for fault in faults(tree, names):
            pytest.fail(f"{page}: {fault}")


def imported(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each import from PALM. An import that fails raises."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("palm_"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                yield alias.asname or alias.name, getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("palm_"):
                    yield alias.asname or alias.name, importlib.import_module(alias.name)


def faults(tree: ast.AST, names: dict[str, Any]) -> Iterator[str]:
    """Yield what a block uses of PALM that is not there: attributes, and arguments of calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (chain := dotted(node)) and chain[0] in names:
            value = names[chain[0]]
            for part in chain[1:]:
                if not hasattr(value, part):
                    yield f"{'.'.join(chain)}: there is no {part}"
                    break
                value = getattr(value, part)
        elif isinstance(node, ast.Call) and (chain := dotted(node.func)) and chain[0] in names:
            value = names[chain[0]]
            for part in chain[1:]:
                value = getattr(value, part, None)
            if callable(value):
                yield from unknown_arguments(".".join(chain), value, node)


def dotted(node: ast.AST) -> list[str]:
    """Return the names of `a.b.c`, nothing for any other expression."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (chain := dotted(node.value)):
        return [*chain, node.attr]
    return []


def unknown_arguments(name: str, function: Any, call: ast.Call) -> Iterator[str]:
    """Yield the keywords of a call that a function does not take."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # of a class that is not written in Python, such as a message
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for keyword in call.keywords:
        if keyword.arg is not None and keyword.arg not in parameters:
            yield f"{name} takes no {keyword.arg}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import palm_serve.client as c\nc.NoClient(1)", "c.NoClient: there is no NoClient"),
        ("from palm_serve.client import tls\ntls(wrong='x')", "tls takes no wrong"),
        ("from palm_serve.client import tls\ntls(ca='x')", ""),
    ],
)
def test_a_name_that_palm_lacks_is_told(text: str, fault: str) -> None:
    tree = ast.parse(text)
    assert "; ".join(dict.fromkeys(faults(tree, dict(imported(tree))))) == fault


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_python_of_the_page_runs(page: str, tiny_server: str, tiny_bundle: Path, capsys: Any) -> None:
    for text in PAGES[page]:
        here = text.replace("127.0.0.1:50051", tiny_server).replace("bundles/demo", str(tiny_bundle))
        names: dict[str, Any] = {}
        exec(compile(here, page, "exec"), names)
        answers = [value for name, value in names.items() if name.startswith(("answer", "model", "client"))]
        assert answers, f"{page}: its code must name an answer, a model or a client"
        for value in answers:
            if hasattr(value, "close"):
                value.close()
