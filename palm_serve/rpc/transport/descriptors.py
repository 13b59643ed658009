"""Limit of open files of the process, which limits its connections too."""

import logging
import resource

from palm_serve.errors import ConfigError

log = logging.getLogger(__name__)

_RESERVED = 128
"""File descriptors reserved for models, logs and metrics."""
_LEAST = 256
"""Least number of files with which a server starts."""
_MOST = 1 << 20
"""A higher limit serves nobody, and some libraries walk through all numbers."""


def raise_limit() -> None:
    """Raise the limit of open files as far as the process may.

    Raises:
        ConfigError: if it may open too few files to serve.
    """
    soft, hard = _limits()
    highest = min(hard, _MOST)
    if soft < highest:
        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard_limit))
        except (OSError, ValueError) as error:  # macOS has a lower limit beside this one
            log.debug("the limit of open files stays at %d: %s", soft, error)
        else:
            soft = highest
    if soft < _LEAST:
        raise ConfigError(
            f"the process must be able to open at least {_LEAST} files, got {soft} (ulimit -n). Raise the limit, with LimitNOFILE= "
            "in systemd or --ulimit nofile= in Docker."
        )


def usable_for_connections() -> int:
    """Return the number of files that are left for connections."""
    return max(1, _limits()[0] - _RESERVED)


def _limits() -> tuple[int, int]:
    """Return the soft and the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else soft, _MOST if hard == resource.RLIM_INFINITY else hard
