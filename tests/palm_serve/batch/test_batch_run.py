"""Runs of a batch in this process: which rows are answered where, and what is refused."""

import json
import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palm_serve.batch import Answerer, batch_run
from palm_serve.batch.batch_run import BatchOptions, run_batch
from palm_serve.batch.files import locked
from palm_serve.batch.workers import answer_parts
from palm_serve.errors import BatchError, BundleError, PalmServeError


@pytest.fixture
def run(tiny_bundle, tmp_path):
    """`run(INPUT..., bundle=..., **options)`: answer into `out`; returns the progress."""

    def answer(*inputs, bundle=tiny_bundle, output=tmp_path / "out", limit=None, workers=1, **options):
        choices = {"provider": "CPU", "max_text_bytes": options.pop("max_text_bytes", 10_000)}
        return run_batch(
            str(bundle), list(inputs), output, BatchOptions(**options), choices, limit=limit, workers=workers
        )

    return answer


def parquet(column: str, *texts: str) -> bytes:
    """Return a Parquet file with one column."""
    stream = pa.BufferOutputStream()
    pq.write_table(pa.table({column: pa.array(texts, pa.string())}), stream)
    return bytes(stream.getvalue().to_pybytes())


def read(folder: Path) -> list[dict[str, object]]:
    rows = []
    for path in sorted(folder.rglob("*.parquet")):
        rows += pq.ParquetFile(path).read().to_pylist()
    return rows


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_each_row_group_is_a_part(run, make_parquet, tmp_path, tiny_bundle):
    source = make_parquet(250, 100)
    progress = run(source, keep=("id",))
    assert (progress.rows, progress.part_count, progress.error_rows) == (250, 3, 0)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["_SUCCESS.json", *(f"in.parquet-0000{number}.parquet" for number in range(3))]
    answerer = Answerer(tiny_bundle, keep=["id"])
    table = pq.ParquetFile(source).read()
    expected = []
    for start in (0, 100, 200):  # batches of other rows may differ in the last digits of confidences
        expected += answerer(table.slice(start, 100)).to_pylist()
    assert read(tmp_path / "out") == expected
    answerer.close()
    told = json.loads((tmp_path / "out" / "_SUCCESS.json").read_text())
    assert (told["rows"], told["errors"], [part["rows"] for part in told["parts"]]) == (250, 0, [100, 100, 50])


def test_large_row_groups_are_divided(run, make_parquet, tmp_path, monkeypatch):
    monkeypatch.setattr("palm_serve.batch.parquet_parts._MOST_ROWS", 40)
    progress = run(make_parquet(150, 100))
    assert progress.part_count == 5
    assert [row["id"] for row in read(tmp_path / "out")] == list(range(150))


def test_second_run_answers_only_what_is_missing(run, make_parquet, tmp_path):
    source = make_parquet(250, 50)
    run(source)
    out = tmp_path / "out"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    (out / "in.parquet-00002.parquet").unlink()
    (out / ".in.parquet-00002.parquet.17.new").write_bytes(b"PAR1 unfinished")
    progress = run(source)
    assert (progress.earlier_parts, progress.done_parts) == (4, 5)
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    for number in (0, 1, 3, 4):
        assert after[f"in.parquet-0000{number}.parquet"] == before[f"in.parquet-0000{number}.parquet"]


def test_jsonl_keeps_columns_and_types(run, tmp_path):
    rows = [
        {"id": 1, "text": "hello", "score": 2**60 + 1, "big": 2**70, "tags": ["a"], "ok": True},
        {"id": 2, "text": "fly to boston", "score": 0.5, "tags": None, "ok": None},
        {"id": 3, "text": 17},
        {"id": 4},
        {"id": 5, "text": "lone \ud800", "mixed": "x"},
        {"id": 6, "text": "play", "mixed": 1},
    ]
    lines = [json.dumps(row) for row in rows]
    lines[3:3] = ["", "{broken", "[1]"]
    progress = run(write(tmp_path / "in.jsonl", "\ufeff" + "\r\n".join(lines)))
    answers = read(tmp_path / "out")
    assert progress.error_rows == 5
    assert [row["id"] for row in answers] == [1, 2, 3, None, None, 4, 5, 6]
    assert [row["score"] for row in answers[:3]] == [2.0**60, 0.5, None]
    assert answers[0]["big"] == str(2**70)
    assert [row["tags"] for row in answers[:2]] == ['["a"]', None]
    assert (answers[0]["ok"], answers[6]["mixed"], answers[7]["mixed"]) == (True, "x", "1")
    assert [row["intent"] for row in answers] == ["greeting", "flight", None, None, None, None, None, "music"]
    errors = [str(row["error"]) for row in answers]
    assert "text must be a string, got int" in errors[2]
    assert errors[3].startswith("in.jsonl:5 must be a JSON object on one line")
    assert errors[4].startswith("in.jsonl:6 must be a JSON object, got list")
    assert "text must not be null" in errors[5]
    assert "text must be valid Unicode, got a lone surrogate" in errors[6]


