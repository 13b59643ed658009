"""An `Answerer` answers columns as the server answers their texts."""

import math
import pickle

import pyarrow as pa
import pytest

from palm_serve import Model
from palm_serve.batch import Answerer
from palm_serve.batch.answer_columns import answer_columns
from palm_serve.bundle.manifest import Decode, Manifest, TaskInfo
from palm_serve.client import Client
from palm_serve.errors import BatchError, BundleError, InvalidRequest

TEXTS = [
    "please show me flights from boston to new york on monday",
    "hello",
    None,
    "Is the weather AWFUL in 北京 next week?",
    "  ",
    "e\u0301 denver " * 30,
    "a" * 10_001,
]


@pytest.fixture(scope="module")
def answerer(tiny_bundle):
    answerer = Answerer(tiny_bundle)
    yield answerer
    answerer.close()


@pytest.fixture
def table():
    return pa.table({"id": range(len(TEXTS)), "text": TEXTS})


def close(answer, expected):
    """Compare answers. Numbers may differ by the rounding of a row that is decoded alone."""
    if isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(close(answer[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(answer) == len(expected) and all(map(close, answer, expected))
    if isinstance(expected, float):
        return math.isclose(answer, expected, abs_tol=1e-6)
    return answer == expected


def test_answers_equal_those_of_the_server(answerer, table, tiny_server):
    rows = answerer(table).to_pylist()
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))
    answered = 0
    with Client(tiny_server) as client:
        for row, text in zip(rows, TEXTS, strict=True):
            assert row["text"] == text
            if text is None:
                assert row["error"] == "text must not be null. Send some text."
                continue
            if row["error"] is not None:
                with pytest.raises(InvalidRequest) as refused:
                    client.parse(text)
                assert row["error"] == str(refused.value).partition(" (request")[0]
                assert (row["intent"], row["slots"], row["sentiment"]) == (None, None, None)
                continue
            expected = client.parse(text)
            answered += 1
            assert close([row["intent"], row["confidence"]], [expected.intent.name, expected.intent.confidence])
            slots = [[slot.name, slot.value, slot.start, slot.end, slot.confidence] for slot in expected.slots]
            assert close([list(slot.values()) for slot in row["slots"]], slots)
            (sentiment,) = expected.results
            label = sentiment.classification.label
            assert close(row["sentiment"], {"label": label.name, "confidence": label.confidence})
            assert row["version"] == expected.version
    assert answered == 4


def test_every_class_of_batch_gets_the_same_answers(answerer, table):
    expected = answerer(table)
    assert expected.schema == answerer.schema(table.schema)
    (record_batch,) = table.to_batches()
    answers = answerer(record_batch)
    assert isinstance(answers, pa.RecordBatch)
    assert pa.Table.from_batches([answers]) == expected
    columns = answerer({"id": list(range(len(TEXTS))), "text": TEXTS})
    assert list(columns) == expected.column_names
    assert columns["intent"].tolist() == expected.column("intent").to_pylist()
    assert math.isnan(columns["confidence"][2])
    assert answerer(record_batch.slice(0, 0)).schema == answers.schema
    assert close(answerer(table.slice(3, 1)).to_pylist(), expected.slice(3, 1).to_pylist())


def test_record_batches_and_frames_pass_as_in_spark_and_dask(answerer, table):
    """As docs/how-to/serve/batch_of_rows.md shows: `mapInArrow` maps over record batches, `map_partitions` passes frames of pandas."""
    record_batches = table.to_batches(max_chunksize=2)
    answered = pa.Table.from_batches(list(map(answerer, iter(record_batches))))
    assert len(record_batches) == 4
    assert close(answered.to_pylist(), answerer(table).to_pylist())
    frame = table.to_pandas()
    answers = answerer(pa.Table.from_pandas(frame, preserve_index=False)).to_pandas()
    assert answers["intent"].isna().tolist() == [False, False, True, False, True, False, True]
    assert answers["id"].tolist() == frame["id"].tolist()


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_texts_of_every_string_type_are_read(answerer, table, kind):
    cast = table.set_column(1, "text", pa.array(TEXTS, pa.string()).cast(kind))
    assert answerer(cast).drop_columns(["text"]) == answerer(table).drop_columns(["text"])
    nulls = answerer(pa.table({"text": pa.nulls(2)}))
    assert nulls.column("error").to_pylist() == ["text must not be null. Send some text."] * 2


def test_text_that_is_not_utf8_is_an_error_of_its_row(answerer):
    broken = pa.array([b"hello", b"caf\xe9"], pa.binary()).view(pa.string())
    rows = answerer(pa.table({"id": [1, 2], "text": broken})).select(["intent", "error"]).to_pylist()
    assert rows[0] == {"intent": "greeting", "error": None}
    assert rows[1]["intent"] is None
    assert "text must be UTF-8, got another encoding at byte 3" in rows[1]["error"]


def test_tasks_and_columns_are_chosen(tiny_bundle, table):
    answerer = Answerer(tiny_bundle, tasks=["sentiment", "intent"], keep=["id"])
    assert answerer(table).column_names == ["id", "sentiment", "intent", "confidence", "error", "version"]
    assert answerer(table.rename_columns(["id", "body"]).append_column("text", table["text"])).num_rows == len(TEXTS)
    body = Answerer(tiny_bundle, text_column="body", keep=[])
    assert body(table.rename_columns(["id", "body"])).column("intent").to_pylist()[1] == "greeting"


def test_pickled_answerer_opens_the_bundle_once(tiny_bundle, table, monkeypatch):
    opened = []
    monkeypatch.setattr(Model, "open", lambda bundle, **options: opened.append(bundle) or original(bundle, **options))
    answerer = Answerer(tiny_bundle, threads=1)
    copies = [pickle.loads(pickle.dumps(answerer)) for _ in range(3)]
    for copy in copies:
        assert copy(table).num_rows == len(TEXTS)
    assert len(opened) == 1
    answerer.close()
    assert answerer(table).num_rows == len(TEXTS)
    assert len(opened) == 2
    answerer.close()


original = Model.open


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"body": ["a"]}, {}, "must have one column 'text', got the columns body"),
        ({"text": [1]}, {}, "column 'text' must hold strings, got int64"),
        ({"text": ["a"], "intent": ["b"]}, {}, "columns to keep must not have the name .* got 'intent'"),
        ({"text": ["a"]}, {"keep": ["id"]}, "must have one column 'id'"),
        ({"text": ["a"]}, {"tasks": ["nosuch"]}, "tasks must be some of intent, slots, sentiment, got 'nosuch'"),
        ({"text": ["a"]}, {"pair_column": "b"}, "must have one column 'b'"),
    ],
)
def test_wrong_columns_are_told(tiny_bundle, columns, options, message):
    with pytest.raises(BatchError, match=message):
        Answerer(tiny_bundle, **options)(pa.table(columns))


