"""URLs of object stores. Options hold them as paths, which have one slash where a URL has two."""

import re
from pathlib import Path

EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure", "abfs": "azure", "hf": "hub", "file": "", "memory": ""}
"""Extra of palm-nlu that each scheme needs. Empty: fsspec is enough."""

_URL = re.compile(rf"({'|'.join(EXTRAS)}):/+(.*)", re.DOTALL)


def as_url(place: Path | str) -> str | None:
    """Return the URL that a path stands for. None: a path of this machine.

    A `Path` of `s3://bucket/demo` is written `s3:/bucket/demo`.
    """
    match = _URL.fullmatch(str(place))
    if match is None:
        return None
    scheme, path = match.groups()
    return f"{scheme}:///{path}" if scheme == "file" else f"{scheme}://{path}"
