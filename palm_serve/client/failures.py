"""Why a connection could not be opened, from the details of a gRPC status."""

import re

_LAST_ERROR = re.compile(
    r"last error: (?P<code>[A-Z_]+): (?:ipv[46]|unix|unix-abstract|vsock):.*?: (?P<reason>.*)", re.DOTALL
)
"""`failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: REASON`"""
_HANDSHAKE = re.compile(r"(?:Tls|Ssl) handshake failed", re.IGNORECASE)
_OPENSSL = re.compile(r"OPENSSL_internal:(?P<error>[A-Z0-9_]+)(?:: (?P<detail>.*))?", re.DOTALL)
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})


def connection_failure(details: str, over_tls: bool) -> str:
    """Return the reason of a status UNAVAILABLE in words.

    Args:
        details: details of the status.
        over_tls: the client uses TLS.
    """
    match = _LAST_ERROR.search(details)
    if match is None:
        return details or "no details"
    # gRPC appends the result of a check that was not reached or passed.
    reason = match["reason"].strip().removesuffix(": OK")
    if _HANDSHAKE.match(reason):
        return f"TLS handshake failed: {_handshake_failure(reason)}"
    if "Hostname Verification Check failed" in reason:
        return "TLS handshake failed: the server's certificate is not valid for this host name"
    if reason == "Socket closed":
        missing = "a client certificate" if over_tls else "TLS"
        return f"{reason}. Does the server require {missing}, or has it reached its limit of connections?"
    if reason in ("", "OK"):
        return "no connection, and gRPC gives no reason"
    return reason.removeprefix("Failed to connect to remote host: ")


def _handshake_failure(reason: str) -> str:
    match = _OPENSSL.search(reason)
    if match is None:
        return reason
    error = match["error"]
    detail = match["detail"]
    if error in _NOT_TLS:
        return "the server does not speak TLS"
    words = error.lower().replace("_", " ")
    return f"{words}: {detail}" if detail else words
