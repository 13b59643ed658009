"""Bearer tokens and their scopes. The file holds hashes and is read again when it changes.

    [tokens.frontend]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["parse", "read"]
    expires = 2027-01-01T00:00:00Z     # optional
    weight = 2                         # optional: share of the engine while others wait, twice that of a client with 1

    [tokens.backend]
    certificate = "backend.example"    # instead of a token: a name in the client's certificate (TLS with client_ca)
    scopes = ["parse"]

A plain SHA-256 is enough. A token is 256 random bits, so a stolen file cannot be attacked with a dictionary, and a slow hash
would delay every call.
"""

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from palm_serve.errors import NotAllowed, TokenFileError, Unauthenticated
from palm_serve.system.files import read_toml

log = logging.getLogger(__name__)

_HEADER = "authorization"
_SCHEME = "bearer "
_PREFIX = "palm_"
"""Prefix by which scanners for leaked secrets recognize a token."""
_RANDOM_BYTES = 32
_CLIENT_PREFIX = "token "
"""Keeps a token whose name is an address apart from that address."""
_LEAST_WEIGHT = 0.1
_LARGEST_WEIGHT = 100.0
_KEY_BYTES = 8
"""Bytes of a hash by which an entry is looked up."""

_TOKEN_REQUIRED = "this server asks for a token. Send `authorization: Bearer TOKEN` with the call."

Metadata = Iterable[tuple[str, str | bytes]]
Identities = Callable[[], Iterable[bytes] | None]


class Scope(StrEnum):
    """Permissions of a token. Each method requires one."""

    PARSE = "parse"
    """Inference with any protocol."""
    READ = "read"
    """Models, metadata, statistics, reflection."""
    CONTROL = "control"
    """Loading, unloading, labels."""
    FEEDBACK = "feedback"
    """Corrections of answers, which are saved to train on, with --feedback."""
    METRICS = "metrics"
    """Prometheus metrics, with --metrics-needs-token."""
    HEALTH = "health"
    """Health checks, with --health-needs-token."""


@dataclass(frozen=True, slots=True)
class Token:
    """One entry of the file of tokens."""

    name: str
    scopes: frozenset[Scope]
    expires: datetime | None

    def check(self, scope: Scope) -> None:
        """Check the token for a scope. Raises Unauthenticated if it has expired, NotAllowed if it lacks the scope."""
        if self.expires is not None and time.time() >= self.expires.timestamp():
            raise Unauthenticated(
                f"the token '{self.name}' expired at {self.expires:%Y-%m-%d %H:%M} UTC. Get a new token."
            )
        if scope not in self.scopes:
            scopes = ", ".join(sorted(self.scopes))
            raise NotAllowed(
                f"the token '{self.name}' must have the scope '{scope}', got {scopes}. Get a token with it."
            )


