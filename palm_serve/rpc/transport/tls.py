"""Certificates of the server. They are checked when they are read, and read again when the files change.

grpc requests the certificate for every new connection, so a new one is used from the next connection on.
"""

import logging
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import grpc

from palm_serve.config import TlsFiles
from palm_serve.errors import TlsError
from palm_serve.rpc.transport.x509 import expiry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Contents:
    certificate: bytes
    key: bytes
    client_ca: bytes | None


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

    def _current_stamps(self) -> list[tuple[int, int, int] | None]:
        """Return values that change when a file changes, or when a link points to another file."""
        return [None if path is None else _stamp(path) for path in self._paths]

    @property
    def _paths(self) -> tuple[Path, Path, Path | None]:
        return self._files.certificate, self._files.key, self._files.client_ca

    def _read(self) -> tuple[_Contents, ssl.SSLContext]:
        contents = self._current_contents()
        certificate, key, client_ca = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a password function OpenSSL would prompt for the password of an encrypted key on the terminal.
            context.load_cert_chain(certificate, key, password=lambda: "")
        except (ssl.SSLError, OSError) as error:
            raise TlsError(
                f"{certificate} and {key} must be a certificate and its key in PEM, got {_reason(error)}. Put the certificate before "
                "its chain, and remove the password of the key."
            ) from None
        if client_ca is not None:
            try:
                context.load_verify_locations(client_ca)
            except (ssl.SSLError, OSError) as error:
                raise TlsError(
                    f"{client_ca} must hold certificates in PEM, got {_reason(error)}. Check the file."
                ) from None
            context.verify_mode = ssl.CERT_REQUIRED
        if contents != self._current_contents():
            raise TlsError(f"{certificate} and {key} must not change while they are read. They are read again.")
        return contents, context

    def _current_contents(self) -> _Contents:
        certificate, key, client_ca = self._paths
        return _Contents(_read_file(certificate), _read_file(key), None if client_ca is None else _read_file(client_ca))


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


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}") from None


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
