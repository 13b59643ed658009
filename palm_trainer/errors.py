"""The errors that training and export raise on purpose. Each message says what, value, limit and way out; commands print it and exit with 2."""


class PalmError(Exception):
    """Base of all: something that the user can mend."""


class ConfigError(PalmError):
    """A configuration with faults, all of them listed."""


class DataError(PalmError):
    """A data file that cannot be used as it is; the message starts with `file:line`."""


class WiringError(PalmError):
    """Reader, backbone and head do not fit together."""


class CheckpointError(PalmError):
    """A run or checkpoint that is missing, damaged, or not what was asked for."""


class ExportError(PalmError):
    """An export that failed."""


class ParityError(ExportError):
    """The exported graph does not answer as the trained model does. Not the user's fault: commands exit with 1."""