@dataclass(slots=True)
class _TokenTable:
    """The entries of a file, indexed for look-up."""

    by_hash: dict[bytes, tuple[bytes, Token]] = field(default_factory=dict)
    by_certificate: dict[str, Token] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each client that has one, by the name of the client."""


class Tokens:
    """The tokens of a file, which is read again when it changes.

    If a changed file cannot be used, the former tokens stay valid, and the reason is logged.

    Args:
        path: the file of tokens.

    Raises:
        TokenFileError: if the file cannot be used at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._table = _read(path)
        self.read_at = time.time()
        """Time at which the tokens in use were read, in Unix seconds."""
        self.failed_at = 0.0
        """Time of the last failed reload, in Unix seconds. 0: never."""

    def check(self, metadata: Metadata, scope: Scope, identities: Identities = tuple) -> str:
        """Check the token or the certificate of a call and return the name of its entry.

        Args:
            metadata: metadata of the call.
            scope: scope that the method requires.
            identities: returns the names in the client's certificate. Called if the call has no token.

        Raises:
            Unauthenticated: if there is no valid token or certificate.
            NotAllowed: if the entry lacks the scope.
        """
        self.look()
        header = ""
        for key, value in metadata:
            if key == _HEADER and isinstance(value, str):
                header = value
                break
        token = self._token_of(header) if header else self._token_of_certificate(identities() or ())
        token.check(scope)
        return token.name

    def client_weight(self, client: str) -> float:
        """Return the weight of a client by its name, for the turns at the engine. 1: none is given."""
        return self._table.weights.get(client, 1.0)

    def _token_of(self, header: str) -> Token:
        if not header.lower().startswith(_SCHEME):
            raise Unauthenticated(_TOKEN_REQUIRED)
        digest = _digest(header[len(_SCHEME) :].strip())
        # The first bytes only find the entry. The comparison of the whole hash takes constant time.
        entry_digest, token = self._table.by_hash.get(digest[:_KEY_BYTES], (b"", None))
        if token is None or not hmac.compare_digest(entry_digest, digest):
            raise Unauthenticated("the token is unknown to this server, or was revoked. Get a new token.")
        return token

    def _token_of_certificate(self, identities: Iterable[bytes]) -> Token:
        for identity in identities:
            token = self._table.by_certificate.get(identity.decode(errors="replace"))
            if token is not None:
                return token
        raise Unauthenticated(_TOKEN_REQUIRED)

    def look(self) -> None:
        """Read the file again if it has changed. Any thread may call this."""
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self.reload()

    def reload(self) -> None:
        """Read the file again."""
        try:
            self._table = _read(self._path)
        except TokenFileError as error:
            self.failed_at = time.time()
            log.error("the tokens stay as they were: %s", error)
        else:
            self.read_at = time.time()
            log.info("%d tokens were read again", len(self._table.by_hash) + len(self._table.by_certificate))


def client_name(token: str) -> str:
    """Return the name of the client that has a token of this name."""
    return _CLIENT_PREFIX + token


def new_token() -> tuple[str, str]:
    """Create a random token. Return it and its hash for the file."""
    token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return token, _digest(token).hex()


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    certificate: Annotated[str, StringConstraints(min_length=1)] | None = None
    scopes: frozenset[Scope]
    expires: datetime | None = None
    weight: Annotated[float, Field(ge=_LEAST_WEIGHT, le=_LARGEST_WEIGHT, strict=True)] | None = None

    @model_validator(mode="after")
    def _has_one_credential(self) -> "_Entry":
        if (self.sha256 is None) == (self.certificate is None):
            raise ValueError("must have either sha256 or certificate")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: dict[str, _Entry]


def _read(path: Path) -> _TokenTable:
    content = read_toml(path, TokenFileError)
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        # Without the values, because one may be a token in the place of its hash.
        faults: list[str] = []
        for fault in error.errors():
            faults.append(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
        raise TokenFileError(
            f"{path} must be a file of tokens, got {'; '.join(faults)}. `palm-serve token new NAME` prints an entry."
        ) from None
    table = _TokenTable()
    for name, entry in file.tokens.items():
        expires = entry.expires
        if expires is not None:
            try:
                expires = expires.replace(tzinfo=UTC) if expires.tzinfo is None else expires.astimezone(UTC)
            except OverflowError:
                raise TokenFileError(
                    f"{path}: expires of '{name}' must lie in the years 1 to 9999 of UTC, got {entry.expires}. "
                    "Leave it out for a token that does not expire."
                ) from None
        token = Token(name, entry.scopes, expires)
        if entry.weight is not None:
            table.weights[client_name(name)] = entry.weight
        if entry.sha256 is None:
            same_credential = table.by_certificate.setdefault(entry.certificate or "", token)
        else:
            digest = bytes.fromhex(entry.sha256)
            same_credential = table.by_hash.setdefault(digest[:_KEY_BYTES], (digest, token))[1]
        if same_credential is not token:
            raise TokenFileError(
                f"{path}: '{name}' must not have the token or certificate of '{same_credential.name}'. Give each entry its own."
            )
    return table


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    """Return a value that changes when the file changes, or when a link points to another file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
