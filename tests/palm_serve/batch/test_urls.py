"""Batches between URLs: the same parts as between folders, and the same refusals."""

import json
from pathlib import Path

import fsspec
import pytest

from palm_serve.batch.batch_run import BatchOptions, run_batch
from palm_serve.batch.files import locked
from palm_serve.batch.json_lines import run_batch_to
from palm_serve.errors import BatchError
from palm_serve.storage.remote_folder import RemoteFolder


@pytest.fixture
def run(tiny_bundle, tmp_path, monkeypatch):
    """`run(INPUT, OUTPUT, **options)`: answer the rows of URLs or paths."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def answer(source, output, **options):
        options = BatchOptions(**options)
        return run_batch(str(tiny_bundle), [Path(source)], Path(output), options, {"provider": "CPU"})

    return answer


@pytest.fixture(params=["file", "memory"])
def bucket(request, tmp_path):
    """Return the URL of an empty place in each store that needs no network."""
    if request.param == "file":
        (tmp_path / "bucket").mkdir()
        yield f"file://{tmp_path}/bucket"
        return
    store = fsspec.filesystem("memory")
    store.makedirs("/batch-urls")
    yield "memory://batch-urls"
    store.rm("/batch-urls", recursive=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def remote_contents(url: str) -> dict[str, bytes]:
    remote = RemoteFolder(url)
    return {name: remote.read(name, 1 << 30) for name in remote.files()}


def put(url: str, name: str, path: Path) -> None:
    RemoteFolder(url).upload(path, name)


def test_parts_are_those_of_folders_and_are_not_answered_again(run, bucket, make_parquet, tmp_path):
    source = make_parquet(250, 100, "in/a/rows.parquet")
    make_parquet(20, 20, "in/b.parquet")
    make_parquet(5, 5, "in/_hidden/c.parquet")
    run(tmp_path / "in", tmp_path / "out")
    for path in (tmp_path / "in").rglob("*.parquet"):
        put(f"{bucket}/in", path.relative_to(tmp_path / "in").as_posix(), path)
    progress = run(f"{bucket}/in", f"{bucket}/out")
    assert (progress.rows, progress.part_count, progress.error_rows) == (270, 4, 0)
    assert remote_contents(f"{bucket}/out") == contents(tmp_path / "out")

    RemoteFolder(f"{bucket}/out").remove("a/rows.parquet-00001.parquet")
    progress = run(f"{bucket}/in", f"{bucket}/out")
    assert (progress.earlier_parts, progress.done_parts) == (3, 4)
    assert remote_contents(f"{bucket}/out") == contents(tmp_path / "out")

    make_parquet(260, 100, "in/a/rows.parquet")
    put(f"{bucket}/in", "a/rows.parquet", source)
    with pytest.raises(BatchError, match=r"a/rows\.parquet must be as it was when .*://.*/out/.* was written, and has"):
        run(f"{bucket}/in", f"{bucket}/out")


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.jsonl", '{"id": 1, "text": "play a song"}\n{"id": 2}\n'), ("rows.csv", "id,text\n1,play a song\n")],
)
def test_lines_are_read_from_urls(run, bucket, tmp_path, name, content):
    RemoteFolder(bucket).write(f"in/{name}", content.encode())
    (tmp_path / name).write_text(content, encoding="utf-8")
    run(tmp_path / name, tmp_path / "out")
    run(f"{bucket}/in/{name}", f"{bucket}/out")
    assert remote_contents(f"{bucket}/out") == contents(tmp_path / "out")
    told = json.loads(remote_contents(f"{bucket}/out")["_SUCCESS.json"])
    assert told["rows"] == content.count("\n") - (name == "rows.csv")


def test_what_is_not_there_is_told(run, bucket, tmp_path):
    with pytest.raises(BatchError, match=r"no such object or bucket.*Give a file or a folder"):
        run(f"{bucket}/absent", f"{bucket}/out")
    RemoteFolder(bucket).write("in/rows.xml", b"<rows/>")
    with pytest.raises(BatchError, match=r"://.*/in/rows\.xml: the name must end with one of"):
        run(f"{bucket}/in", f"{bucket}/out")
    with pytest.raises(BatchError, match=r"://.*/in/out must not be in the input"):
        run(f"{bucket}/in", f"{bucket}/in/out")


def test_second_run_of_this_machine_on_one_url_is_refused(run, bucket, make_parquet):
    put(f"{bucket}/in", "a.parquet", make_parquet(5, 5))
    with (
        locked(Path(f"{bucket}/out")),
        pytest.raises(BatchError, match=r"the output .*://.*/out must be written by one run"),
    ):
        run(f"{bucket}/in", f"{bucket}/out")


def test_file_that_is_replaced_while_it_is_read_is_told(bucket):
    remote = RemoteFolder(bucket)
    remote.write("a", b"x" * 100)
    with remote.open("a") as stream:
        assert stream.read(10) == b"x" * 10
        stream.seek(-5, 2)
        assert stream.read() == b"x" * 5


def test_json_lines_are_those_of_a_file(run, tiny_bundle, bucket, make_parquet, tmp_path):
    source = make_parquet(25, 10)
    arguments = (str(tiny_bundle), [source])
    for output in (tmp_path / "out.jsonl", Path(f"{bucket}/out.jsonl")):
        run_batch_to(*arguments, output, BatchOptions(), {"provider": "CPU"})
    assert RemoteFolder(bucket).read("out.jsonl", 1 << 30) == (tmp_path / "out.jsonl").read_bytes()
    put(bucket, "other.jsonl", source)
    with pytest.raises(BatchError, match="must be a new file, got one that exists"):
        run_batch_to(*arguments, Path(f"{bucket}/other.jsonl"), BatchOptions(), {"provider": "CPU"})
