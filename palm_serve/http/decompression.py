"""Decompression of request bodies. What comes out is bounded, whatever goes in."""

import zlib

from palm_serve.errors import InvalidRequest

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class UnsupportedEncoding(InvalidRequest):
    """The body has an encoding that this server does not read."""


class BodyTooLarge(InvalidRequest):
    """The body is larger than a message may be, as it is or decompressed."""


def too_large(limit: int) -> BodyTooLarge:
    """Return the error of a body that is too large."""
    return BodyTooLarge(f"the body must have at most {limit:,} bytes, got more. Send less at once.")


class Decompressor:
    """Decompresses one body, chunk by chunk.

    Args:
        encoding: value of Content-Encoding.
        limit: largest size of the decompressed body.

    Raises:
        UnsupportedEncoding: the encoding is not known.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        bits = _WINDOW_BITS.get(encoding.strip().lower())
        if bits is None:
            raise UnsupportedEncoding(
                f"Content-Encoding must be gzip or deflate, got '{encoding[:32]}'. Send the body as it is."
            )
        self._stream = zlib.decompressobj(bits)
        self._limit = limit

    def decompress(self, chunk: bytes) -> bytes:
        """Return the decompressed bytes of a chunk.

        Raises:
            BodyTooLarge: the body is too large.
            InvalidRequest: the chunk is not compressed as the encoding says.
        """
        try:
            # One byte more than allowed tells a body that is too large from one that is as large as it may be.
            data = self._stream.decompress(chunk, self._limit + 1)
        except zlib.error:
            raise _invalid() from None
        self._limit -= len(data)
        if self._limit < 0:
            raise too_large(self._limit + len(data))
        return data

    def finish(self) -> None:
        """Check that the body has ended. Raises InvalidRequest."""
        if not self._stream.eof or self._stream.unused_data:
            raise _invalid()


def _invalid() -> InvalidRequest:
    return InvalidRequest("the body must be whole and compressed as Content-Encoding says. Send it again.")