def test_csv_is_read_with_quotes_over_lines_and_parts(run, tmp_path, monkeypatch):
    monkeypatch.setattr("palm_serve.batch.line_parts._MOST_ROWS", 2)
    content = 'id,text\n1,"fly\nto boston"\n2,hello\n\n3,"a ""song"", play"\n4\n5,awful\n6,caf\xe9\n'.encode("latin-1")
    progress = run(write(tmp_path / "in.csv", content))
    assert (progress.rows, progress.part_count, progress.error_rows) == (6, 3, 2)
    answers = read(tmp_path / "out")
    assert [row["id"] for row in answers] == ["1", "2", "3", None, "5", None]
    assert [row["text"] for row in answers[:3]] == ["fly\nto boston", "hello", 'a "song", play']
    assert "in.csv:7 must have 2 fields as the header, got 1" in str(answers[3]["error"])
    assert "in.csv:9 must be UTF-8" in str(answers[5]["error"])


def test_text_has_one_row_a_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr("palm_serve.batch.line_parts._MOST_ROWS", 2)
    run(write(tmp_path / "in.txt", b"hello\r\n\nplay a song\ncaf\xe9\nfly"))
    answers = read(tmp_path / "out")
    assert [row["text"] for row in answers] == ["hello", "", "play a song", None, "fly"]
    assert [row["intent"] for row in answers] == ["greeting", None, "music", None, "flight"]


MARK = "\ufeff"
JOINED = {
    "in.txt": f"{MARK}{MARK}hello\n{MARK}play a song\n",
    "in.jsonl": f'{MARK}{MARK}{{"text": "hello"}}\n{MARK}{{"text": "play a song"}}\n',
    "in.csv": f"{MARK}{MARK}text,id\nhello,1\n{MARK}play a song,2\n",
    "in.tsv": f"{MARK}{MARK}text\tid\nhello\t1\n{MARK}play a song\t2\n",
}


@pytest.mark.parametrize("name", JOINED)
def test_byte_order_marks_of_joined_files_are_ignored(run, tmp_path, name):
    progress = run(write(tmp_path / name, JOINED[name]))
    assert progress.error_rows == 0
    assert [(row["text"], row["intent"]) for row in read(tmp_path / "out")] == [
        ("hello", "greeting"),
        ("play a song", "music"),
    ]


@pytest.mark.parametrize("name", JOINED)
def test_lines_that_end_in_cr_alone_are_refused(run, tmp_path, name):
    content = JOINED[name].replace(MARK, "").replace("\n", "\r")
    with pytest.raises(BatchError, match=rf"{name}: lines must end with LF or CRLF, got CR alone. Convert the file"):
        run(write(tmp_path / name, content))
    assert not read(tmp_path / "out")


def test_csv_field_of_any_length_is_read(run, tmp_path):
    run(write(tmp_path / "in.csv", f"text,note\nhello,{'x' * 200_000}\n{'y' * 200_000},short\n"))
    answers = read(tmp_path / "out")
    assert [row["intent"] for row in answers] == ["greeting", None]
    assert "must have at most 10,000 bytes, got 200,000" in str(answers[1]["error"])


@pytest.mark.parametrize("name", ["in.csv", "in.tsv"])
def test_quote_that_nothing_closes_is_refused(run, tmp_path, name, monkeypatch):
    monkeypatch.setattr("palm_serve.batch.line_parts._MOST_ROWS", 2)
    content = 'text\nhello\nfly\n"never closed\nplay\nawful\n'
    with pytest.raises(BatchError, match=rf"{name}:4 must be CSV, got a quotation mark that nothing closes"):
        run(write(tmp_path / name, content))
    progress = run(write(tmp_path / name, 'text\nhello\n"closed" late\n"fly\nto boston"'))
    assert (progress.rows, progress.error_rows) == (3, 0)


