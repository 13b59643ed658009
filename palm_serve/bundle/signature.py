"""Signatures of bundles: `manifest.sig` holds the Ed25519 signature (RFC 8032, 64 bytes) of the bytes of `manifest.json`.

The manifest holds the SHA-256 of every other file, so one signature covers the bundle. `openssl` makes and checks it too:

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out trusted/ours.pem
    openssl pkeyutl -sign -inkey key.pem -rawin -in manifest.json -out manifest.sig
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from palm_serve.bundle.files import SIGNATURE, read_file
from palm_serve.errors import BundleError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_BYTES = 64
_KEY_BYTES = 1 << 16
"""Limit of the size of a key file."""
_MISSING = "signatures need the package `cryptography`, which is not installed. Run: pip install cryptography"


def check_signature(path: Path, manifest: bytes, trust: Path) -> None:
    """Check that a manifest is signed with one of the trusted keys.

    Args:
        path: directory of the bundle.
        manifest: bytes of its manifest.
        trust: folder of public keys (PEM). It is read anew each time, so a key that was removed does not count any more.

    Raises:
        BundleError: the bundle is not signed, or with no key of the folder; or the folder holds no key, or something else.
    """
    keys = dict(_read_keys(trust))
    if not (path / SIGNATURE).exists():
        raise BundleError(
            f"{path} must be signed because of --trust, got no {SIGNATURE}. "
            "Export it with `palm-export --sign KEY`, or sign its manifest."
        )
    signature = read_file(path, SIGNATURE, SIGNATURE_BYTES)
    for key in keys.values():
        if _signs(key, signature, manifest):
            return
    raise BundleError(
        f"{path}/{SIGNATURE} must be a signature of its manifest by a key of {trust} ({', '.join(sorted(keys))}), "
        "got another. The bundle was changed, or signed by someone else."
    )


def sign(manifest: bytes, key_file: Path) -> bytes:
    """Sign the bytes of a manifest.

    Args:
        manifest: the bytes.
        key_file: Ed25519 private key (PEM, without a password).

    Raises:
        BundleError: the key cannot be read, is none, or `cryptography` is not installed.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise BundleError(_MISSING) from None
    content = _read_key(key_file)
    try:
        key = load_pem_private_key(content, password=None)
    except Exception:  # ValueError, TypeError for a password, and one of its own for unsupported algorithms
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(
            f"{key_file} must be an Ed25519 private key in PEM without a password, got something else. "
            "Make one with `openssl genpkey -algorithm ed25519 -out KEY`."
        )
    return key.sign(manifest)


def _signs(key: "Ed25519PublicKey", signature: bytes, manifest: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        return False
    return True


def _read_keys(trust: Path) -> "Iterator[tuple[str, Ed25519PublicKey]]":
    """Yield the keys of a folder by file name."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise BundleError(_MISSING) from None
    try:
        files = sorted(trust.iterdir())
    except OSError as error:
        raise BundleError(f"--trust must be a folder of public keys, got {trust}: {error.strerror}.") from None
    count = 0
    for file in files:
        if file.name.startswith(".") or not file.is_file():
            continue
        count += 1
        content = _read_key(file)
        try:
            key = load_pem_public_key(content)
        except Exception:  # ValueError, or one of its own for unsupported algorithms
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise BundleError(
                f"{file} must be an Ed25519 public key in PEM, got something else. "
                "Make it with `openssl pkey -in KEY -pubout -out FILE`, or remove the file from --trust."
            )
        yield file.name, key
    if not count:
        raise BundleError(f"--trust must be a folder that holds a public key, got {trust} with none. Add a PEM file.")


def _read_key(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_KEY_BYTES)
    except OSError as error:
        raise BundleError(f"the key {file} cannot be read: {error.strerror}") from None
