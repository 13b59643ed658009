"""Files of a cache directory with what was found out on this machine: one file for each kind and key."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class MachineCache:
    """One file of the cache. It holds its key, and counts only for the same key.

    A file is replaced as a whole, so that several servers may write it at once.

    Args:
        directory: directory of the files, which is made if needed. None: no file is written.
        kind: begin of the file's name.
        key: facts that the content depends on.
    """

    def __init__(self, directory: Path | None, kind: str, key: Mapping[str, str]) -> None:
        self._key = dict(key)
        self._kind = kind
        self.digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()
        """Digest of the key."""
        self.file = None if directory is None else directory / f"{kind}-{self.digest[:32]}.json"
        """The file. None: the user has no cache directory."""

    def read(self) -> Any:
        """Return the content. None: there is no file, or another key in it, or it is damaged."""
        if self.file is None:
            return None
        try:
            document = json.loads(self.file.read_text(encoding="utf-8"))
            return document[self._kind] if document["key"] == self._key else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            log.info("%s cannot be used, it is made again: %s", self.file, error)
            return None

    def write(self, content: Any) -> str:
        """Replace the file. Return why that was not possible, or an empty text."""
        if self.file is None:
            return "the user has no home directory"
        text = json.dumps({"key": self._key, self._kind: content}, indent=1)
        temporary: Path | None = None
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self.file.parent, delete=False) as stream:
                temporary = Path(stream.name)
                stream.write(text)
            temporary.replace(self.file)
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            return f"{self.file.parent}: {error.strerror or error}"
        return ""
