"""Certificates and keys in PEM. What OpenSSL has accepted is what is used: each file is read once."""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from palm_serve.errors import TlsError
from palm_serve.system.files import read_bytes

_BEGIN = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class PemFile:
    """The contents of a PEM file."""

    path: Path
    data: bytes


def read_pem(path: Path, content: str) -> PemFile:
    """Read a PEM file.

    Args:
        path: the file.
        content: what it holds, for the message.

    Raises:
        TlsError: if the file cannot be read or is not PEM.
    """
    data = read_bytes(path, TlsError)
    if _BEGIN not in data:
        contents = "other contents" if data.strip() else "an empty file"
        raise TlsError(f"{path} must hold {content} in PEM, got {contents}. Its lines begin with -----BEGIN.")
    return PemFile(path, data)


def load_pair(context: ssl.SSLContext, certificate: PemFile, key: PemFile) -> None:
    """Load a certificate and its key into a context.

    Args:
        context: the context.
        certificate: the certificate, followed by its chain.
        key: the private key of the certificate.

    Raises:
        TlsError: if they cannot be used together.
    """
    try:
        with _as_file(certificate.data) as certificate_path, _as_file(key.data) as key_path:
            # Without a password function OpenSSL would prompt for the password of an encrypted key on the terminal.
            context.load_cert_chain(certificate_path, key_path, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        raise TlsError(
            f"{certificate.path} and {key.path} must be a certificate and its key in PEM, got {_reason(error)}. "
            "Put the certificate before its chain, and remove the password of the key."
        ) from None


def load_authorities(context: ssl.SSLContext, authorities: PemFile) -> None:
    """Load the certificates of authorities into a context. Raises TlsError if they cannot be used."""
    try:
        with _as_file(authorities.data) as path:
            context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(
            f"{authorities.path} must hold certificates in PEM, got {_reason(error)}. Check the file."
        ) from None


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Write data to a file without a name, because OpenSSL reads files only. On Linux it lies in memory."""
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("pem"), "w+b") if in_memory else tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
