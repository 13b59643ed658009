"""Faults of a bundle are reported before anything is served from it."""

import json

import numpy as np
import pytest

from palm_serve.bundle.loader import load_bundle
from palm_serve.errors import BundleError


@pytest.fixture
def bundle(tmp_path, make_tiny_bundle):
    return make_tiny_bundle(tmp_path / "bundle")


def edit(bundle, **changes):
    """Edit the manifest after the export."""
    content = json.loads((bundle / "manifest.json").read_text(encoding="utf-8")) | changes
    (bundle / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def test_load_of_a_sound_bundle_returns_its_contents(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    assert bundle.manifest.name == "tiny"
    assert set(bundle.arrays) == {"slots.transitions", "slots.start", "slots.end"}
    assert all(array.dtype == np.float32 for array in bundle.arrays.values())
    assert bundle.golden[0].answers["intent"].label == "flight"
    assert bundle.graph().is_file()


def test_load_without_a_directory_raises(tmp_path):
    with pytest.raises(BundleError, match=r"absent is no bundle: no such directory.*palm-export"):
        load_bundle(tmp_path / "absent")


def test_load_without_a_manifest_raises(tmp_path):
    with pytest.raises(BundleError, match=r"is no bundle: it has no manifest\.json"):
        load_bundle(tmp_path)


def test_load_of_a_manifest_that_is_not_json_raises(bundle):
    (bundle / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json is not JSON .*export again"):
        load_bundle(bundle)


def test_load_of_a_manifest_without_object_raises(bundle):
    (bundle / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BundleError, match=r"does not fit the schema: top level"):
        load_bundle(bundle)


def test_load_of_a_newer_format_raises(bundle):
    edit(bundle, format_version=2, unheard="of")
    with pytest.raises(BundleError, match=r"has bundle format 2, this palm-serve reads up to 1: upgrade PALM"):
        load_bundle(bundle)


def test_load_reports_all_schema_faults_together(bundle):
    edit(bundle, max_length="long", unheard="of")
    with pytest.raises(BundleError, match=r"max_length: .*; unheard: .*; export again"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "decode.npz", "golden.jsonl", "README.md"])
def test_load_of_a_file_with_a_changed_byte_raises(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} was changed or damaged: sha256 is \w+\.\.\., the manifest says"):
        load_bundle(bundle)


def test_load_with_a_missing_file_raises(bundle):
    (bundle / "decode.npz").unlink()
    with pytest.raises(BundleError, match=r"lacks the file 'decode\.npz', which its manifest lists"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret"])
def test_load_of_a_path_outside_the_bundle_raises(bundle, name):
    (bundle.parent / "secret").write_text("x", encoding="utf-8")
    files = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["files"]
    edit(bundle, files=files | {name: "0" * 64})
    with pytest.raises(BundleError, match="which lies outside the bundle; do not trust this bundle"):
        load_bundle(bundle)


def test_load_of_a_link_out_of_the_bundle_raises(bundle):
    (bundle.parent / "elsewhere.md").write_bytes((bundle / "README.md").read_bytes())
    (bundle / "README.md").unlink()
    (bundle / "README.md").symlink_to(bundle.parent / "elsewhere.md")
    with pytest.raises(BundleError, match=r"'README\.md', which lies outside the bundle"):
        load_bundle(bundle)


def test_load_of_an_edited_manifest_raises(bundle):
    edit(bundle, max_length=12)
    with pytest.raises(BundleError, match=r"says version \w{12}, its contents have \w{12}; it was edited"):
        load_bundle(bundle)


def test_version_ignores_the_time_of_creation(bundle):
    edit(bundle, created="2030-01-01T00:00:00Z")
    assert load_bundle(bundle).manifest.created.startswith("2030")


def test_load_without_a_tokenizer_raises(bundle, reseal_bundle):
    (bundle / "tokenizer.json").unlink()
    reseal_bundle(bundle)
    with pytest.raises(BundleError, match=r"lists no tokenizer\.json"):
        load_bundle(bundle)


def test_load_of_damaged_arrays_raises(bundle, reseal_bundle):
    (bundle / "decode.npz").write_bytes(b"no zip")
    reseal_bundle(bundle)
    with pytest.raises(BundleError, match=r"decode\.npz cannot be read"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "hi", "answers": {"mood": {"label": "x"}}}', "line 1 expects an answer of the task 'mood'"),
        ('{"answers": {}}', "line 1: text: Field required"),
        ("hello", "line 1: top level: Invalid JSON"),
    ],
)
def test_load_of_invalid_golden_lines_raises(bundle, reseal_bundle, line, message):
    (bundle / "golden.jsonl").write_text(line, encoding="utf-8")
    reseal_bundle(bundle)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


def test_golden_lines_may_hold_line_separators(bundle, reseal_bundle):
    (bundle / "golden.jsonl").write_text('{"text": "a\u2028b", "answers": {}}\n\n', encoding="utf-8")
    assert load_bundle(reseal_bundle(bundle)).golden[0].text == "a\u2028b"


@pytest.mark.parametrize("name", ["golden.jsonl", "tokenizer.json", "manifest.json"])
def test_byte_order_marks_are_taken(bundle, reseal_bundle, name):
    wanted = load_bundle(bundle)
    (bundle / name).write_bytes(b"\xef\xbb\xbf" + (bundle / name).read_bytes())
    if name != "manifest.json":
        reseal_bundle(bundle)
    loaded = load_bundle(bundle)
    assert loaded.golden == wanted.golden
    assert loaded.graph_digest() == wanted.graph_digest()


def test_golden_lines_may_end_in_crlf(bundle, reseal_bundle):
    golden = (bundle / "golden.jsonl").read_bytes()
    (bundle / "golden.jsonl").write_bytes(golden.replace(b"\n", b"\r\n") + b"\r\n")
    assert load_bundle(reseal_bundle(bundle)).golden


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_load_of_a_file_in_place_of_a_directory_raises(bundle, name):
    with pytest.raises(BundleError, match=rf"{name} must be a bundle directory, got a file\. Give the directory"):
        load_bundle(bundle / name)
