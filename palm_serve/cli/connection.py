"""TLS and token options of the commands that call a server."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from palm_serve.client.credentials import ChannelCredentials

OverTls = Annotated[bool, typer.Option("--tls", help="Use TLS with the certificate authorities that grpc ships.")]
TlsCa = Annotated[Path | None, typer.Option(help="Use TLS with this certificate authority (PEM).")]
TlsCert = Annotated[Path | None, typer.Option(help="Use TLS with this client certificate (PEM).")]
TlsKey = Annotated[Path | None, typer.Option(help="Private key of --tls-cert (PEM).")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File that holds the access token. Default: the environment variable PALM_TOKEN, if set."),
]
PlainToken = Annotated[
    bool, typer.Option("--plain-token", help="Allow the token to be sent to another machine without TLS.")
]


def find_token(file: Path | None) -> str | None:
    """Return the token of the file, else that of the environment, else None.

    Raises:
        TokenFileError: if the file cannot be read.
    """
    from palm_serve.client import TOKEN_VARIABLE, read_token

    return (os.environ.get(TOKEN_VARIABLE) if file is None else read_token(file)) or None


def read_credentials(
    over_tls: bool, ca: Path | None, certificate: Path | None, key: Path | None
) -> "ChannelCredentials | None":
    """Return the TLS credentials, or None if no TLS option is set.

    Args:
        over_tls: use TLS even if no file is given.
        ca: PEM file of the certificate authority of the server.
        certificate: PEM file of the client's certificate.
        key: PEM file of the certificate's private key.

    Raises:
        TlsError: if a file cannot be read, or the certificate and its key are not given together.
    """
    from palm_serve.client import tls

    return tls(ca, certificate, key) if over_tls or ca or certificate or key else None
