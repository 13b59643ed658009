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
    find_token,
    read_credentials,
)
from palm_serve.cli.settings import resolve
from palm_serve.cli.shared import report_errors, write_line
from palm_serve.config import ServeOptions
from palm_serve.system.addresses import is_unix

Address = Annotated[
    str | None,
    typer.Argument(
        metavar="ADDRESS",
        help="HOST:PORT or unix:PATH. Default: the health address of the local server, from the variables of `palm-serve run`.",
        show_default=False,
    ),
]


def health(
    address: Address = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Check this model. Default: the server and all its models.")
    ] = "",
    timeout: Annotated[float, typer.Option(min=0.001, max=1e6, help="Deadline in seconds.")] = 3.0,
    over_tls: OverTls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    plain_token: PlainToken = False,
) -> None:
    """Check whether a server is ready. Exit code 0: ready. 1: not ready or no answer. 2: wrong usage or refused.

    Made for the health check of a container, so it tries once and uses no proxy.
    """
    with report_errors():
        from palm_serve.client import Client

        target = address or _local_address(resolve({}, None, os.environ).options)
        credentials = read_credentials(over_tls, tls_ca, tls_cert, tls_key)
        token = find_token(token_file)
        with Client(
            target,
            timeout_s=timeout,
            retries=0,
            credentials=credentials,
            token=token,
            plain_token=plain_token,
            use_proxy=False,
        ) as client:
            ready = client.health(model)
    subject = f"{model} of {target}" if model else target
    write_line(f"{subject} {'serves' if ready else 'does not serve'}")
    if not ready:
        raise typer.Exit(1)


def _local_address(options: ServeOptions) -> str:
    """Return the address at which a local server with these options answers health checks, without TLS if possible."""
    if is_unix(options.host) and options.health_port is None:
        return options.host
    try:
        host = ipaddress.ip_address(options.tcp_host.strip("[]"))
    except ValueError:
        name = options.tcp_host
    else:
        # A server that listens on all addresses also listens on the loopback address.
        if host.is_unspecified:
            host = ipaddress.ip_address("::1" if host.version == 6 else "127.0.0.1")
        name = f"[{host}]" if host.version == 6 else str(host)
    return f"{name}:{options.health_port or options.port}"
