"""Commands, options, make targets and files in the shell blocks and the inline code of the pages exist."""

import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

ROOT = Path(__file__).parents[2]
PROGRAMS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
MODULES = {target.split(":")[0]: program for program, target in PROGRAMS.items()}
"""Programs by the module that `python -m` runs."""

SERVE = "docs/how-to/serve/"
PAGES = ("README.md", "README.zh.md", "CONTRIBUTING.md")
OPERATORS = re.compile(r"[();<>|&]+")
HERE_DOCUMENT = re.compile(r"<<-?[ \t]*['\"]?(\w+)['\"]?([^\n]*)\n.*?^[ \t]*\1$", re.MULTILINE | re.DOTALL)
OF_OTHER_PROGRAMS = {"--go_out", "--go-grpc_out", "--go_opt", "--go-grpc_opt", "--java_out", "--grpc-java_out", "--now"}
"""Options of protoc and systemctl."""
OF_EVERY_PROGRAM = {"--help", "--install-completion", "--show-completion"}
"""Options that typer adds."""
FENCED = re.compile(r"^[ \t]*```.*?^[ \t]*```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:\w+=\S+ )*(?:\S*/)?palm-(?:serve|train|export) [^`\n]+)`")
OUR_FILE = re.compile(r"(?:\.ci|benchmarks|charts|examples|requirements)/[\w./-]+\.(?:lock|py|sh|toml|txt)")


def pages() -> list[str]:
    """Return the names of the pages that are checked."""
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    return [*PAGES, *sorted(found)]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words of every command on a page, of PALM's also those within sentences."""
    yield from simple_commands(page)
    for line in INLINE.findall(FENCED.sub("", page)):
        yield from simple_commands(f"```sh\n{line}\n```")


def simple_commands(page: str) -> Iterator[list[str]]:
    """Yield the words of every command in the shell blocks of a page, without assignments and redirections."""
    for block in re.findall(r"^[ \t]*```(?:sh|bash|shell)\b[^\n]*\n(.*?)^[ \t]*```", page, re.MULTILINE | re.DOTALL):
        text = HERE_DOCUMENT.sub(r"\2\n", block).replace("\\\n", " ").replace("$(", " ; ")
        lexer = shlex.shlex(_one_line(text), posix=True, punctuation_chars=True)
        lexer.commenters = ""
        yield from _split(list(lexer))


def _one_line(text: str) -> str:
    """Return a script without comments, with `;` for each end of a line outside quotes."""
    kept = ""
    quote = ""
    comment = False
    for character in text:
        if comment and character != "\n":
            continue
        comment = not quote and character == "#" and (not kept or kept[-1].isspace() or kept[-1] == ";")
        if comment:
            continue
        if not quote and character == "\n":
            kept += " ; "
            continue
        if character in "'\"" and quote in ("", character):
            quote = "" if quote else character
        kept += character
    return kept


