"""When certificates expire: the one fact of X.509 that is needed, and that the module ssl tells of no file."""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
"""Tags of DER."""
_VALIDITY = 3
"""Its place in a certificate's body, where the version, which may be left out, does not count."""


def expiry(pem: bytes) -> float:
    """Unix seconds of the earliest `notAfter` (RFC 5280, 4.1.2.5) among the certificates in PEM, which are some that OpenSSL has read."""
    return min(_not_after(base64.b64decode(block)) for block in _PEM.findall(pem))


def _not_after(der: bytes) -> float:
    (_, certificate), *_ = _elements(der)
    (_, body), *_ = _elements(certificate)
    fields = [contents for tag, contents in _elements(body) if tag != _VERSION]
    _, (tag, text) = _elements(fields[_VALIDITY])
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode(), form).replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and contents of each element, one after the other (X.690, 8.1)."""
    at = 0
    while at < len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size & 0x80:
            width = size & 0x7F
            size, at = int.from_bytes(der[at : at + width]), at + width
        yield tag, der[at : at + size]
        at += size
