"""Files and directories that appear as a whole or not at all."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from palm_trainer.config.atomic_files import check_output_file, replace_file, write_output
from palm_trainer.errors import PalmError


def test_directory_of_the_user_beside_the_target_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "data.new"
    own.mkdir()
    (own / "mine.txt").write_text("mine")
    with pytest.raises(PalmError, match=r"data\.new must not exist, got a directory"), replace_file(tmp_path / "data"):
        raise AssertionError("nothing is written")
    assert (own / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "data").exists()


def write_half(path: Path) -> None:
    with replace_file(path) as temporary:
        temporary.mkdir()
        (temporary / "half.txt").write_text("half")
        raise ValueError("stop")


def test_unfinished_directory_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"):
        write_half(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", [check_output_file, lambda path: write_output(path, "text")])
def test_directory_in_the_place_of_a_file_is_refused(tmp_path: Path, check: Callable[[Path], None]) -> None:
    with pytest.raises(PalmError, match="must be a file, got a directory"):
        check(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(PalmError, match=r"file is a file\. Choose another output directory"):
        check(tmp_path / "file" / "below" / "it")


_CHECK = """
import os, sys
from collections.abc import Callable
from pathlib import Path
from palm_trainer.config.atomic_files import check_output_place
from palm_trainer.errors import PalmError
if os.getuid() == 0:
    os.setuid(12345)
try:
    check_output_place(Path(sys.argv[1]))
except PalmError as error:
    print(error)
"""


@pytest.mark.parametrize("below", ["", "run", "a/b/run"])
def test_directory_without_permission_to_write_is_refused(below: str, process_limit_s: float) -> None:
    """Root may write everywhere, so that the check is made as another user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o555)
        command = [sys.executable, "-c", _CHECK, os.path.join(folder, below)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=process_limit_s)
        assert result.stderr == ""
        assert f"{folder} must be a directory that may be written to, and is not. Choose" in result.stdout
