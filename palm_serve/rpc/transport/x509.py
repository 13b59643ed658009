"""Validity of X.509 certificates in PEM, which the module ssl does not provide for files."""

import base64
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_VERSION = 0xA0
_UTC_TIME = 0x17
"""DER tags."""
_VALIDITY = 3
"""Index of the validity field in a certificate's body, without the optional version field."""


@dataclass(frozen=True, slots=True)
class Validity:
    """Period in which a certificate is valid (RFC 5280, 4.1.2.5), in Unix seconds."""

    begin: float
    end: float


def validities(pem: bytes) -> list[Validity]:
    """Return the validity of each certificate in PEM, in their order. OpenSSL must have accepted them."""
    periods = []
    for block in _PEM.findall(pem):
        periods.append(_validity(base64.b64decode(block)))
    return periods


def expiry(pem: bytes) -> float:
    """Return the earliest end of the validity of certificates in PEM, in Unix seconds. OpenSSL must have accepted them."""
    return chain_validity(pem).end


def chain_validity(pem: bytes) -> Validity:
    """Return the period in which all certificates in PEM are valid. OpenSSL must have accepted them."""
    chain = Validity(-math.inf, math.inf)
    for validity in validities(pem):
        chain = Validity(max(chain.begin, validity.begin), min(chain.end, validity.end))
    return chain


def have_expired(pem: bytes, now: float) -> bool:
    """Return true if all certificates in PEM have expired at the time `now`, in Unix seconds."""
    latest = -math.inf
    for validity in validities(pem):
        latest = max(latest, validity.end)
    return latest <= now


def _validity(der: bytes) -> Validity:
    (_, certificate), *_ = _elements(der)
    (_, body), *_ = _elements(certificate)
    fields = []
    for field_tag, contents in _elements(body):
        if field_tag != _VERSION:
            fields.append(contents)
    begin, end = _elements(fields[_VALIDITY])
    return Validity(_unix_time(*begin), _unix_time(*end))


def _unix_time(tag: int, text: bytes) -> float:
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