def test_bundle_is_checked_at_the_first_batch(tmp_path):
    answerer = Answerer(tmp_path / "nosuch")
    with pytest.raises(BundleError, match="nosuch"):
        answerer(pa.table({"text": ["a"]}))


def tasks() -> dict[str, TaskInfo]:
    span = {"B-name": "B-name", "I-name": "I-name"}
    return {
        "topics": TaskInfo(kind="multi_label", role="intent", outputs=("t",), labels=("short", "long")),
        "names": TaskInfo(kind="sequence_label", outputs=("s",), labels=("O", *span)),
        "same": TaskInfo(kind="match", outputs=("m",), labels=("no", "yes"), decode=Decode(match_label="yes")),
        "rank": TaskInfo(kind="match", outputs=("r",)),
        "answer": TaskInfo(kind="mrc", outputs=("a", "b")),
        "tags": TaskInfo(kind="multi_label", outputs=("u",), labels=("x", "y")),
    }


def test_columns_of_every_kind():
    manifest = Manifest.model_construct(name="m", tasks=tasks())
    columns = {column.name: str(column.type) for column in answer_columns(manifest, list(tasks()))}
    labels = "list<item: struct<name: string, confidence: float>>"
    spans = "list<item: struct<name: string, value: string, start: int32, end: int32, confidence: float>>"
    assert columns == {
        "intent": "string",
        "confidence": "float",
        "intents": labels,
        "names": f"struct<spans: {spans}>",
        "same": "struct<label: string, confidence: float, score: float>",
        "rank": "struct<score: float>",
        "answer": "struct<text: string, start: int32, end: int32, confidence: float, no_answer: bool>",
        "tags": f"struct<label: string, confidence: float, labels: {labels}>",
    }
    manifest.tasks["error"] = tasks()["rank"]
    with pytest.raises(BatchError, match="must not have the name of another column, got 'error'"):
        answer_columns(manifest, ["error"])


@pytest.fixture
def pair_bundle(tmp_path, make_tiny_bundle, monkeypatch):
    """A bundle whose third task reads pairs of texts."""
    names = make_tiny_bundle.__globals__
    pair_tasks = names["tiny_tasks"]()
    sentiment = pair_tasks.pop("sentiment")
    pair_tasks["same"] = TaskInfo(
        kind="match", outputs=sentiment.outputs, labels=("no", "yes"), decode=Decode(match_label="yes")
    )
    golden = []
    for example in names["GOLDEN"]:
        golden.append({**example, "answers": {"intent": example["answers"]["intent"]}})
    monkeypatch.setitem(names, "tiny_tasks", lambda: pair_tasks)
    monkeypatch.setitem(names, "GOLDEN", golden)
    return make_tiny_bundle(tmp_path / "pairs")


def test_pairs_are_answered_as_by_predict(pair_bundle):
    table = pa.table({"text": ["hello", "play", "fly", "hi"], "other": ["please", "awful", None, " "]})
    answerer = Answerer(pair_bundle, pair_column="other", keep=[])
    rows = answerer(table).to_pylist()
    model = answerer.model
    for row, (text, pair) in zip(rows[:2], [("hello", "please"), ("play", "awful")], strict=True):
        match = model.predict("same", text, pair).result.match
        assert row["same"] == {
            "label": match.label.name,
            "confidence": match.label.confidence,
            "score": match.score,
        }
        assert row["intent"] == model.parse(text).intent.name
    assert [row["same"] and row["same"]["label"] for row in rows] == ["yes", "no", None, None]
    assert [row["error"] for row in rows[:3]] == [None, None, "text_pair must not be null. Send some text."]
    assert "text_pair must have at least one visible character" in rows[3]["error"]
    answerer.close()
    with pytest.raises(BatchError, match="task 'same' reads pairs of texts"):
        Answerer(pair_bundle, tasks=["same"])(table)
    assert "same" not in Answerer(pair_bundle)(table).column_names
