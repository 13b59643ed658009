"""Certificates of the server: checked when they are read, and read again when the files change.

grpc asks before every new connection, so a new certificate serves from the next connection on; open connections keep theirs.
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
    """The certificate, its key, and the authority whose certificates clients must show. Raises TlsError where they cannot serve.

    Later, files that cannot serve change nothing: what was read before stays, and the log tells why. Threads may share it.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._looking = threading.Lock()
        self._stamps = self._look()
        self._contents, self.context = self._read()
        self._given = self._contents
        self.read_at = time.time()
        """Unix seconds: when the files that serve were read."""
        self.failed_at = 0.0
        """Unix seconds: when files that cannot serve were found; 0: never."""

    @property
    def expires(self) -> float:
        """Unix seconds: when the certificate that serves, or one of its chain, expires."""
        return expiry(self._contents.certificate)

    def credentials(self) -> grpc.ServerCredentials:
        """What a server listens with."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._contents), self.renewed, self._contents.client_ca is not None
        )

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration when the files hold another one than last time, else None; grpc calls it in its own threads."""
        self.look()
        contents = self._contents
        if contents == self._given:
            return None
        self._given = contents
        return _configuration(contents)

    def look(self) -> None:
        """Reads the files again where they have changed."""
        with self._looking:
            # Looked at before they are read: what changes in between is seen the next time.
            stamps = self._look()
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
                log.info("a new certificate serves from the next connection on")

    def _look(self) -> list[tuple[int, int, int] | None]:
        """Something that changes when a file does, also where it is a link that is pointed elsewhere."""
        return [None if path is None else _stamp(path) for path in self._paths]

    @property
    def _paths(self) -> tuple[Path, Path, Path | None]:
        return self._files.certificate, self._files.key, self._files.client_ca

    def _read(self) -> tuple[_Contents, ssl.SSLContext]:
        contents = self._contents_now()
        certificate, key, client_ca = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without the function OpenSSL would ask for the password of an encrypted key on the terminal.
            context.load_cert_chain(certificate, key, password=lambda: "")
        except (ssl.SSLError, OSError) as error:
            raise TlsError(
                f"{certificate} and {key} are no certificate and its key ({_reason(error)}); both are PEM, the certificate "
                "first in its file and before its chain, the key without a password"
            ) from None
        if client_ca is not None:
            try:
                context.load_verify_locations(client_ca)
            except (ssl.SSLError, OSError) as error:
                raise TlsError(f"{client_ca} holds no certificates in PEM ({_reason(error)})") from None
            context.verify_mode = ssl.CERT_REQUIRED
        if contents != self._contents_now():
            raise TlsError(f"{certificate} and {key} were replaced while they were read")
        return contents, context

    def _contents_now(self) -> _Contents:
        certificate, key, client_ca = self._paths
        return _Contents(_bytes(certificate), _bytes(key), None if client_ca is None else _bytes(client_ca))


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


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}") from None


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
