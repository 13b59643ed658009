"""`palm-train health`, decisions in its review, and `palm-train run --review`."""

import json

import pytest


@pytest.fixture
def reviewed(palm, tiny_toml, tmp_path):
    """The tiny data with a wrong intent and a missing span: configuration, folder, and a function that reads the lines."""
    config = tiny_toml()
    labels = tmp_path / "travel/train/label"
    words = (tmp_path / "travel/train/seq.in").read_text().splitlines()
    tags = (tmp_path / "travel/train/seq.out").read_text().splitlines()
    for name, lines in (("seq.in", words), ("seq.out", tags), ("label", labels.read_text().splitlines())):
        more = {
            "seq.in": [words[0]] * 2,
            "seq.out": [tags[0], " ".join("O" for _ in words[0].split())],
            "label": ["fare", "flight"],
        }
        (tmp_path / "travel/train" / name).write_text("\n".join([*lines, *more[name]]) + "\n")
    folder = tmp_path / "health"
    code, out, err = palm("health", config, "--output", folder)
    assert (code, err) == (0, "")

    def lines():
        return [json.loads(line) for line in (folder / "review.jsonl").read_text().splitlines()]

    return config, folder, lines, out


def decide(folder, lines, choose):
    for line in lines:
        line["decision"] = choose(line)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (folder / "review.jsonl").write_text(text)


def test_findings_have_place_reason_and_suggestion(reviewed, tmp_path):
    _, folder, lines, out = reviewed
    wrong = [line for line in lines() if line["split"] == "train"]
    count = len((tmp_path / "travel/train/seq.in").read_text().splitlines())
    found = [(line["file"], line["line"], line["field"], line["label"], line["to"]) for line in wrong]
    city = {"start": 13, "end": 19, "label": "city"}
    assert ("train/seq.in", count - 1, "intent", "fare", "flight") in found
    assert ("train/seq.in", count, "slots", [], [city]) in found
    assert all(line["decision"] is None for line in lines())
    assert f"page: {folder / 'health.html'}" in out
    assert "duplicate" in out


def test_run_with_review_tells_how_many_rows_changed(palm, reviewed, tmp_path):
    config, folder, lines, _ = reviewed

    def choose(line):
        if line["split"] != "train":
            return "ignore"
        return (
            "relabel" if line["field"] == "slots" and "start" in line else "drop" if line["field"] == "intent" else None
        )

    decide(folder, lines(), choose)
    code, out, err = palm("run", config, "--set", "train.epochs=1", "--review", folder / "review.jsonl")
    assert (code, err) == (0, "")
    assert "travel train: 1 x row that the review removed (drop), first at" in out
    assert "travel train: 1 x row whose slots the review changed (relabel), first at" in out
    rows = len((tmp_path / "travel/train/seq.in").read_text().splitlines())
    assert f"travel {rows - 1} rows" in out
    # The run directory names the review, so that a report reads the same rows.
    assert "review.jsonl" in (tmp_path / "run/config.toml").read_text()
    code, out, err = palm("report", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "row that the review removed (drop)" in (tmp_path / "run/report.html").read_text()


def test_changed_row_ends_a_run_with_its_place(palm, reviewed, tmp_path):
    config, folder, lines, _ = reviewed
    decide(folder, lines(), lambda line: "drop" if line["field"] == "intent" and line["split"] == "train" else None)
    labels = tmp_path / "travel/train/label"
    labels.write_text(labels.read_text().replace("fare\nflight\n", "hotel\nflight\n"))
    code, out, err = palm("run", config, "--review", folder / "review.jsonl")
    assert (code, out) == (2, "")
    assert "train/seq.in:25 has changed since the review" in err
    assert not (tmp_path / "run").exists()


def test_decisions_are_kept_by_the_next_check(palm, reviewed):
    config, folder, lines, _ = reviewed
    decided = lines()
    decide(folder, decided, lambda line: "ignore" if line["field"] == "intent" else None)
    other = {**decided[0], "file": "train/seq.in", "line": 1, "field": "intent", "to": "fare", "decision": "relabel"}
    with (folder / "review.jsonl").open("a") as file:
        file.write(json.dumps(other, separators=(",", ":")) + "\n")
    code, out, err = palm("health", config, "--output", folder)
    assert (code, err) == (0, "")
    kept = [line for line in lines() if line["decision"] is not None]
    assert {line["decision"] for line in kept} == {"ignore", "relabel"}
    assert other in kept
    assert f"{len(kept)} earlier decisions kept" in out
    before = (folder / "review.jsonl").read_bytes()
    assert palm("health", config, "--output", folder)[0] == 0
    assert (folder / "review.jsonl").read_bytes() == before


def test_health_without_output_lies_beside_the_run(palm, tiny_toml, tmp_path):
    code, _, err = palm("health", tiny_toml())
    assert (code, err) == (0, "")
    assert (tmp_path / "run-health/health.html").is_file()
    assert (tmp_path / "run-health/review.jsonl").is_file()


def test_health_of_data_without_labels_is_refused(palm, tmp_path):
    (tmp_path / "a.txt").write_text("some text\nmore text\n")
    config = tmp_path / "a.toml"
    config.write_text('[data.a]\nformat = "text"\ntrain = "a.txt"\n[tasks.mlm]\nkind = "masked_lm"\ndata = ["a"]\n')
    code, out, err = palm("health", config)
    assert (code, out) == (2, "")
    assert "tasks must have one with classes or spans, got mlm (masked_lm)" in err


def test_health_with_a_run_reads_the_texts_with_its_encoder(palm, finished_run, tmp_path):
    config = finished_run.parent / "tiny.toml"
    code, out, err = palm("health", config, "--run", finished_run, "--output", tmp_path / "health")
    assert (code, err) == (0, "")
    assert "were not checked" not in out
    html = (tmp_path / "health/health.html").read_text()
    assert "encoder of confident learning and neighbours" in html


def test_health_tells_what_an_untrained_encoder_cannot_check(palm, tiny_toml):
    code, out, err = palm("health", tiny_toml())
    assert (code, err) == (0, "")
    assert "were not checked: an encoder from scratch is not trained yet. Give --run RUN." in out


def test_run_beside_data_only_is_refused(palm, tiny_toml, tmp_path):
    code, _, err = palm("health", tiny_toml(), "--data-only", "--run", tmp_path)
    assert code == 2
    assert "--run has no effect with --data-only" in err
