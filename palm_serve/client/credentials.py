"""What a client shows a server: certificates, and a token that is not sent where it could be read."""

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
    """Credentials for a server with TLS.

    Args:
        ca: authorities that may have signed the server's certificate, PEM; None: those that grpc ships.
        certificate, key: the client's own, PEM, where the server asks for one.

    Raises TlsError.
    """
    if (certificate is None) != (key is None):
        raise TlsError("a client's certificate needs its key, and the key its certificate: give both or none")
    return grpc.ssl_channel_credentials(*(path and _contents(path) for path in (ca, key, certificate)))


def read_token(path: Path) -> str:
    """The token in a file, without the white space around it. Raises TokenFileError."""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise TokenFileError(f"{path} cannot be read: {error.strerror}") from None


def headers(target: str, credentials: ChannelCredentials | None, token: str | None, plain: bool) -> Headers:
    """What goes with every call. Raises TlsError rather than let a token be read on the way."""
    if token is None:
        return ()
    if not (token.isascii() and token.isprintable() and token):
        raise TokenFileError("a token is printable ASCII, and this one is not: is it the right file?")
    if credentials is None and not plain and not _stays_here(target):
        raise TlsError(
            f"the token would travel to {target} in plain text: give credentials=tls(...), or plain_token=True where the "
            "network is trusted"
        )
    return (("authorization", f"Bearer {token}"),)


def _stays_here(target: str) -> bool:
    """Whether a gRPC name stands for this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = re.sub(r"^(dns:(//[^/]*/)?|ipv[46]:)", "", target)
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}") from None
