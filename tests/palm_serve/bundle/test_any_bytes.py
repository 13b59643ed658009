"""Any bytes in any file of a bundle end in a bundle or in one BundleError that names the file."""

import hashlib
import json
import shutil
import time

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from typer.testing import CliRunner

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import Manifest, tasks_digest
from palm_serve.cli import app
from palm_serve.engine.providers import select_engine
from palm_serve.errors import BundleError, EngineError
from palm_serve.pipeline import Pipeline

FILES = ("manifest.json", "tokenizer.json", "decode.npz", "golden.jsonl", "model.onnx")
WORDS = 'null true NaN Infinity -1 0 1e999 "" "x" [] {} [ ] { } : , \\ud83d \\u0000 "type" "labels" "max_length" "text" "answers"'
PARTS = [*(word.encode() for word in WORDS.split()), b"\n", b"\0", b"\xff", b"PK\x03\x04", b"9" * 5000, b"\x1b[2J"]


class Contents(dict):
    """Contents of the files by name. Hypothesis prints the arguments of a test, and would complain of their length."""

    def __repr__(self):
        return "contents"


@pytest.fixture(scope="module")
def contents(tiny_bundle):
    return Contents({name: (tiny_bundle / name).read_bytes() for name in FILES})


@pytest.fixture(scope="module")
def copy(tiny_bundle, tmp_path_factory):
    return shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("any") / "bundle")


def put(copy, contents, name, content):
    """Write one file, restore the others, and enter the new checksum as a hostile author would."""
    for other, original in contents.items():
        (copy / other).write_bytes(original)
    (copy / name).write_bytes(content)
    if name != "manifest.json":
        manifest = Manifest.model_validate_json(contents["manifest.json"])
        if name == "tokenizer.json":
            model = onnx.load_from_string(contents["model.onnx"])
            helper.set_model_props(model, {"palm.digest": tasks_digest(manifest.tasks, content)})
            onnx.save(model, copy / "model.onnx")
        files = {}
        for file in manifest.files:
            files[file] = hashlib.sha256((copy / file).read_bytes()).hexdigest()
        manifest = manifest.model_copy(update={"files": files})
        manifest = manifest.model_copy(update={"version": manifest.digest()})
        (copy / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")


def open_as_a_server(path):
    """Load the bundle, open its engine and answer its golden examples."""
    bundle = load_bundle(path, defer_graphs=True)
    Pipeline(bundle, select_engine(bundle, "CPU", threads=1)).golden_check()


@st.composite
def mutations(draw):
    """Draw a function that changes some bytes of a real file."""
    changes = draw(
        st.lists(
            st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from(PARTS) | st.binary(max_size=8)),
            min_size=1,
            max_size=3,
        )
    )

    def mutate(content):
        for place, removed, inserted in changes:
            position = int(place * len(content))
            content = content[:position] + inserted + content[position + removed :]
        return content

    return mutate


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=150, deadline=None)
@given(mutate=mutations())
def test_mutated_file_ends_in_a_bundle_or_one_message(name, mutate, copy, contents):
    put(copy, contents, name, mutate(contents[name]))
    try:
        open_as_a_server(copy)
    except (BundleError, EngineError) as error:
        if str(copy) not in str(error):
            raise AssertionError("the message names no bundle") from error


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=50, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PARTS), max_size=20).map(b"".join)))
def test_any_bytes_end_in_a_bundle_or_one_message(name, content, copy, contents):
    put(copy, contents, name, content)
    try:
        open_as_a_server(copy)
    except (BundleError, EngineError) as error:
        if str(copy) not in str(error):
            raise AssertionError("the message names no bundle") from error


MEGABYTE = 1_000_000
LONG = {
    "brackets": b"[" * MEGABYTE,
    "objects": b'{"a":' * (MEGABYTE // 5),
    "number": b"9" * MEGABYTE,
    "keys": b"{" + b",".join(b'"k%d":1' % i for i in range(MEGABYTE // 11)) + b"}",
    "lines": b"{}\n" * (MEGABYTE // 3),
    "empty lines": b"\n" * MEGABYTE,
    "zeros": bytes(MEGABYTE),
    "fields": b"\x08\x01" * (MEGABYTE // 2),
    "messages": b"\x3a\x02\x0a\x00" * (MEGABYTE // 4),
    "entries": b"PK\x01\x02" * (MEGABYTE // 4),
    "text": b'"' + b"\\ud83d" * (MEGABYTE // 6) + b'"',
}


@pytest.mark.parametrize("part", LONG)
@pytest.mark.parametrize("name", FILES)
def test_a_megabyte_is_refused_in_two_seconds(name, part, copy, contents):
    put(copy, contents, name, LONG[part])
    began = time.process_time()
    if name == "golden.jsonl" and part == "empty lines":
        load_bundle(copy, defer_graphs=True)
    else:
        with pytest.raises((BundleError, EngineError), match=name):
            open_as_a_server(copy)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("name", FILES)
def test_300_mebibytes_are_refused_unread_or_by_their_checksum(name, copy, contents):
    put(copy, contents, name, contents[name])
    with (copy / name).open("r+b") as stream:
        stream.truncate(300 << 20)
    with pytest.raises(BundleError, match=name):
        load_bundle(copy)


MANIFESTS = {
    "duplicate key": ('"max_length": 24', '"max_length": 24, "max_length": 25'),
    "NaN": ('"temperature": 1.5', '"temperature": NaN'),
    "infinite": ('"temperature": 1.5', '"temperature": 1e999'),
    "text for a number": ('"max_length": 24', '"max_length": "24"'),
    "true for a number": ('"hidden_size": 13', '"hidden_size": true'),
    "fraction": ('"max_length": 24', '"max_length": 24.5'),
    "long input": ('"max_length": 24', '"max_length": 1000000000'),
    "5,000 digits": ('"hidden_size": 13', '"hidden_size": ' + "1" * 5000),
    "huge count": ('"vocab_size": ', '"vocab_size": 1000000000000'),
    "half a surrogate pair": ('"name": "tiny"', '"name": "\\ud83d"'),
    "negative": ('"n_best": null', '"n_best": -1'),
}


@pytest.mark.parametrize("fault", MANIFESTS)
def test_manifest_with_an_invalid_value_is_refused(fault, copy, contents):
    old, new = MANIFESTS[fault]
    text = contents["manifest.json"].decode()
    assert old in text
    put(copy, contents, "manifest.json", text.replace(old, new, 1).encode())
    with pytest.raises(BundleError, match=r"manifest\.json (is not JSON|does not fit the schema)"):
        load_bundle(copy)


@pytest.mark.parametrize("name", FILES)
def test_check_of_damaged_bytes_exits_with_2(name, copy, contents):
    put(copy, contents, name, b"[[[[")
    result = CliRunner().invoke(app, ["check", str(copy)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert name in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_manifest_may_begin_with_a_byte_order_mark(copy, contents):
    put(copy, contents, "manifest.json", b"\xef\xbb\xbf" + contents["manifest.json"])
    assert load_bundle(copy).manifest.version == json.loads(contents["manifest.json"])["version"]
