"""Errors that training and export raise on purpose.

Each message names the key or file, the rule, the value and a way to fix it. Commands print it and
exit with 2.
"""

from palm_serve.errors import shorten_message


class PalmError(Exception):
    """Base of all errors that the user can fix."""

    def __str__(self) -> str:
        """Return the message, with long values shortened."""
        return shorten_message(super().__str__())


class ConfigError(PalmError):
    """An invalid configuration. The message lists every fault."""


class DataError(PalmError):
    """A data file that cannot be used. The message starts with `file:line`."""


class WiringError(PalmError):
    """Reader, backbone and head do not fit together."""


class CheckpointError(PalmError):
    """A run or checkpoint that is missing, damaged or not the requested one."""


class ExportError(PalmError):
    """A failed export."""


class ParityError(ExportError):
    """The exported graph answers differently from the trained model.

    Commands exit with 1, since the user is not at fault.
    """
