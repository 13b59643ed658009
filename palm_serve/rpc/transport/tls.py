"""Certificates of the server. They are checked when they are read, and read again when the files change.

grpc requests the certificate for every new connection, so a new one is used from the next connection on.
"""

import logging
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc

from palm_serve.config import TlsFiles
from palm_serve.errors import TlsError
from palm_serve.rpc.transport.x509 import chain_validity, expiry, have_expired
from palm_serve.system.pem import load_authorities, load_pair, read_pem

log = logging.getLogger(__name__)

_SOON_S = 7 * 86400.0
"""Seconds before the expiry from which on there is a warning."""


@dataclass(frozen=True, slots=True)
class _Contents:
    certificate: bytes
    key: bytes
    client_ca: bytes | None

    def warning(self, now: float) -> str:
        """Return what is wrong with the validity of the certificates at a time in Unix seconds, or "".

        Args:
            now: the time.
        """
        chain = chain_validity(self.certificate)
        if chain.end <= now:
            return f"expired at {_utc(chain.end)}. Clients refuse it"
        if chain.begin > now:
            return f"is not valid before {_utc(chain.begin)}. Clients refuse it"
        if self.client_ca is not None and have_expired(self.client_ca, now):
            return "is valid, but all authorities of client certificates have expired. Clients are refused"
        if chain.end - now <= _SOON_S:
            return f"expires at {_utc(chain.end)}, in less than 7 days"
        return ""


class Certificates:
    """The server's certificate, its key, and the authority of client certificates. Threads may share it.

    If changed files cannot be used, the former certificate stays in use, and the reason is logged.

    Args:
        files: the PEM files.

    Raises:
        TlsError: if the files cannot be used at the start.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._stamps = self._current_stamps()
        self._contents, self.context = self._read()
        self._warned = ""
        self._warn()
        self._last_sent = self._contents
        self.read_at = time.time()
        """Time at which the files in use were read, in Unix seconds."""
        self.failed_at = 0.0
        """Time of the last failed reload, in Unix seconds. 0: never."""

    @property
    def expires(self) -> float:
        """Return the expiry of the certificate or of the first of its chain, in Unix seconds."""
        return expiry(self._contents.certificate)

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials with which a server listens."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._contents), self.renewed, self._contents.client_ca is not None
        )

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration if it has changed since the last call, else None. grpc calls this on its own threads."""
        self.look()
        contents = self._contents
        if contents == self._last_sent:
            return None
        self._last_sent = contents
        return _configuration(contents)

    def look(self) -> None:
        """Read the files again if they have changed."""
        with self._lock:
            # Taken before the files are read, so that a change in between is noticed the next time.
            stamps = self._current_stamps()
            if stamps == self._stamps:
                self._warn()
                return
            self._stamps = stamps
            try:
                contents, context = self._read()
            except TlsError as error:
                self.failed_at = time.time()
                log.error("the certificate stays as it was: %s", error)
                return
            self.read_at = time.time()
            if contents != self._contents:
                self._contents, self.context = contents, context
                log.info("a new certificate is used from the next connection on")
            self._warn()

    def _warn(self) -> None:
        """Log what is wrong with the validity of the certificates, once."""
        warning = self._contents.warning(time.time())
        if warning and warning != self._warned:
            log.warning("the certificate %s %s. Replace it.", self._files.certificate, warning)
        self._warned = warning

    def _current_stamps(self) -> list[tuple[int, int, int] | None]:
        """Return values that change when a file changes, or when a link points to another file."""
        return [None if path is None else _stamp(path) for path in self._paths]

    @property
    def _paths(self) -> tuple[Path, Path, Path | None]:
        return self._files.certificate, self._files.key, self._files.client_ca

    def _read(self) -> tuple[_Contents, ssl.SSLContext]:
        certificate = read_pem(self._files.certificate, "a certificate")
        key = read_pem(self._files.key, "a private key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_pair(context, certificate, key)
        client_ca = None
        if self._files.client_ca is not None:
            authorities = read_pem(self._files.client_ca, "certificates")
            load_authorities(context, authorities)
            context.verify_mode = ssl.CERT_REQUIRED
            client_ca = authorities.data
        return _Contents(certificate.data, key.data, client_ca), context


def _configuration(contents: _Contents) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(contents.key, contents.certificate)], root_certificates=contents.client_ca
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
