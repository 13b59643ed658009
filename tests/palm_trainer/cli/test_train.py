"""palm-train inside this process: arguments, files and messages."""

import json
import signal

import pytest

from palm_trainer.cli import train as cli


def test_run_evaluate_predict(palm, tiny_toml, tmp_path):
    code, out, err = palm("run", tiny_toml(second=True), "--set", "train.epochs=2", "--set", "train.log_every_steps=3")
    assert (code, err) == (0, "")
    assert "step 3/18" in out
    assert "examples/s" in out
    assert "s left" in out
    assert "epoch 2  dev intent " in out
    assert "exact_match" in out
    run = tmp_path / "run"
    code, out, err = palm("evaluate", run, "--split", "test", "--json", tmp_path / "m.json")
    assert (code, err) == (0, "")
    written = json.loads((tmp_path / "m.json").read_text())
    assert written == {"test": json.loads((run / "metrics.json").read_text())["test"]}
    code, out, err = palm("predict", run, "--text", "flights from boston", "--text", "r&b 🎉")
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [a["text"] for a in answers] == ["flights from boston", "r&b 🎉"]
    assert set(answers[0]) == {"text", "intent", "slots", "mood"}
    code, out, err = palm("run", tmp_path / "run/config.toml")
    assert (code, out) == (2, "")
    assert "holds a run already" in err


@pytest.mark.parametrize("split", ["dev", "train"])
def test_evaluate_other_splits_and_checkpoints(palm, finished_run, split, tmp_path):
    code, _, _ = palm("evaluate", finished_run, "--split", split, "--checkpoint", "last", "--json", tmp_path / "m.json")
    assert code == 0
    assert set(json.loads((tmp_path / "m.json").read_text())[split]) == {"intent", "slots", "mood", "exact_match"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "trial"), "--split must be a split of the run's data (dev, test, train), got 'trial'."),
        (("--checkpoint", "middle"), "holds no 'middle' checkpoint"),
        (
            ("--checkpoint", "last", "--json", "/dev/null/m.json"),
            "/dev/null is a file. Choose another output directory.",
        ),
    ],
)
def test_evaluate_refuses(palm, finished_run, arguments, message):
    code, _, err = palm("evaluate", finished_run, *arguments)
    assert code == 2
    assert message in err


def test_predict_files(palm, finished_run, tmp_path):
    texts = tmp_path / "in.txt"
    texts.write_text("\ufeffflights from boston\r\n\n   \nline\u2028separator and \x0c feed\n", encoding="utf-8")
    code, out, _ = palm("predict", finished_run, "--input", texts)
    assert code == 0
    assert [json.loads(line)["text"] for line in out.split("\n")[:-1]] == [
        "flights from boston",
        "line\u2028separator and \x0c feed",
    ]
    rows = tmp_path / "in.jsonl"
    rows.write_text(
        '{"text": "to\u2028boston", "id": 3}\n{"text": "a", "text_pair": null}\n{"text": ""}\n', encoding="utf-8"
    )
    output = tmp_path / "out.jsonl"
    code, out, _ = palm("predict", finished_run, "--input", rows, "--output", output)
    assert (code, out) == (0, "")
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [(a["text"], a.get("text_pair")) for a in answers] == [("to\u2028boston", None), ("a", None), ("", None)]
    assert answers[2]["slots"] == []
    for answer in (answers[0], answers[2]):
        assert all(answer["text"][s["start"] : s["end"]] == s["value"] for s in answer["slots"])
    assert {p.name for p in tmp_path.iterdir()} == {"in.txt", "in.jsonl", "out.jsonl"}