def test_folders_are_read_whole_and_mirrored(run, make_parquet, tmp_path):
    make_parquet(10, 10, "data/a.parquet")
    make_parquet(20, 10, "data/b.parquet/a.parquet")
    make_parquet(5, 5, "data/_temporary/a.parquet")
    assert run(tmp_path / "data").rows == 30
    assert run(tmp_path / "data").earlier_rows == 30
    out = tmp_path / "out"
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.parquet") if path.is_file())
    assert names == [
        "a.parquet-00000.parquet",
        "b.parquet/a.parquet-00000.parquet",
        "b.parquet/a.parquet-00001.parquet",
    ]
    make_parquet(7, 7, "data/c.parquet")
    assert run(tmp_path / "data").earlier_rows == 30


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl"])
def test_limit_answers_the_first_rows(run, make_parquet, tmp_path, name, monkeypatch):
    monkeypatch.setattr("palm_serve.batch.line_parts._MOST_ROWS", 10)
    source = make_parquet(50, 10)
    if name.endswith("jsonl"):
        rows = pq.ParquetFile(source).read().to_pylist()
        source = write(tmp_path / name, "".join(json.dumps(row) + "\n" for row in rows))
    assert run(source, limit=25).part_count == 3
    assert [row["id"] for row in read(tmp_path / "out")] == list(range(25))


def test_parts_of_something_else_are_refused(run, make_parquet, make_tiny_bundle, tmp_path):
    source = make_parquet(30, 10)
    run(source)
    bundle = make_tiny_bundle(tmp_path / "other", name="other")
    with pytest.raises(BatchError, match=r"must have the bundle other@sha256:\w+, got tiny@sha256:"):
        run(source, bundle=bundle)
    with pytest.raises(BatchError, match=r"must have the options .*500"):
        run(source, max_text_bytes=500)
    with pytest.raises(BatchError, match=r"must have the options .*sentiment"):
        run(source, tasks=("sentiment",))
    with pytest.raises(BatchError, match=r"holds answers to rows of in\.parquet that are not in the input now"):
        run(source, limit=10)
    with pytest.raises(BatchError, match=r"in\.parquet must be as it was .* or --limit has"):
        run(source, limit=25)
    make_parquet(31, 10)
    with pytest.raises(BatchError, match=r"in\.parquet must be as it was when .* was written, and has changed"):
        run(source)
    make_parquet(3, 3, "else.parquet")
    with pytest.raises(BatchError, match=r"holds answers to rows of in\.parquet that are not in the input now"):
        run(tmp_path / "else.parquet")
    (tmp_path / "out2").mkdir()
    write(tmp_path / "out2" / "mine.parquet", source.read_bytes())
    with pytest.raises(BatchError, match=r"mine\.parquet must be a part that palm-serve batch wrote"):
        run(source, output=tmp_path / "out2")


