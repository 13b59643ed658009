"""The commands: usage, arguments and options of each, from typer."""

import importlib
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from reference_pages.markdown import block, code, paragraphs, prose, table

ROOT = Path(__file__).parents[2]
_SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
_SHELL_COMPLETION = ("--install-completion", "--show-completion")


def commands() -> str:
    """Return a section for each program and each of its commands."""
    sections = []
    for program, place in _SCRIPTS.items():
        app = importlib.import_module(place.partition(":")[0]).app
        sections += _sections(get_command(app), program, 2)
    return "\n\n".join(sections)


def _sections(command: Any, name: str, level: int) -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    members = getattr(command, "commands", {})
    usage = "" if members else block("text", command.get_usage(context).removeprefix("Usage: "))
    yield paragraphs(
        f"{'#' * level} {name}",
        *_text(command),
        usage,
        _parameters(command, context),
        _example(command.epilog),
        _members(name, members),
    )
    for member, inner in members.items():
        yield from _sections(inner, f"{name} {member}", 3)


def _text(command: Any) -> list[str]:
    return [prose(paragraph) for paragraph in inspect.cleandoc(command.help or "").split("\n\n")]


def _members(name: str, members: dict[str, Any]) -> str:
    rows = []
    for member, command in members.items():
        title = f"{name} {member}"
        summary = inspect.cleandoc(command.help or "").partition("\n\n")[0]
        rows.append([f"[`{title}`](#{title.replace(' ', '-')})", prose(summary)])
    return table(["command", "what it does"], rows) if rows else ""


def _parameters(command: Any, context: Any) -> str:
    """Return the table of arguments and options. Those of `palm-serve run` have a page of their own."""
    rows = []
    generated = False
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None or parameter.opts[0] in _SHELL_COMPLETION:
            continue
        panel = getattr(parameter, "rich_help_panel", None)
        if context.info_name == "palm-serve run" and panel != "Configuration":
            generated = True
            continue
        default = "required" if parameter.required else _default(parameter)
        rows.append([code(record[0].strip()), prose(parameter.help or ""), default])
    if not rows:
        return ""
    note = "All other options are on the page [options of the server](server_options.md)." if generated else ""
    return paragraphs(table(["argument or option", "meaning", "default"], rows), note)


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value is False or value == [] or callable(value):
        return ""
    return code(getattr(value, "value", value))


def _example(epilog: str | None) -> str:
    if not epilog:
        return ""
    examples = []
    for sentence in epilog.removeprefix("Example: ").split(". "):
        _, mark, command = sentence.partition("palm-")
        examples.append(mark + command)
    return block("sh", "\n".join(examples))
