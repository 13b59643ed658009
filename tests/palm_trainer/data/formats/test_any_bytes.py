"""Any bytes end in examples or in one message with a place, in every reader."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError

WORDS = "text label intent nlu: - examples: | > # ## intent: a b O B-x I-x L-x 1 2 9e999 NaN null true data train"
SIGNS = (
    r"""[ ] { } ( ) : , " ' \ \ud83d \ude01 "text" "intent" "slots" "start" "end" "label" "data" "train" <=> & * <<"""
)
PARTS = [*WORDS.split(), *SIGNS.split()]
TEXTS = st.lists(st.sampled_from([*PARTS, " ", "\n", "\n", "\t", "\x02", "\r\n", "  ", "北", "😀"]), max_size=40)
CONTENT = st.one_of(st.binary(max_size=60), TEXTS.map(lambda parts: "".join(parts).encode()))

NAMES = "text intent entities start end entity role group value slots label words tokens tags answers answer_start"
MORE_NAMES = (
    "question id qas context paragraphs is_impossible text_pair data utterances assets startPos endPos category"
)
PRODUCT_NAMES = (
    "offset length alias parts trainingPhrases displayName intents slot_name languageModel samples type types"
)
KEYS = st.sampled_from([*NAMES.split(), *MORE_NAMES.split(), *PRODUCT_NAMES.split()])


def put(folder, name, content):
    """Write the content as a format takes it, and return the path to read."""
    if name in ("joint", "datasets"):
        path = folder / "d"
        path.mkdir(exist_ok=True)
        for part in ("seq.in", "seq.out", "label") if name == "joint" else ("state.json", "data.arrow"):
            (path / part).write_bytes(content)
        return path
    path = folder / ("f.yml" if name == "rasa" else "f")
    path.write_bytes(content)
    return path.with_name(path.name + "#train") if name == "clinc" else path


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=100, deadline=None)
@given(content=CONTENT)
def test_any_bytes_end_in_examples_or_one_message(name, content, tmp_path_factory):
    path = put(tmp_path_factory.mktemp("any"), name, content)
    try:
        examples = list(FORMATS[name](path, FormatOptions(), Defects()))
    except DataError as error:
        if str(path.parent) not in str(error):
            raise AssertionError("the message has no place") from error
        return
    for example in examples:
        assert example.text.encode()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "a b", "text", "\ud83d", "O", "B-x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


PRODUCTS = {
    "luis": lambda rows: {"utterances": rows},
    "clu": lambda rows: {"assets": {"utterances": rows}},
    "dialogflow_es": lambda rows: rows,
    "dialogflow_cx": lambda rows: {"displayName": "a", "trainingPhrases": rows},
    "alexa": lambda rows: {"languageModel": {"intents": rows}},
    "snips": lambda rows: {"intents": {"a": {"utterances": rows}}},
    "wit": lambda rows: {"utterances": rows},
}


@pytest.mark.parametrize("name", ["jsonl", "json", "squad", "rasa", *PRODUCTS])
@settings(max_examples=150, deadline=None)
@given(content=VALUES, rows=st.lists(st.dictionaries(KEYS, VALUES, max_size=5), max_size=3))
def test_any_values_of_json_end_in_examples_or_one_message(name, content, rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "f.json"
    texts = {"jsonl": "\n".join(map(json.dumps, [content, *rows])), "json": json.dumps(rows or content)}
    texts["squad"] = json.dumps({"data": [{"paragraphs": [{"context": "a b", "qas": rows or content}]}]})
    texts["rasa"] = json.dumps({"rasa_nlu_data": {"common_examples": rows or content}})
    path.write_text(texts[name] if name in texts else json.dumps(PRODUCTS[name](rows or content)))
    for read in (lambda: list(FORMATS[name](path, FormatOptions(), Defects())), lambda: detect_format(path)):
        try:
            message = f"{path}: {read()}"
        except DataError as error:
            message = str(error)
        assert str(path.parent) in message


@pytest.mark.parametrize("suffix", ["", ".json", ".jsonl", ".csv", ".tsv", ".yml", ".md"])
@settings(max_examples=50, deadline=None)
@given(content=CONTENT)
def test_any_bytes_are_detected_or_refused(suffix, content, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / f"f{suffix}"
    path.write_bytes(content)
    with suppress(DataError):
        assert detect_format(path).format in FORMATS


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [b"[", b'{"a":', b"a ", b"\n", b"a O\n", b'"', b"[a](", b"- ", b"\t", b"a: "])
def test_a_megabyte_is_read_or_refused_in_two_seconds(name, part, tmp_path):
    path = put(tmp_path, name, part * (1_000_000 // len(part)))
    start = time.process_time()
    with suppress(DataError):
        list(FORMATS[name](path, FormatOptions(), Defects()))
    assert time.process_time() - start < 2


@pytest.mark.parametrize("state", ["{}", "[]", "3", '{"_data_files": 3}', '{"_data_files": [{}]}', "[[["])
def test_datasets_state_of_another_structure_is_refused(state, tmp_path):
    path = put(tmp_path, "datasets", state.encode())
    with pytest.raises(DataError, match=r"state\.json"):
        list(FORMATS["datasets"](path, FormatOptions(), Defects()))


@pytest.mark.parametrize("metadata", [b"[[", b"\xff", b"3", b'{"info": 3}', b'{"info": {"features": [1]}}'])
def test_parquet_metadata_of_another_structure_is_refused(metadata, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pa.table({"text": ["a"]}).replace_schema_metadata({b"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"metadata `huggingface` of .*a\.parquet"):
        list(FORMATS["parquet"](tmp_path / "a.parquet", FormatOptions(), Defects()))
