"""Versions of Python and of the packages that results depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("palm-nlu", "torch", "transformers", "tokenizers", "numpy")
UNKNOWN_VERSION = "unknown"
"""Version of a package that runs without being installed."""


def installed_versions() -> dict[str, str]:
    """Return the versions by name.

    It is `unknown` for a package that runs without being installed.
    """
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = UNKNOWN_VERSION
    return versions
