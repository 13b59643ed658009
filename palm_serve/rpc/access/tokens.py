"""Bearer tokens: who may call what. The file holds hashes and is read again when it changes.

    [tokens.frontend]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["parse", "read"]
    expires = 2027-01-01T00:00:00Z     # optional

    [tokens.backend]
    certificate = "backend.example"    # instead of a token: a name in a client's certificate (TLS with client_ca)
    scopes = ["parse"]

A plain SHA-256 is enough, and a slow, salted hash would be wrong: a token is 256 random bits, so there is no dictionary
to try against a stolen file, and every call would pay for the slowness.
"""

import hashlib
import hmac
import logging
import secrets
import threading
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from palm_serve.errors import NotAllowed, TokenFileError, Unauthenticated

log = logging.getLogger(__name__)

_HEADER = "authorization"
_SCHEME = "bearer "
_PREFIX = "palm_"
"""So that scanners for leaked secrets can know one."""
_RANDOM_BYTES = 32
_KEY_BYTES = 8

_ASK = "this server asks for a token: send `authorization: Bearer TOKEN` with the call"

Metadata = Iterable[tuple[str, str | bytes]]
Identities = Callable[[], Iterable[bytes] | None]


class Scope(StrEnum):
    """What a token may be for; each method has one."""

    PARSE = "parse"
    """Every inference of every protocol."""
    READ = "read"
    """Models, metadata, statistics, reflection."""
    CONTROL = "control"
    """Loading, unloading, labels."""
    METRICS = "metrics"
    """What Prometheus scrapes, where the server is told to ask for it."""
    HEALTH = "health"
    """Whether the server and its models are ready; answered without a token unless the server is told otherwise."""


@dataclass(frozen=True, slots=True)
class Token:
    """One entry of the file."""

    name: str
    scopes: frozenset[Scope]
    expires: datetime | None

    def check(self, scope: Scope) -> None:
        """Raises Unauthenticated when it has expired, NotAllowed when it is not for `scope`."""
        if self.expires is not None and time.time() >= self.expires.timestamp():
            raise Unauthenticated(
                f"the token '{self.name}' expired at {self.expires:%Y-%m-%d %H:%M} UTC: get a new one"
            )
        if scope not in self.scopes:
            held = ", ".join(sorted(self.scopes))
            raise NotAllowed(f"the token '{self.name}' is for {held}; this method needs the scope '{scope}'")


@dataclass(slots=True)
class _Held:
    """The entries of a file, as they are looked up."""

    by_hash: dict[bytes, tuple[bytes, Token]] = field(default_factory=dict)
    by_certificate: dict[str, Token] = field(default_factory=dict)


class Tokens:
    """The tokens of a file. Raises TokenFileError where it cannot be used.

    Later, a file that cannot be used changes nothing: what was read before stays, and the log tells why.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looking = threading.Lock()
        self._stamp = _look(path)
        self._held = _read(path)
        self.read_at = time.time()
        """Unix seconds: when the tokens that hold were read."""
        self.failed_at = 0.0
        """Unix seconds: when a file that cannot be used was found; 0: never."""

    def check(self, metadata: Metadata, scope: Scope, identities: Identities = tuple) -> str:
        """The name of the token that a call shows, or of the entry for its certificate. Raises Unauthenticated, NotAllowed.

        Args:
            metadata: of the call.
            scope: that its method needs.
            identities: gives the names in the client's certificate, where it showed one; asked where there is no token.
        """
        self.look()
        given = next((value for key, value in metadata if key == _HEADER and isinstance(value, str)), "")
        token = self._shown(given) if given else self._certified(identities() or ())
        token.check(scope)
        return token.name

    def _shown(self, given: str) -> Token:
        if not given.lower().startswith(_SCHEME):
            raise Unauthenticated(_ASK)
        digest = _digest(given[len(_SCHEME) :].strip())
        # The first bytes only find the entry; what is compared in full is compared in constant time.
        known, token = self._held.by_hash.get(digest[:_KEY_BYTES], (b"", None))
        if token is None or not hmac.compare_digest(known, digest):
            raise Unauthenticated("the token is unknown to this server, or was revoked: get a new one")
        return token

    def _certified(self, identities: Iterable[bytes]) -> Token:
        for identity in identities:
            token = self._held.by_certificate.get(identity.decode(errors="replace"))
            if token is not None:
                return token
        raise Unauthenticated(_ASK)

    def look(self) -> None:
        """Reads the file again if it has changed. Threads may call it."""
        with self._looking:
            stamp = _look(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self.reload()

    def reload(self) -> None:
        """Reads the file again."""
        try:
            self._held = _read(self._path)
        except TokenFileError as error:
            self.failed_at = time.time()
            log.error("the tokens stay as they were: %s", error)
        else:
            self.read_at = time.time()
            log.info("%d tokens were read again", len(self._held.by_hash) + len(self._held.by_certificate))


def new_token() -> tuple[str, str]:
    """A random token and its hash for the file."""
    token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return token, _digest(token).hex()


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    certificate: Annotated[str, StringConstraints(min_length=1)] | None = None
    scopes: frozenset[Scope]
    expires: datetime | None = None

    @model_validator(mode="after")
    def _one_proof(self) -> "_Entry":
        if (self.sha256 is None) == (self.certificate is None):
            raise ValueError("an entry has either sha256 or certificate")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: dict[str, _Entry]


def _read(path: Path) -> _Held:
    try:
        file = _File.model_validate(tomllib.loads(path.read_bytes().decode()))
    except OSError as error:
        raise TokenFileError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TokenFileError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        # Without the values: one may be a token in the place of its hash.
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise TokenFileError(
            f"{path} is no file of tokens ({faults}); `palm-serve token new NAME` prints what an entry looks like"
        ) from None
    held = _Held()
    for name, entry in file.tokens.items():
        expires = entry.expires
        if expires is not None:
            expires = expires.replace(tzinfo=UTC) if expires.tzinfo is None else expires.astimezone(UTC)
        token = Token(name, entry.scopes, expires)
        if entry.sha256 is None:
            twin = held.by_certificate.setdefault(entry.certificate or "", token)
        else:
            digest = bytes.fromhex(entry.sha256)
            twin = held.by_hash.setdefault(digest[:_KEY_BYTES], (digest, token))[1]
        if twin is not token:
            raise TokenFileError(f"{path}: '{name}' has the proof of '{twin.name}': give each one of its own")
    return held


def _look(path: Path) -> tuple[int, int, int, int] | None:
    """Something that changes when the file does, also where it is a link that is pointed elsewhere."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
