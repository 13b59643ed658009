"""The environment of the tests with Ray."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def ray_python(environments: Any) -> Path:
    """Python of an environment with Ray and what palm-nlu needs."""
    python: Path = environments.make_environment("ray", ["palm-nlu[serve,ray]"])
    return python
