"""Every command of PALM on a page of docs/ exists with its options, in shell blocks and within sentences."""

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = {file.relative_to(ROOT / "docs").as_posix(): file for file in sorted((ROOT / "docs").rglob("*.md"))}
SERVE = "how-to/serve/"
OF_OTHER_PROGRAMS = {"--go_out", "--go-grpc_out", "--go_opt", "--go-grpc_opt", "--java_out", "--grpc-java_out", "--now"}
"""Options of protoc and systemctl."""
COMPLETION = {"--install-completion", "--show-completion"}
"""Options that typer adds to a program."""
COMMAND = re.compile(r"(?:\w+=\S+ )*(?:\S*/)?(palm-(?:serve|train|export) .+)")


def commands() -> Iterator[tuple[str, set[str]]]:
    """Each command of PALM and its options."""

    def walk(name: str, command: object) -> Iterator[tuple[str, set[str]]]:
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}  # type: ignore[attr-defined]
        yield name, options | {"--help", *COMPLETION}
        for child, below in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {child}", below)

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name, place in scripts.items():
        yield from walk(name, typer.main.get_command(importlib.import_module(place.split(":")[0]).app))


def command_lines(text: str) -> list[str]:
    """Return the commands of PALM in the shell blocks and the inline code of a page, without what runs them."""
    joined = text.replace("\\\n", " ")
    shell = re.findall(r"^ *```sh\n(.*?)^ *```", joined, re.MULTILINE | re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in shell for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", joined, flags=re.MULTILINE | re.DOTALL))
    single = [command for line in lines for command in line.split(" && ")]
    return [match[1] for match in map(COMMAND.match, single) if match]


COMMANDS = dict(commands())


GROUPS = {name.rpartition(" ")[0] for name in COMMANDS} - {""}


def parse(line: str) -> tuple[str, list[str], set[str]]:
    """Return the longest command that a line begins with, its arguments and its options."""
    words = re.sub(r"""(["']).*?\1""", "TEXT", line).split()
    name = words.pop(0)
    while words and f"{name} {words[0]}" in COMMANDS:
        name += f" {words.pop(0)}"
    options = {word.split("=")[0] for word in words if word.startswith("--")}
    return name, [word for word in words if not word.startswith("--")], options


@pytest.mark.parametrize("page", PAGES)
def test_page_commands_take_their_options(page: str) -> None:
    for line in command_lines(PAGES[page].read_text(encoding="utf-8")):
        name, arguments, options = parse(line)
        assert name not in GROUPS or not arguments, f"{line}: there is no such command"
        assert options <= COMMANDS[name], line


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(SERVE)])
def test_serve_page_names_options_that_exist(page: str) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*[a-z]", PAGES[page].read_text(encoding="utf-8")))
    assert named - OF_OTHER_PROGRAMS <= set().union(*COMMANDS.values())


def test_serve_pages_show_the_main_commands() -> None:
    pages = [file.read_text(encoding="utf-8") for page, file in PAGES.items() if page.startswith(SERVE)]
    shown = {parse(line)[0] for text in pages for line in command_lines(text)}
    names = ("run", "call", "check", "prove", "batch", "bench", "health", "token new")
    assert {f"palm-serve {name}" for name in names} <= shown
