"""Text files of users: with or without a byte order mark, and one message for what cannot be read."""

import codecs
import tomllib
from pathlib import Path
from typing import Any

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def read_bytes(path: Path, error_class: type[Exception]) -> bytes:
    """Read a file, without the byte order marks of UTF-8 at its beginning.

    Args:
        path: the file.
        error_class: class of the error.

    Raises:
        Exception: of the class, if the file cannot be read, or is UTF-16 or UTF-32.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe without a writer is waited for for ever
            raise error_class(f"{path} must be a regular file, got a pipe or device. Give the path of a file.")
        data = path.read_bytes()
    except OSError as error:
        raise error_class(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise error_class(f"{str(path)!r} cannot be read: {error}") from None
    encoding = other_encoding(data)
    if encoding:
        raise error_class(f"{path}:1: must be UTF-8, got {encoding}. Save the file as UTF-8.")
    while data.startswith(codecs.BOM_UTF8):  # more than one where files were joined
        data = data[len(codecs.BOM_UTF8) :]
    return data


def other_encoding(data: bytes) -> str:
    """Return the encoding that the byte order mark of a file tells: UTF-16 or UTF-32. Empty: it tells neither.

    Args:
        data: the beginning of the file.
    """
    if data.startswith(_UTF32):  # begins as UTF-16 does
        return "UTF-32"
    return "UTF-16" if data.startswith(_UTF16) else ""


def check_regular_files(folder: Path, error_class: type[Exception]) -> None:
    """Check that a directory holds no pipe, socket or device in the place of a file, which its reader would wait for.

    Args:
        folder: the directory. Those in it are not looked into.
        error_class: class of the error.

    Raises:
        Exception: of the class, if it holds one.
    """
    for path in folder.iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise error_class(f"{path} must be a regular file, got a pipe or device. Restore or remove it.")


def read_text(path: Path, error_class: type[Exception]) -> str:
    """Read a text file in UTF-8, without the byte order marks at its beginning.

    Args:
        path: the file.
        error_class: class of the error.

    Raises:
        Exception: of the class, if the file cannot be read or is not UTF-8.
    """
    data = read_bytes(path, error_class)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise error_class(
            f"{path}:{line}: must be UTF-8, got the byte 0x{byte:02x}, which is not. Save the file as UTF-8."
        ) from None


def read_toml(path: Path, error_class: type[Exception]) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: the file.
        error_class: class of the error.

    Raises:
        Exception: of the class, if the file cannot be read or is not TOML.
    """
    text = read_text(path, error_class)
    try:
        return tomllib.loads(text)
    except RecursionError:
        reason = "its values are nested too deeply"
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
    except ValueError:  # int() refuses thousands of digits
        reason = "a number has too many digits"
    raise error_class(f"{path} must be TOML: {reason}. Strings need quotes, true and false are lower case.")