def test_predict_answers_a_huge_text(palm, finished_run, tmp_path):
    huge = tmp_path / "huge.txt"
    huge.write_text("flights from boston " * 50_000, encoding="utf-8")
    code, out, _ = palm("predict", finished_run, "--input", huge)
    assert code == 0
    assert len(json.loads(out)["text"]) == 1_000_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"", "in.txt: an empty file"),
        ("in.txt", b"\n  \n", "in.txt: an empty file"),
        ("in.txt", b"caf\xe9\n", "in.txt:1:4: byte 0xe9 is not UTF-8"),
        ("in.txt", None, "in.txt: no such file; check its path"),
        ("in.jsonl", b'{"text": "a"}\n[1]\n', 'in.jsonl:2: not an object with "text"'),
        ("in.jsonl", b'{"txt": "a"}\n', 'in.jsonl:1: not an object with "text"'),
        ("in.jsonl", b'{"text": 3}\n', 'in.jsonl:1: "text" (or "question") and "text_pair"'),
        ("in.jsonl", b'{"text": "a", "passage": "b"}\n', "every task of this model ('intent', 'slots', 'mood') reads"),
        ("in.jsonl", b'{"text": "half \\ud800 a pair"}\n', "not Unicode text"),
    ],
)
def test_predict_refuses(palm, finished_run, tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    code, out, err = palm("predict", finished_run, "--input", path, "--output", tmp_path / "out.jsonl")
    assert (code, out) == (2, "")
    assert message in err
    assert not list(tmp_path.glob("out.jsonl*"))


@pytest.mark.parametrize("arguments", [(), ("--text", "a", "--input", "b")])
def test_predict_wants_one_source(palm, finished_run, arguments):
    code, _, err = palm("predict", finished_run, *arguments)
    assert code == 2
    assert 'give either --text "..." or --input FILE' in err


def test_predict_pairs_belong_to_texts(palm, finished_run, tmp_path):
    code, _, err = palm("predict", finished_run, "--input", tmp_path / "a.jsonl", "--pair", "b")
    assert code == 2
    assert "--pair must be given with --text" in err
    code, _, err = palm("predict", finished_run, "--text", "a", "--pair", "b")
    assert code == 2
    assert "reads texts without a pair. Leave the pair out." in err


def test_a_text_that_is_not_unicode(palm, finished_run):
    code, out, err = palm("predict", finished_run, "--text", b"caf\xe9".decode(errors="surrogateescape"))
    assert (code, out) == (2, "")
    assert "not Unicode text" in err


def test_predict_output_that_cannot_be_written(palm, finished_run):
    code, _, err = palm("predict", finished_run, "--text", "a", "--output", "/dev/null/out.jsonl")
    assert code == 2
    assert "/dev/null is a file. Choose another output directory." in err


def test_a_run_that_is_not_there(palm, tmp_path):
    for arguments in (("evaluate", tmp_path / "no"), ("predict", tmp_path / "no", "--text", "a")):
        code, _, err = palm(*arguments)
        assert code == 2
        assert "no such run directory. Train one with `palm-train run CONFIG" in err


def test_plan_tells_what_a_step_costs(palm, tiny_toml):
    code, out, _ = palm(
        "plan", tiny_toml(), "--set", "train.regularization.r_drop=1", "--set", "train.regularization.fgm=0.5"
    )
    assert code == 0
    assert "a step trains 0.0 M parameters" in out
    assert "; 4 passes over each batch (train.regularization.r_drop, train.regularization.fgm)" in out


def test_plan_trains_nothing(palm, tiny_toml, tmp_path):
    code, out, err = palm("plan", tiny_toml(second=True))
    assert (code, err) == (0, "")
    for part in (
        "travel",
        "reviews",
        "24",
        "8",
        "intent",
        "flight",
        "sequence_label",
        "2 layers of 16",
        "27 steps on cpu in fp32",
    ):
        assert part in out, part
    assert not (tmp_path / "run").exists()


def test_labels_that_look_like_markup_are_shown_as_they_are(palm, tiny_toml, tmp_path):
    path = tiny_toml()
    label = tmp_path / "travel/train/label"
    label.write_text(label.read_text().replace("fare", "[/red]:smile:"))
    code, out, err = palm("plan", path)
    assert (code, err) == (0, "")
    assert "[/red]:smile:" in out


def test_three_faults_are_listed_together(palm, tiny_toml):
    path = tiny_toml()
    path.write_text(path.read_text().replace("epochs = 3", "epoch = 3").replace('format = "joint"', 'format = "yaml"'))
    code, out, err = palm("run", path, "--set", "train.batch_size=0")
    assert (code, out) == (2, "")
    assert "3 faults" in err
    for part in ("train.epoch is not a key of [train]. Did you mean 'epochs'?", "got 'yaml'", "train.batch_size"):
        assert part in err, part


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("travel/train/seq.in", None, "travel/train"),
        ("travel/train/seq.in", b"", "travel/train"),
        ("travel/train/label", b"flight\n", "travel/train"),
        ("travel/train/seq.in", b"\xff\xfe\n" * 24, "UTF-8"),
        ("travel/dev/seq.out", b"O\n" * 8, "travel/dev"),
        ("reviews.tsv", b"", "reviews.tsv"),
    ],
)
def test_bad_data_is_one_message(palm, tiny_toml, tmp_path, file, content, message):
    path = tiny_toml(second=True)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    code, out, err = palm("run", path)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "run").exists()


