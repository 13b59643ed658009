import os
from pathlib import Path

import pytest

from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import Defects, FormatOptions


@pytest.fixture
def parse():
    """`parse(format, path, **options)` -> (examples, {defect kind: count})."""

    def _parse(name, path, **options):
        defects = Defects()
        examples = list(FORMATS[name](path, FormatOptions(**options), defects))
        return examples, {defect.kind: defect.count for defect in defects}

    return _parse


@pytest.fixture
def file(tmp_path):
    """`file(name, text or bytes)` -> path of a new file."""

    def _file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _file


@pytest.fixture(scope="session")
def data():
    """The folder of public data sets."""
    if "PALM_DATA" not in os.environ:
        pytest.skip("PALM_DATA is not set: it names the folder of public data sets")
    return Path(os.environ["PALM_DATA"])
