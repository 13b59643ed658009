"""`palm-serve run`. Its flags are generated from `config.ServeOptions`."""

import gc
import inspect
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from palm_serve.cli.settings import as_toml, flag, resolve
from palm_serve.cli.shared import report_errors, say, start_log, write_line
from palm_serve.config import GROUPS, ServeOptions
from palm_serve.errors import ConfigError
from palm_serve.system.addresses import is_loopback, is_unix

_THREAD_SWITCH_S = 0.002
"""Longest time for which a thread that decodes or tokenizes keeps others from running. Python's default is 5 ms."""


def run(config: Path | None, print_config: bool, **flags: Any) -> None:
    """Serve one or more bundles until SIGTERM or Ctrl-C.

    A stopping server finishes the running calls.

    Every option is also an environment variable (--max-queue: PALM_SERVE_MAX_QUEUE) and a key of the file of --config
    (max_queue). The command line overrides the environment, and the environment overrides the file. Separate several
    bundles in PALM_SERVE_BUNDLES as in PATH.
    """
    with report_errors():
        overrides = {name: value for name, value in flags.items() if value not in (None, [])}
        resolved = resolve(overrides, config, os.environ)
        if print_config:
            write_line(as_toml(resolved).removesuffix("\n"))
            return
        if not resolved.options.bundles and resolved.options.watch is None:
            raise ConfigError(
                "no bundle to serve. Name one, as in `palm-serve run bundles/demo`, or set --watch to a directory of bundles."
            )
        _serve(resolved.options)


def _serve(options: ServeOptions) -> None:
    # Until the server takes it as "read tokens and certificates again", a hang-up of the terminal has no meaning.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    start_log(options.log_level, options.log_format, options.log_text, options.access_log)
    _warn_if_exposed(options)
    _warn_if_metrics_exposed(options)
    import asyncio

    from palm_serve.server import serve

    # The event loop needs the interpreter's lock many times for one call, and others hold it for so long each time.
    sys.setswitchinterval(_THREAD_SWITCH_S)
    # Else each full collection of garbage looks at the 70,000 objects of modules, and all calls wait for 30 ms.
    gc.freeze()
    asyncio.run(serve(options, say))


def _warn_if_exposed(options: ServeOptions) -> None:
    if options.tls is not None or is_unix(options.host) or is_loopback(options.host):
        return
    if options.tokens is None:
        risk = "the server has neither TLS nor tokens: anyone can call it and read the traffic. See --tls-cert and --tokens."
    else:
        risk = "the server has no TLS: tokens can be intercepted. See --tls-cert."
    say(f"warning: {options.host} is reachable from other machines, and {risk}", err=True)


def _warn_if_metrics_exposed(options: ServeOptions) -> None:
    host = options.metrics_host or options.tcp_host
    if options.metrics_port is None or is_loopback(host):
        return
    if options.metrics_needs_token and not options.metrics_tls:
        risk = "metrics are served without TLS: the token can be intercepted. See --metrics-tls."
    elif not options.metrics_needs_token and not (options.metrics_tls and options.tls_client_ca):
        risk = (
            "metrics are open: anyone can read the names of the models and the traffic figures. "
            "See --metrics-host and --metrics-needs-token."
        )
    else:
        return
    say(f"warning: {host} is reachable from other machines, and {risk}", err=True)


def _parameters() -> Iterator[inspect.Parameter]:
    """Yield the parameters of the command for typer. All defaults are None, so that an unused flag does not override the file."""
    for group in GROUPS:
        for name in group.__annotations__:
            yield _parameter(name, ServeOptions.model_fields[name], str(group.__doc__))
    config = typer.Option(
        flag("config"),
        help="TOML file with options. Its paths are relative to the file. [PALM_SERVE_CONFIG]",
        rich_help_panel="Configuration",
    )
    yield inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, config]
    )
    print_config = typer.Option(
        flag("print_config"),
        help="Print the resolved options and the source of each as TOML, and exit.",
        rich_help_panel="Configuration",
    )
    yield inspect.Parameter(
        "print_config", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, print_config]
    )


def _parameter(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    kind: Any = field.annotation
    for member in get_args(field.annotation):
        if member is not NoneType:
            kind = member
            break
    bounds: dict[str, Any] = {}
    for constraint in field.metadata:
        if isinstance(constraint, Ge):
            bounds["min"] = constraint.ge
        elif isinstance(constraint, Le):
            bounds["max"] = constraint.le
    if get_origin(field.annotation) is tuple:
        info: Any = typer.Argument(metavar="BUNDLE...", help=field.description, show_default=False)
        annotation: Any = Annotated[list[Path] | None, info]
    else:
        names = (f"{flag(name)}/--no-{flag(name)[2:]}",) if kind is bool else (flag(name),)
        info = typer.Option(
            *names,
            help=f"{field.description}{_default_note(field.default)}",
            **bounds,
            rich_help_panel=panel,
        )
        annotation = Annotated[kind | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _default_note(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return ""
    return f" Default: {value}."


run.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]
