"""Corrected answers are appended to a file, which palm-train reads."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from palm_serve.errors import ConfigError, NotAllowed
from palm_serve.http import feedback_file
from palm_serve.http.feedback_file import FeedbackFile
from palm_serve.rpc.access.tokens import new_token
from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats import jsonl
from palm_trainer.data.formats.text_files import Defects, FormatOptions

PATH = "/playground/feedback"
TEXT = "\N{GRINNING FACE} fly from 北京 to boston\u2028now"
SPANS = [{"start": 11, "end": 13, "label": "city"}, {"start": 17, "end": 23, "label": "city"}]
ROW = {
    "text": TEXT,
    "fields": {"intent": "flight", "slots": SPANS},
    "model": "tiny",
    "answer": {"intent": {"name": "music"}, "slots": []},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("feedback") / "rows.jsonl"


@pytest.fixture(scope="module")
def door(make_shared_door, file):
    file.write_text('{"text": "before"}', encoding="utf-8")  # without the end of its line
    return make_shared_door("--feedback", file)


def rows(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def test_row_is_appended_and_read_by_the_trainer(door, file):
    before = rows(file) or [{"text": "before"}]
    response = door.post(PATH, ROW)
    assert (response.status_code, response.json()) == (200, {"saved": True})
    content = rows(file)
    assert content[: len(before)] == before
    row = content[-1]
    assert (row["text"], row["intent"], row["slots"]) == (TEXT, "flight", SPANS)
    assert (row["source"], row["model"], len(row["version"])) == ("playground", "tiny", 64)
    assert json.loads(row["answer"]) == ROW["answer"]
    defects = Defects()
    example = [*jsonl.parse(file, FormatOptions(), defects)][-1]
    assert list(defects) == []
    assert (example.text, example.fields["intent"]) == (TEXT, "flight")
    assert example.fields["slots"] == (LabelledSpan(11, 13, "city"), LabelledSpan(17, 23, "city"))
    assert TEXT[11:13] == "北京"


def test_page_knows_that_answers_can_be_saved(door, make_door):
    assert 'data-feedback="on"' in door.get("/playground").text
    other = make_door()
    assert 'data-feedback="off"' in other.get("/playground").text
    assert other.post(PATH, ROW).status_code == 404


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"text": " "}, "text"),
        ({"fields": {}}, "fields"),
        ({"fields": {"text": "a"}}, "fields"),
        ({"fields": {"nosuch": "a"}}, "fields"),
        ({"fields": {"intent": "nosuch"}}, "fields.intent"),
        ({"fields": {"intent": ["flight"]}}, "fields.intent"),
        ({"fields": {"intent": SPANS}}, "fields.intent"),
        ({"fields": {"slots": "city"}}, "fields.slots"),
        ({"fields": {"slots": ["city"]}}, "fields.slots"),
        ({"fields": {"slots": [{"start": 0, "end": 99, "label": "city"}]}}, "fields.slots"),
        ({"fields": {"slots": [{"start": 2, "end": 2, "label": "city"}]}}, "fields.slots"),
        ({"fields": {"slots": [SPANS[0], {"start": 12, "end": 14, "label": "day"}]}}, "fields.slots"),
        ({"fields": {"slots": [{"start": 0, "end": 1, "label": "nosuch"}]}}, "fields.slots"),
        ({"fields": {"slots": [{"start": 0, "end": 1, "label": "city", "role": "from"}]}}, "fields.slots"),
        ({"other": 1}, "other"),
    ],
)
def test_what_is_no_row_is_refused(door, file, change, place):
    door.post(PATH, ROW)
    before = file.read_bytes()
    response = door.post(PATH, ROW | change)
    assert response.status_code == 400
    assert place in response.json()["error"]
    assert file.read_bytes() == before


def test_model_and_size_are_checked(door, file):
    assert door.post(PATH, ROW | {"model": "nosuch"}).status_code == 404
    assert door.post(PATH, ROW | {"answer": {"a": "x" * 70_000}}).status_code == 413
    assert door.client.get(PATH).status_code == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=a"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
    ],
)
def test_what_other_sites_could_send_is_refused(door, headers, status):
    body = json.dumps(ROW).encode()
    response = door.client.post(PATH, content=body, headers={"Content-Type": "application/json", **headers})
    assert response.status_code == status


def test_origins_that_may_ask_may_not_save(make_door, tmp_path):
    file = tmp_path / "rows.jsonl"
    door = make_door("--feedback", file, "--http-allow-origin", "*")
    headers = {"Origin": "https://app.example"}
    parse = "/palm_serve.v1.DialogueUnderstanding/Parse"
    assert door.post(parse, {"text": "hello"}, headers=headers).status_code == 200
    assert door.post(PATH, ROW, headers=headers).status_code == 403
    assert file.read_bytes() == b""
    assert door.post(PATH, ROW, headers={"Origin": door.url}).status_code == 200


def test_token_needs_the_scope(make_door, tmp_path):
    content = ""
    secrets = {}
    for scope in ("parse", "feedback"):
        secrets[scope], digest = new_token()
        content += f'[tokens.{scope}]\nsha256 = "{digest}"\nscopes = ["{scope}"]\n'
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(content)
    door = make_door("--tokens", tokens, "--feedback", tmp_path / "rows.jsonl", "--log-text", "--log-level", "info")
    assert door.post(PATH, ROW).status_code == 401
    for scope, status in (("parse", 403), ("feedback", 200)):
        headers = {"Authorization": f"Bearer {secrets[scope]}"}
        assert door.post(PATH, ROW, headers=headers).status_code == status


def test_rows_of_many_threads_are_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    writers = [FeedbackFile(path), FeedbackFile(path)]

    def write(number: int) -> None:
        for _ in range(20):
            writers[number % 2].append({"text": str(number) * 3000})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(path)) == 120
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_has_a_largest_size(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    writer = FeedbackFile(path)
    monkeypatch.setattr(feedback_file, "MAX_FILE_BYTES", 40)
    writer.append({"text": "a"})
    with pytest.raises(NotAllowed, match="at most 40 bytes"):
        writer.append({"text": "a" * 30})
    assert rows(path) == [{"text": "a"}]
    path.rename(tmp_path / "old.jsonl")
    writer.append({"text": "b"})
    assert rows(path) == [{"text": "b"}]


def test_part_of_a_row_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    writer = FeedbackFile(path)
    writer.append({"text": "a"})
    write = os.write

    def fill(descriptor: int, data: bytes) -> int:
        if len(data) > 12:
            return write(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(feedback_file.Unavailable, match="No space left"):
        writer.append({"text": "b"})
    monkeypatch.undo()
    assert rows(path) == [{"text": "a"}]


@pytest.mark.parametrize("kind", ["folder", "missing", "pipe"])
def test_unusable_file_ends_the_start(tmp_path, kind):
    path = tmp_path / "rows.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "missing":
        path = tmp_path / "nosuch" / "rows.jsonl"
    else:
        os.mkfifo(path)
    with pytest.raises(ConfigError, match="--feedback must be a file"):
        FeedbackFile(path)


def test_option_needs_the_door(start_server, tiny_bundle, tmp_path):
    process = start_server(tiny_bundle, "--feedback", tmp_path / "rows.jsonl")
    assert process.finish() == 2
    assert "feedback requires http_port" in "".join(process.errors)
    process = start_server(tiny_bundle, "--http-port", "0", "--feedback", Path("/dev/null"))
    assert process.finish() == 2
    assert "it is no regular file" in "".join(process.errors)