def test_other_engine_is_refused(tiny_bundle, make_parquet, tmp_path):
    source = make_parquet(10, 10)
    run_batch(str(tiny_bundle), [source], tmp_path / "out", BatchOptions(), {"provider": "CPU"})
    again = run_batch(str(tiny_bundle), [source], tmp_path / "out", BatchOptions(), {})
    assert again.earlier_parts == 1
    with pytest.raises(BatchError, match="must be answered with --precision int8, got fp32"):
        run_batch(str(tiny_bundle), [source], tmp_path / "out", BatchOptions(), {"precision": "int8"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "must have at least one row"),
        ("a.csv", "id,text\n", "must have at least one row"),
        ("a.jsonl", '{"body": "a"}\n', r"a\.jsonl: no row has the column 'text'; there are: body"),
        ("a.csv", "id,body\n1,a\n", r"a\.csv: no row has the column 'text'; there are: id, body"),
        ("a.csv", "id,id\n1,a\n", "must name each column once"),
        ("a.parquet", parquet("text"), "must have at least one row"),
        ("a.parquet", parquet("body", "hello"), "must have one column 'text', got the columns body"),
        ("a.parquet", "no parquet", r"a\.parquet must be a Parquet file that can be read"),
        ("a.xlsx", "", r"the name must end with one of \.parquet"),
        ("folder/.hidden", "", "must hold a file"),
    ],
)
def test_inputs_without_texts_are_refused(run, tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(BatchError, match=message):
        run(path if path.parent == tmp_path else path.parent)


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.tsv", "in.jsonl"])
@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-32"])
def test_other_encodings_are_refused(run, tmp_path, name, encoding):
    source = write(tmp_path / name, "text\nhello\n".encode(encoding))
    with pytest.raises(BatchError, match=rf"{name}:1 must be UTF-8, got {encoding}\. Save the file"):
        run(source)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("in.txt", b"caf\xe9\n", 1),
        ("in.csv", b"text\ncaf\xe9\n", 2),
        ("in.csv", b"text,caf\xe9\nhello,a\n", 1),
        ("in.tsv", b"text\ncaf\xe9\n", 2),
        ("in.jsonl", b'{"text": "caf\xe9"}\n{\n', 1),
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_refused(run, tmp_path, name, content, line):
    with pytest.raises(BatchError, match=rf"{name}:{line} must be UTF-8, got another encoding"):
        run(write(tmp_path / name, content))


def test_inputs_that_do_not_fit_are_refused(run, make_parquet, tmp_path):
    source = make_parquet(10, 10, "a/in.parquet")
    with pytest.raises(BatchError, match="does not exist"):
        run(tmp_path / "nosuch")
    with pytest.raises(BatchError, match="must have different names"):
        run(source, make_parquet(10, 10, "b/in.parquet"))
    with pytest.raises(BatchError, match="must have one format, got jsonl and parquet"):
        run(source, write(tmp_path / "a.jsonl", '{"text": "a"}'))
    with pytest.raises(BatchError, match="must not be in the input"):
        run(tmp_path / "a", output=tmp_path / "a" / "out")
    with pytest.raises(BatchError, match=r"the output .* must be a folder, got a file"):
        run(source, output=source)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"id": ["x"], "text": ["a"]}), other)
    with pytest.raises(BatchError, match="inputs must have the same columns, got id int64, text string in"):
        run(source, other)
    assert run(source, other, keep=()).rows == 11


def test_second_run_on_one_output_is_refused(run, make_parquet, tmp_path):
    source = make_parquet(10, 10)
    with locked(tmp_path / "out"), pytest.raises(BatchError, match="must be written by one run, got a second"):
        run(source)
    assert run(source).rows == 10


def test_input_that_changes_meanwhile_is_told(run, make_parquet, tmp_path, monkeypatch):
    source = make_parquet(30, 10)
    answer = Answerer.answer

    def change(self, table, faults):
        os.utime(source, ns=(1, 1))
        return answer(self, table, faults)

    monkeypatch.setattr(Answerer, "answer", change)
    with pytest.raises(BatchError, match="must stay as it is while it is read, and was changed"):
        run(source)
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_bundle_that_is_replaced_meanwhile_is_refused(run, make_parquet, make_tiny_bundle, tmp_path, monkeypatch):
    bundle = make_tiny_bundle(tmp_path / "bundle")
    make_tiny_bundle(tmp_path / "next", name="next")
    original = batch_run.written_parts

    def replace(*arguments):
        bundle.rename(tmp_path / "before")
        (tmp_path / "next").rename(bundle)
        return original(*arguments)

    monkeypatch.setattr(batch_run, "written_parts", replace)
    with pytest.raises(BundleError, match=r"digest|sha256"):
        run(make_parquet(10, 10), bundle=bundle)
    assert list((tmp_path / "out").iterdir()) == []


def test_failed_write_leaves_nothing(run, make_parquet, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        run(make_parquet(10, 10))
    assert list((tmp_path / "out").iterdir()) == []


def test_part_that_ends_its_processes_ends_the_run():
    """A part is a signal here, and its answer is that the process gets it."""
    with pytest.raises(PalmServeError, match=r"SIGKILL: 3 processes in a row ended .* by signal SIGKILL"):
        list(answer_parts(signal.raise_signal, [signal.SIGKILL], 2))


def test_error_of_a_part_ends_the_processes():
    with pytest.raises(FileNotFoundError, match="nosuch"):
        list(answer_parts(os.stat, ["nosuch"], 2))
