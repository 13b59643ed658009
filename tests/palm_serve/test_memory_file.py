"""Files that exist in memory only."""

import gc
import os
import sys
import warnings

import pytest

from palm_serve.system.memory_file import MemoryFile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")


def test_file_in_memory_is_read_by_its_path_and_as_a_view() -> None:
    file = MemoryFile()
    file.write(b"some bytes")
    view = file.view()
    with open(file.path, "rb") as again:
        assert again.read() == view[:] == b"some bytes"
    with pytest.raises(TypeError):
        view[0] = 0


def test_file_in_memory_closes_without_a_warning_and_leaves_its_view() -> None:
    file = MemoryFile()
    file.write(b"some bytes")
    view = file.view()
    path = file.path
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del file
        gc.collect()
    assert not os.path.exists(path)
    assert view[:4] == b"some"


def test_file_in_memory_without_a_way_to_open_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palm_serve.system.memory_file._OPEN_FILES", "/nowhere")
    with pytest.raises(OSError, match="files in memory"):
        MemoryFile()
