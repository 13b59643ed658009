"""Files that exist in memory only, for libraries that read files better than bytes."""

import os
import sys
from io import FileIO
from mmap import PROT_READ, mmap

_OPEN_FILES = "/proc/self/fd"
"""Directory of the open files of this process (Linux)."""


class MemoryFile(FileIO):
    """A file in memory, which no other process can open. Its memory is free when the object is gone.

    Raises:
        OSError: this system has no such files.
    """

    def __init__(self) -> None:
        if sys.platform != "linux" or not os.path.isdir(_OPEN_FILES):
            raise OSError("only Linux with /proc has files in memory")
        super().__init__(os.memfd_create("palm"), "w+b")

    @property
    def path(self) -> str:
        """Path of the file for this process, while the object lives."""
        return f"{_OPEN_FILES}/{self.fileno()}"

    def view(self) -> mmap:
        """Return the content, which must not be empty. It stays when the object is gone."""
        return mmap(self.fileno(), 0, prot=PROT_READ)

    def __del__(self) -> None:
        self.close()