def test_resume_and_overwrite_exclude_each_other(palm, tiny_toml):
    code, _, err = palm("run", tiny_toml(), "--resume", "--overwrite")
    assert code == 2
    assert "Give one of them" in err


def test_a_full_disk(palm, tiny_toml, monkeypatch):
    def refuse(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("palm_trainer.model.checkpoint.save_file", refuse)
    code, _, err = palm("run", tiny_toml())
    assert code == 2
    assert "best could not be written" in err
    assert "No space left on device. Free some space" in err


def test_an_output_that_cannot_be_made(palm, tiny_toml, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = palm("run", tiny_toml(), "--output", tmp_path / "file/run")
    assert code == 2
    assert "file is a file. Choose another output directory." in err


def test_out_of_memory(palm, tiny_toml, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise MemoryError("9 GB")

    monkeypatch.setattr("palm_trainer.training.loop.TrainingLoop.train_on", refuse)
    code, _, err = palm("run", tiny_toml())
    assert code == 2
    assert "out of memory: 9 GB. Lower train.batch_size or encoder.max_length" in err


@pytest.mark.parametrize("name", [(), ("run",), ("evaluate",), ("predict",), ("plan",)])
def test_help_shows_an_example(palm, name):
    code, out, err = palm(*name, "--help")
    assert (code, err) == (0, "")
    assert f"Example: palm-train {' '.join(name) or 'run'}" in " ".join(out.split())


@pytest.mark.parametrize("arguments", [("fly",), ("run",), ("run", "a.toml", "--fast"), ("evaluate",)])
def test_wrong_usage(palm, arguments):
    code, out, err = palm(*arguments)
    assert (code, out) == (2, "")
    assert "Usage:" in err


def test_models(palm):
    code, out, _ = palm("models", "ls")
    assert code == 0
    assert "minilm-l6-en" in out
    assert "scratch" in out


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_second_ctrl_c_stops_at_once(first):
    stop = cli.StopRequest()
    stop.listen()
    assert not stop()
    signal.raise_signal(first)
    assert stop()
    if first == signal.SIGTERM:
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_report(palm, tiny_toml, tmp_path):
    code, out, _ = palm("run", tiny_toml(), "--set", "train.epochs=1")
    assert code == 0
    assert out.splitlines()[-1] == f"report: {tmp_path / 'run/report.html'}"
    assert "answers on dev" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    code, out, err = palm("report", tmp_path / "run", "--split", "test", "--output", tmp_path / "test.html")
    assert (code, out, err) == (0, f"report: {tmp_path / 'test.html'}\n", "")
    assert "answers on test" in (tmp_path / "test.html").read_text(encoding="utf-8")
    assert "answers on dev" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "trial"), "--split must be a split of the run's data (dev, test, train), got 'trial'."),
        (("--output", "/dev/null/report.html"), "/dev/null is a file. Choose another output directory."),
    ],
)
def test_report_refuses(palm, finished_run, arguments, message):
    code, _, err = palm("report", finished_run, *arguments)
    assert code == 2
    assert message in err
