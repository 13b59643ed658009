"""`palm-serve run`: its flags are made of `config.ServeOptions`."""

import inspect
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from palm_serve.cli.settings import as_toml, flag, resolve
from palm_serve.cli.shared import faults, say, start_log
from palm_serve.config import GROUPS, ServeOptions
from palm_serve.errors import ConfigError


def run(config: Path | None, print_config: bool, **flags: Any) -> None:
    """Serves one or more bundles until SIGTERM or Ctrl-C; then finishes what runs.

    Every option is also a variable of the environment (--max-queue: PALM_SERVE_MAX_QUEUE) and a key of the file that
    --config names (max_queue). The command line goes before the environment, the environment before the file. Several
    bundles in PALM_SERVE_BUNDLES are separated as in PATH.
    """
    with faults():
        given = {name: value for name, value in flags.items() if value not in (None, [])}
        settings = resolve(given, config, os.environ)
        if print_config:
            typer.echo(as_toml(settings), nl=False)
            return
        if not settings.options.bundles and settings.options.watch is None:
            raise ConfigError(
                "no bundle to serve: name one, as in `palm-serve run bundles/demo`, or a directory of them with --watch"
            )
        _serve(settings.options)


def _serve(options: ServeOptions) -> None:
    start_log(options.log_level, options.log_format, options.log_text, options.access_log)
    _warn_where_open(options)
    import asyncio

    from palm_serve.server import serve

    asyncio.run(serve(options, say))


def _warn_where_open(options: ServeOptions) -> None:
    if options.tls is None and not _is_loopback(options.host):
        risk = (
            "this server has neither TLS nor tokens: anyone there can read and ask; see --tls-cert and --tokens"
            if options.tokens is None
            else "this server has no TLS: whoever listens on the way gets the tokens; see --tls-cert"
        )
        say(f"warning: {options.host} is reached from other machines, and {risk}", err=True)
    _warn_of_metrics(options)


def _warn_of_metrics(options: ServeOptions) -> None:
    host = options.metrics_host or options.host
    if options.metrics_port is None or _is_loopback(host):
        return
    if options.metrics_needs_token and not options.metrics_tls:
        risk = "metrics are read without TLS: whoever listens on the way gets the token; see --metrics-tls"
    elif not options.metrics_needs_token and not (options.metrics_tls and options.tls_client_ca):
        risk = (
            "metrics are open: anyone there can read what is served and how much it is asked; "
            "see --metrics-host and --metrics-needs-token"
        )
    else:
        return
    say(f"warning: {host} is reached from other machines, and {risk}", err=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _parameters() -> Iterator[inspect.Parameter]:
    """The parameters of the command as typer wants to see them. None is "not given": a default would hide the file's value."""
    for group in GROUPS:
        for name in group.__annotations__:
            yield _parameter(name, ServeOptions.model_fields[name], str(group.__doc__))
    for name, kind, told in (
        ("config", Path | None, "TOML file with options; its paths are relative to it. [PALM_SERVE_CONFIG]"),
        ("print_config", bool, "Print the options that apply and where each is from, as TOML, and end."),
    ):
        default = None if name == "config" else False
        option = typer.Option(flag(name), help=told, rich_help_panel="Configuration")
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
        )


def _parameter(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    kind: Any = next((part for part in get_args(field.annotation) if part is not NoneType), field.annotation)
    bounds: dict[str, Any] = {}
    for limit in field.metadata:
        bounds |= {"min": limit.ge} if isinstance(limit, Ge) else {"max": limit.le} if isinstance(limit, Le) else {}
    if get_origin(field.annotation) is tuple:
        info: Any = typer.Argument(metavar="BUNDLE...", help=field.description, show_default=False)
        annotation: Any = Annotated[list[Path] | None, info]
    else:
        names = (f"{flag(name)}/--no-{flag(name)[2:]}",) if kind is bool else (flag(name),)
        info = typer.Option(
            *names,
            help=f"{field.description}{_default(field.default)}",
            **bounds,
            rich_help_panel=panel,
        )
        annotation = Annotated[kind | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _default(value: Any) -> str:
    return f" Default: {value}." if isinstance(value, int | float | str) and not isinstance(value, bool) else ""


run.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]
