"""Files and directories that appear as a whole or not at all."""

from pathlib import Path

import pytest

from palm_trainer.config.atomic_files import replace_file
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
