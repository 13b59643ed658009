"""Expiry of X.509 certificates in PEM, which the module ssl does not provide for files."""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_VERSION = 0xA0
_UTC_TIME = 0x17
"""DER tags."""
_VALIDITY = 3
"""Index of the validity field in a certificate's body, without the optional version field."""


def expiry(pem: bytes) -> float:
    """Return the earliest `notAfter` (RFC 5280, 4.1.2.5) of certificates in PEM, in Unix seconds. OpenSSL must have accepted them."""
    return min(_not_after(base64.b64decode(block)) for block in _PEM.findall(pem))


def _not_after(der: bytes) -> float:
    (_, certificate), *_ = _elements(der)
    (_, body), *_ = _elements(certificate)
    fields = []
    for field_tag, contents in _elements(body):
        if field_tag != _VERSION:
            fields.append(contents)
    _, (tag, text) = _elements(fields[_VALIDITY])
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode(), form).replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the contents of each DER element (X.690, 8.1)."""
    position = 0
    while position < len(der):
        tag = der[position]
        size = der[position + 1]
        position += 2
        if size & 0x80:
            width = size & 0x7F
            size = int.from_bytes(der[position : position + width])
            position += width
        yield tag, der[position : position + size]
        position += size