def _split(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if OPERATORS.fullmatch(word):
            if command:
                yield command
            command = []
        elif command or not re.fullmatch(r"[A-Za-z_]\w*=.*", word):
            command.append(word)


def program_calls(command: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each program of this project in a command, and what follows it."""
    for place, word in enumerate(command):
        name = Path(word).name
        if name in PROGRAMS and (place == 0 or command[place - 1] in ("exec", "nohup", "time", "sudo")):
            yield name, command[place + 1 :]
        if word == "-m" and command[place + 1 : place + 2] and command[place + 1] in MODULES:
            yield MODULES[command[place + 1]], command[place + 2 :]


def command_of(program: str) -> Any:
    app = importlib.import_module(PROGRAMS[program].split(":")[0]).app
    assert isinstance(app, typer.Typer)
    return get_command(app)


def options_below(command: Any) -> set[str]:
    """Return the options of a command and of all its subcommands."""
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for child in getattr(command, "commands", {}).values():
        options |= options_below(child)
    return options


def faults_of(program: str, words: list[str]) -> list[str]:
    """Return what a program does not know of its words: a subcommand, or options."""
    chosen = command_of(program)
    rest = [word.strip("[]") for word in words]
    while hasattr(chosen, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in chosen.commands:
            return [f"{program} {rest[0]}"]
        chosen = chosen.commands[rest.pop(0)]
    known = {option for parameter in chosen.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options = [word.split("=")[0] for word in rest if re.match(r"--?[A-Za-z]", word)]
    return [f"{program} {option}" for option in options if option not in known | OF_EVERY_PROGRAM]


def make_targets(command: list[str]) -> list[str]:
    """Return the targets that a call of make names."""
    targets = []
    words = iter(command[1:])
    for word in words:
        if word in ("-C", "-f", "-j"):
            next(words, None)
        elif not word.startswith("-") and "=" not in word:
            targets.append(word)
    return targets


@pytest.mark.parametrize("page", pages())
def test_commands_and_options_exist(page: str) -> None:
    faults = []
    for command in commands(read(page)):
        for program, words in program_calls(command):
            faults += faults_of(program, words)
    assert not faults


@pytest.mark.parametrize("page", [page for page in pages() if page.startswith(SERVE)])
def test_serve_page_names_options_that_exist(page: str) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*[a-z]", read(page)))
    known = {option for program in PROGRAMS for option in options_below(command_of(program))}
    assert named - OF_OTHER_PROGRAMS <= known | OF_EVERY_PROGRAM


def test_serve_pages_show_the_main_commands() -> None:
    shown = set()
    for page in pages():
        if page.startswith(SERVE):
            for command in commands(read(page)):
                shown |= {(program, *words[:1]) for program, words in program_calls(command)}
    names = ("run", "call", "check", "prove", "batch", "bench", "health", "token")
    assert {("palm-serve", name) for name in names} <= shown


@pytest.mark.parametrize("page", pages())
def test_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = {
        target for command in simple_commands(read(page)) if command[0] == "make" for target in make_targets(command)
    }
    assert named <= targets


@pytest.mark.parametrize("page", pages())
def test_named_files_exist(page: str) -> None:
    words = [word for command in simple_commands(read(page)) for word in command]
    assert not [word for word in words if OUR_FILE.fullmatch(word) and not (ROOT / word).exists()]


@pytest.mark.parametrize(
    ("line", "faults"),
    [
        ("palm-train run my.toml --set train.epochs=3 --output runs/x", []),
        ("palm-train models ls && palm-serve token new web --scope parse", []),
        ("FOO=1 palm-serve run bundles/x --http-port=8080 2>&1 | tee log", []),
        ('palm-serve call "a --wrong word # here" --json  # --wrong', []),
        ("palm-train model ls", ["palm-train model"]),
        ("palm-serve call hello | palm-export runs/x --no-such 1", ["palm-export --no-such"]),
        ("torchrun --standalone -m palm_trainer.cli.train run my.toml --resum auto", ["palm-train --resum"]),
        ("kill $(palm-serve stop)", ["palm-serve stop"]),
        ("cat >x.toml <<'END'\npalm-serve stop it's\nEND\npalm-serve halt", ["palm-serve halt"]),
    ],
)
def test_a_shell_line_is_read_as_the_shell_does(line: str, faults: list[str]) -> None:
    commands = list(simple_commands(f"```sh\n{line}\n```"))
    calls = [call for command in commands for call in program_calls(command)]
    assert [fault for program, words in calls for fault in faults_of(program, words)] == faults


def test_commands_within_sentences_are_read() -> None:
    page = "Stop it with `palm-serve stop`.\n```sh\npalm-serve halt\n```\nSee `palm-serve run bundles/x --no-such` too."
    calls = [call for command in commands(page) for call in program_calls(command)]
    faults = [fault for program, words in calls for fault in faults_of(program, words)]
    assert sorted(faults) == ["palm-serve --no-such", "palm-serve halt", "palm-serve stop"]


def test_readme_names_the_three_programs() -> None:
    for page in ("README.md", "README.zh.md"):
        calls = [program for command in simple_commands(read(page)) for program, _ in program_calls(command)]
        assert {"palm-train", "palm-export", "palm-serve"} <= set(calls)


def test_make_targets_of_a_call() -> None:
    assert make_targets(["make", "-C", "palm", "PYTHON=python3.12", "demo"]) == ["demo"]
