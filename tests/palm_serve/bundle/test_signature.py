"""A trusted signature, or a digest, decides what is loaded. The keys and one signature come from the openssl command."""

import json
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from palm_serve.bundle.loader import load_bundle, split_pin
from palm_serve.bundle.signature import sign
from palm_serve.errors import BundleError


class Keys:
    """A private key and the folder that trusts it."""

    def __init__(self, folder):
        folder.mkdir()
        key = Ed25519PrivateKey.generate()
        self.private = folder / "key.pem"
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.trust = folder / "trusted"
        self.trust.mkdir()
        self.public = self.trust / "ours.pem"
        self.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def sign(self, bundle):
        (bundle / "manifest.sig").write_bytes(sign((bundle / "manifest.json").read_bytes(), self.private))


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path / "ours")


@pytest.fixture
def bundle(tmp_path, make_tiny_bundle, keys):
    path = make_tiny_bundle(tmp_path / "bundle")
    keys.sign(path)
    return path


def test_signed_bundle_is_loaded_with_and_without_trust(bundle, keys):
    assert load_bundle(bundle, trust=keys.trust).manifest.name == "tiny"
    assert load_bundle(bundle).manifest.name == "tiny"


def test_bundle_signed_by_any_trusted_key_is_loaded(bundle, keys, tmp_path):
    other = Keys(tmp_path / "theirs")
    shutil.copy(other.public, keys.trust / "a_theirs.pem")
    (keys.trust / ".gitkeep").write_bytes(b"")
    assert load_bundle(bundle, trust=keys.trust)


def test_unsigned_bundle_is_refused_under_trust(bundle, keys):
    (bundle / "manifest.sig").unlink()
    with pytest.raises(BundleError, match=r"must be signed because of --trust, got no manifest\.sig"):
        load_bundle(bundle, trust=keys.trust)


def test_bundle_with_a_changed_manifest_is_refused(bundle, keys, reseal_bundle):
    """The checksums and the version of the changed manifest are right."""
    reseal_bundle(bundle, max_length=12)
    with pytest.raises(BundleError, match=r"manifest\.sig must be a signature of its manifest by a key of .*ours\.pem"):
        load_bundle(bundle, trust=keys.trust)


def test_bundle_with_a_changed_time_of_creation_is_refused(bundle, keys):
    content = json.loads((bundle / "manifest.json").read_text(encoding="utf-8")) | {"created": "2030"}
    (bundle / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    load_bundle(bundle)
    with pytest.raises(BundleError, match="signature of its manifest"):
        load_bundle(bundle, trust=keys.trust)


def test_signed_bundle_with_a_swapped_file_is_refused(bundle, keys):
    (bundle / "README.md").write_text("swapped", encoding="utf-8")
    with pytest.raises(BundleError, match=r"README\.md was changed"):
        load_bundle(bundle, trust=keys.trust)


def test_signature_of_another_bundle_is_refused(bundle, keys, make_tiny_bundle, tmp_path):
    other = make_tiny_bundle(tmp_path / "other", name="other")
    shutil.copy(bundle / "manifest.sig", other / "manifest.sig")
    with pytest.raises(BundleError, match="signature of its manifest"):
        load_bundle(other, trust=keys.trust)


def test_signature_of_another_key_is_refused(bundle, tmp_path):
    with pytest.raises(BundleError, match="signature of its manifest"):
        load_bundle(bundle, trust=Keys(tmp_path / "theirs").trust)


def test_bundle_of_a_removed_key_is_refused(bundle, keys, tmp_path):
    shutil.copy(Keys(tmp_path / "theirs").public, keys.trust / "theirs.pem")
    load_bundle(bundle, trust=keys.trust)
    keys.public.unlink()
    with pytest.raises(BundleError, match="signature of its manifest"):
        load_bundle(bundle, trust=keys.trust)


@pytest.mark.parametrize("content", [b"", b"x" * 64, b"x" * 63])
def test_other_bytes_are_no_signature(bundle, keys, content):
    (bundle / "manifest.sig").write_bytes(content)
    with pytest.raises(BundleError, match="signature of its manifest"):
        load_bundle(bundle, trust=keys.trust)


def test_large_signature_is_refused_unread(bundle, keys):
    (bundle / "manifest.sig").write_bytes(b"x" * 65)
    with pytest.raises(BundleError, match=r"manifest\.sig must have at most 64 bytes, got 65 bytes"):
        load_bundle(bundle, trust=keys.trust)


def test_trust_without_a_key_is_refused(bundle, keys):
    keys.public.unlink()
    with pytest.raises(BundleError, match="--trust must be a folder that holds a public key"):
        load_bundle(bundle, trust=keys.trust)
    with pytest.raises(BundleError, match=r"--trust must be a folder of public keys, got .*absent: No such file"):
        load_bundle(bundle, trust=keys.trust / "absent")


@pytest.mark.parametrize("content", [b"", b"no key", b"\0" * 1000])
def test_trust_with_something_else_is_refused(bundle, keys, content):
    (keys.trust / "other.pem").write_bytes(content)
    with pytest.raises(BundleError, match=r"other\.pem must be an Ed25519 public key in PEM"):
        load_bundle(bundle, trust=keys.trust)


def test_private_key_among_the_trusted_ones_is_refused(bundle, keys):
    shutil.copy(keys.private, keys.trust / "key.pem")
    with pytest.raises(BundleError, match=r"key\.pem must be an Ed25519 public key"):
        load_bundle(bundle, trust=keys.trust)


def test_sign_with_something_else_is_refused(keys, tmp_path):
    with pytest.raises(
        BundleError, match=r"ours\.pem must be an Ed25519 private key .* Make one with `openssl genpkey"
    ):
        sign(b"manifest", keys.public)
    with pytest.raises(BundleError, match="absent cannot be read"):
        sign(b"manifest", tmp_path / "absent")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
def test_openssl_makes_the_keys_and_the_same_signature(bundle, tmp_path):
    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    key, trust = tmp_path / "k.pem", tmp_path / "t"
    trust.mkdir()
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", trust / "k.pem")
    signature = bundle / "manifest.sig"
    openssl("pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", bundle / "manifest.json", "-out", signature)
    assert signature.read_bytes() == sign((bundle / "manifest.json").read_bytes(), key)
    assert load_bundle(bundle, trust=trust)


def test_bundle_with_its_digest_is_loaded(bundle):
    version = load_bundle(bundle).manifest.version
    for digest in (version, version.upper()):
        assert load_bundle(bundle.with_name(f"bundle@sha256:{digest}")).path == bundle


def test_bundle_with_another_digest_is_refused(bundle, reseal_bundle):
    version = load_bundle(bundle).manifest.version
    reseal_bundle(bundle, max_length=12)
    with pytest.raises(
        BundleError, match=rf"must have the digest sha256:{version}, got sha256:\w{{64}}\. It is another"
    ):
        load_bundle(bundle.with_name(f"bundle@sha256:{version}"))


@pytest.mark.parametrize("digest", ["", "abc", "0" * 63, "0" * 65, "g" * 64])
def test_digest_of_another_length_is_refused(bundle, digest):
    with pytest.raises(BundleError, match="must have 64 hexadecimal digits"):
        split_pin(bundle.with_name(f"bundle@sha256:{digest}"))


def test_path_with_an_at_sign_has_no_digest(tmp_path):
    assert split_pin(tmp_path / "a@b") == (tmp_path / "a@b", None)
