"""`palm-serve health`."""

import ipaddress
import os
from typing import Annotated

import typer

from palm_serve.cli.connection import (
    OverTls,
    PlainToken,
    TlsCa,
    TlsCert,
    TlsKey,
    TokenFile,
    chosen_credentials,
    chosen_token,
)
from palm_serve.cli.settings import resolve
from palm_serve.cli.shared import faults
from palm_serve.config import ServeOptions

Address = Annotated[
    str | None,
    typer.Argument(
        metavar="ADDRESS",
        help="HOST:PORT. Default: where a server of this machine answers health, by the variables that `palm-serve run` reads.",
        show_default=False,
    ),
]


def health(
    address: Address = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="A model; default: the server and all its models.")] = "",
    timeout: Annotated[float, typer.Option(min=0.001, help="Deadline, seconds.")] = 3.0,
    over_tls: OverTls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    plain_token: PlainToken = False,
) -> None:
    """Tells whether a server is ready. Exit code 0: it serves; 1: it does not, or does not answer; 2: it cannot be asked like this.

    For the health check of a container, which runs it again and again: it tries once.
    """
    with faults():
        from palm_serve.client import Client

        target = address or _own_address(resolve({}, None, os.environ).options)
        credentials = chosen_credentials(over_tls, tls_ca, tls_cert, tls_key)
        token = chosen_token(token_file)
        with Client(
            target, timeout_s=timeout, retries=0, credentials=credentials, token=token, plain_token=plain_token
        ) as client:
            serves = client.health(model)
    typer.echo(f"{f'{model} of ' if model else ''}{target} {'serves' if serves else 'does not serve'}")
    if not serves:
        raise typer.Exit(1)


def _own_address(options: ServeOptions) -> str:
    """Where a server with these options answers health on this machine: in plain text if anywhere."""
    try:
        host = ipaddress.ip_address(options.host.strip("[]"))
    except ValueError:
        name = options.host
    else:
        # Who listens everywhere listens here too.
        near = host if not host.is_unspecified else "::1" if host.version == 6 else "127.0.0.1"
        name = f"[{near}]" if host.version == 6 else str(near)
    return f"{name}:{options.health_port or options.port}"
