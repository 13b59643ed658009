"""Options of the commands that call a server: TLS and the token."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from palm_serve.client.credentials import ChannelCredentials

OverTls = Annotated[bool, typer.Option("--tls", help="Over TLS, with the authorities that grpc ships.")]
TlsCa = Annotated[Path | None, typer.Option(help="Over TLS, with this authority, PEM.")]
TlsCert = Annotated[Path | None, typer.Option(help="Over TLS, with this client certificate, PEM.")]
TlsKey = Annotated[Path | None, typer.Option(help="Key of --tls-cert, PEM.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="Send the token in this file; default: that of the variable PALM_TOKEN, if any.")
]
PlainToken = Annotated[bool, typer.Option("--plain-token", help="Send the token also to another machine without TLS.")]


def chosen_token(file: Path | None) -> str | None:
    """The token of the file, else that of the environment. Raises TokenFileError."""
    from palm_serve.client import TOKEN_VARIABLE, read_token

    return (os.environ.get(TOKEN_VARIABLE) if file is None else read_token(file)) or None


def chosen_credentials(
    over_tls: bool, ca: Path | None, certificate: Path | None, key: Path | None
) -> "ChannelCredentials | None":
    """What TLS needs; None: plain text. Raises TlsError."""
    from palm_serve.client import tls

    return tls(ca, certificate, key) if over_tls or ca or certificate or key else None
