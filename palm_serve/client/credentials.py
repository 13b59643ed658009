"""Certificates and access token of a client. A token is not sent over an insecure network."""

import ipaddress
import re
from pathlib import Path
from typing import TypeAlias

import grpc

from palm_serve.errors import TlsError, TokenFileError

TOKEN_VARIABLE = "PALM_TOKEN"
ChannelCredentials: TypeAlias = grpc.ChannelCredentials
Headers = tuple[tuple[str, str], ...]


def tls(ca: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> ChannelCredentials:
    """Create the credentials for a server with TLS.

    Args:
        ca: PEM file of the authorities that may have signed the server's certificate. None: those that grpc ships.
        certificate: PEM file of the client's certificate, where the server requires one.
        key: PEM file of the certificate's private key.

    Raises:
        TlsError: if a file cannot be read, or only one of certificate and key is given.
    """
    if (certificate is None) != (key is None):
        raise TlsError("the client's certificate and key must be given together. Give both, or neither.")
    return grpc.ssl_channel_credentials(
        None if ca is None else _read_file(ca),
        None if key is None else _read_file(key),
        None if certificate is None else _read_file(certificate),
    )


def read_token(path: Path) -> str:
    """Read the token in a file, without surrounding white space.

    Raises:
        TokenFileError: if the file cannot be read.
    """
    try:
        return path.read_text().strip()
    except OSError as error:
        raise TokenFileError(f"{path} cannot be read: {error.strerror}") from None


def headers(target: str, credentials: ChannelCredentials | None, token: str | None, plain_token: bool) -> Headers:
    """Return the metadata that every call sends.

    Args:
        target: gRPC name of the server.
        credentials: TLS credentials. None: plain text.
        token: access token. None: no token.
        plain_token: allow the token to be sent to another machine without TLS.

    Raises:
        TlsError: if the token would be sent to another machine in plain text.
        TokenFileError: if the token is not printable ASCII.
    """
    if token is None:
        return ()
    if not (token.isascii() and token.isprintable() and token):
        raise TokenFileError("a token must be printable ASCII, got other characters. Check that it is the right file.")
    if credentials is None and not plain_token and not _is_local(target):
        raise TlsError(
            f"the token must not be sent to {target} in plain text. Give credentials=tls(...), or plain_token=True if the "
            "network is trusted."
        )
    return (("authorization", f"Bearer {token}"),)


def _is_local(target: str) -> bool:
    """Return true if a gRPC name refers to this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = re.sub(r"^(dns:(//[^/]*/)?|ipv[46]:)", "", target)
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}") from None
