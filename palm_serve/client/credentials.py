"""Certificates and access token of a client. A token is not sent over an insecure network."""

import ssl
from pathlib import Path
from typing import TypeAlias

import grpc

from palm_serve.errors import TlsError, TokenFileError
from palm_serve.system.addresses import is_local_target
from palm_serve.system.files import read_text
from palm_serve.system.pem import load_authorities, load_pair, read_pem

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
        TlsError: if a file cannot be used, or only one of certificate and key is given.
    """
    if (certificate is None) != (key is None):
        raise TlsError("the client's certificate and key must be given together. Give both, or neither.")
    # grpc checks nothing before the first call, and does not say what is wrong with a file.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities = None
    if ca is not None:
        authorities = read_pem(ca, "certificates")
        load_authorities(context, authorities)
    if certificate is None or key is None:
        return grpc.ssl_channel_credentials(None if authorities is None else authorities.data)
    own_certificate = read_pem(certificate, "a certificate")
    own_key = read_pem(key, "a private key")
    load_pair(context, own_certificate, own_key)
    return grpc.ssl_channel_credentials(
        None if authorities is None else authorities.data, own_key.data, own_certificate.data
    )


def read_token(path: Path) -> str:
    """Read the token in a file, without surrounding white space.

    Raises:
        TokenFileError: if the file cannot be read or is empty.
    """
    token = read_text(path, TokenFileError).strip()
    if not token:
        raise TokenFileError(
            f"{path} must hold an access token, got an empty file. `palm-serve token new NAME` prints one."
        )
    return token


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
    if credentials is None and not plain_token and not is_local_target(target):
        raise TlsError(
            f"the token must not be sent to {target} in plain text. Give credentials=tls(...), or plain_token=True if the "
            "network is trusted."
        )
    return (("authorization", f"Bearer {token}"),)
