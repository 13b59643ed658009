"""The errors of serving, one tree. The domain knows no gRPC: `rpc/status.py` holds the single table error -> status code.

PalmServeError
├── InvalidRequest     the client sent something unusable        -> INVALID_ARGUMENT
├── NotFound           no such model, version or label           -> NOT_FOUND
├── Overloaded         the queue is full                         -> RESOURCE_EXHAUSTED
│   └── Unmeetable     its deadline cannot be met                -> RESOURCE_EXHAUSTED
├── DeadlineExceeded   expired while it waited                   -> DEADLINE_EXCEEDED
├── Unavailable        loading or draining                       -> UNAVAILABLE
├── Unauthenticated    no token, or one that is not valid        -> UNAUTHENTICATED
├── NotAllowed         switched off, or not for this token       -> PERMISSION_DENIED
├── BundleError        a bundle that cannot be loaded            (start-up, not a request)
├── BindError          the address cannot be listened on         (start-up)
├── TlsError           certificates that cannot serve            (start-up)
├── TokenFileError     tokens that cannot be read                (start-up)
├── ConfigError        options that cannot be used               (start-up)
└── EngineError        no provider, a session that fails         (start-up), else INTERNAL
"""


class PalmServeError(Exception):
    """Base of every error that serving raises on purpose. The message is meant for the reader: what, value, limit, way out."""


class InvalidRequest(PalmServeError):
    """The request cannot be answered as sent; `field` names the part at fault."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NotFound(PalmServeError):
    """No such model, version, label or task."""


class Overloaded(PalmServeError):
    """Too much waits already; try again after `retry_after_s` seconds. `reason` is a word for those who count."""

    reason = "queue_full"

    def __init__(self, message: str, retry_after_s: float = 1.0, reason: str = "") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason or self.reason


class Unmeetable(Overloaded):
    """The request's deadline would pass before its answer."""

    reason = "deadline"


class DeadlineExceeded(PalmServeError):
    """The request's deadline passed while it waited."""


class Unavailable(PalmServeError):
    """The server is loading or draining; another replica can answer."""


class Unauthenticated(PalmServeError):
    """The server asks for a token, and the call has none, or one that is unknown, revoked or expired."""


class NotAllowed(PalmServeError):
    """The operation is switched off on this server, or the token is not for it."""


class BundleError(PalmServeError):
    """A bundle is missing, damaged, or of a format that this version cannot read."""


class BindError(PalmServeError):
    """The server cannot listen on the address that it was given."""


class TlsError(PalmServeError):
    """A certificate, its key, or an authority cannot be read, or they do not fit."""


class TokenFileError(PalmServeError):
    """The file of tokens is missing, or holds something else."""


class ConfigError(PalmServeError):
    """Options of the command line, the environment or the file that cannot be used; each fault has a line."""


class EngineError(PalmServeError):
    """No usable execution provider, or a session failed."""
