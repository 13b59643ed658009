"""Roles and groups of spans from the file of any format to the answer of a server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palm_serve.bundle.golden import GoldenSpan
from palm_serve.bundle.manifest import Decode, TaskInfo
from palm_serve.decoding import golden_answer
from palm_serve.types import Span, Spans, TextRequest
from palm_trainer.cli.train import app, command
from palm_trainer.config.loader import load_config
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import ConfigError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.evaluate_run import evaluate_run
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.run import train

TABLES = """
[data.trips]
format = "jsonl"
train = "r.jsonl"
dev = "r.jsonl"
[tasks.intent]
kind = "classify"
role = "intent"
data = ["trips"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["trips"]
"""
CITIES = ("oslo", "rome", "bonn", "york", "lima")


def trip(start: str, end: str, number: int = 0) -> dict[str, Any]:
    """Return a row with a city to leave from and one to go to, in a group where `number` is set."""
    text = f"from {start} to {end}"
    first = {"start": 5, "end": 5 + len(start), "label": "city", "role": "from"}
    second = {"start": len(text) - len(end), "end": len(text), "label": "city", "role": "to"}
    group = {"group": str(number)} if number else {}
    return {"text": text, "intent": "go", "slots": [first | group, second | group]}


def trip_rows() -> list[dict[str, Any]]:
    rows = [trip(CITIES[i % 5], CITIES[(i + 1 + i // 5) % 5]) for i in range(10)]
    rows += [{"text": f"what is it about {word}", "intent": "ask", "slots": []} for word in ("this", "that", "him")]
    return rows


def names(spans: Any) -> list[tuple[str, str, str, str]]:
    return [(span.name, span.value, span.role, span.group) for span in spans]


EXPECTED = [("city", "bonn", "from", ""), ("city", "rome", "to", "")]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of roles, a run on it, and its bundle."""
    folder = tmp_path_factory.mktemp("roles")
    text = "".join(json.dumps(row) + "\n" for row in trip_rows())
    (folder / "r.jsonl").write_text(text)
    header = (
        '[encoder]\nmodel = "scratch"\nmax_length = 24\nlayers = 2\nhidden_size = 16\nheads = 2\nvocab_size = 120\n'
        f'[train]\nepochs = 40\nbatch_size = 4\nlearning_rate = 1e-2\nprecision = "fp32"\ndevice = "cpu"\noutput = "{folder}/run"\n'
    )
    (folder / "r.toml").write_text(header + TABLES)
    list(train(load_config(folder / "r.toml")))
    return folder


def test_roles_are_learnt_scored_and_predicted(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = load_trained(learnt / "run")
    assert trained.tasks["slots"].labels == (
        "O",
        "B-city (role from)",
        "I-city (role from)",
        "B-city (role to)",
        "I-city (role to)",
    )
    metrics = json.loads((learnt / "run/metrics.json").read_text())
    assert metrics["dev"]["slots"]["f1"] == 1.0
    assert metrics["dev"]["exact_match"] == 1.0
    assert command(app, ["predict", str(learnt / "run"), "--text", "from bonn to rome"]) == 0
    slots = json.loads(capsys.readouterr().out)["slots"]
    assert [(slot["label"], slot["role"], slot["value"]) for slot in slots] == [
        ("city", "from", "bonn"),
        ("city", "to", "rome"),
    ]
    assert "group" not in slots[0]
    report = (learnt / "run/report.html").read_text(encoding="utf-8")
    assert "city (role from)" in report


def test_a_wrong_role_is_a_wrong_span(learnt: Path) -> None:
    """The same model on rows whose roles are swapped finds no right span."""
    swapped = []
    for row in trip_rows()[:10]:
        first, second = row["slots"]
        swapped.append({**row, "slots": [first | {"role": "to"}, second | {"role": "from"}]})
    (learnt / "swapped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in swapped))
    config = load_config(learnt / "run/config.toml", [f'data.trips.test="{learnt}/swapped.jsonl"'])
    metrics = evaluate_run(learnt / "run", config, "test")["slots"]
    assert metrics["f1"] == 0.0
    assert metrics["token_accuracy"] == pytest.approx(metrics["token_accuracy"])
    assert metrics["token_accuracy"] < 0.5
    assert metrics["ece"] > 0.5


def test_plan_shows_roles(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(app, ["plan", str(learnt / "r.toml"), "--data-only"]) == 0
    printed = capsys.readouterr().out
    assert "2: city (role from) 10, city (role to) 10" in printed
    assert "not learnt" not in printed


def test_init_tells_roles(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(app, ["init", str(learnt / "r.jsonl")]) == 0
    assert "task slots: sequence_label, 20 spans with a role or group, which it learns" in capsys.readouterr().err


def test_teachers_teach_roles_and_those_without_are_refused(learnt: Path, kind) -> None:
    kind.rows("r.jsonl", trip_rows())
    teacher = f'[train.distillation]\nteachers = ["{learnt}/run"]\n'
    kind.train(TABLES + teacher, epochs=1)
    assert load_trained(kind.run).tasks["slots"].labels == load_trained(learnt / "run").tasks["slots"].labels
    with pytest.raises(ConfigError, match=r"its task 'slots' does not know the label 'B-city'"):
        job_from_config(kind.config(TABLES + 'roles = "ignore"\n' + teacher))


def test_plan_and_run_tell_ignored_roles(kind, capsys: pytest.CaptureFixture[str]) -> None:
    kind.rows("r.jsonl", trip_rows())
    kind.config(TABLES + 'roles = "ignore"\n', epochs=20)
    loss = "20 x span of 'slots' whose role or group is not learnt (roles = 'ignore'), first at "
    for name in ("plan", "run"):
        assert command(app, [name, str(kind.folder / "tiny.toml")]) == 0
        printed = capsys.readouterr().out
        assert loss in printed
        assert "city (role from)" not in printed
    trained = load_trained(kind.run)
    assert trained.tasks["slots"].labels == ("O", "B-city", "I-city")
    assert json.loads((kind.run / "metrics.json").read_text())["dev"]["slots"]["f1"] > 0.9
    assert "whose role or group is not learnt" in (kind.run / "report.html").read_text(encoding="utf-8")
    assert load_config(kind.run / "config.toml").tasks["slots"].roles == "ignore"
    [answers] = Predictor(trained).answers(list(read("jsonl", kind.folder / "r.jsonl"))[:1])
    assert {(span.role, span.group) for span in answers["slots"].spans} == {("", "")}


def test_plan_tells_roles_that_train_lacks(kind, capsys: pytest.CaptureFixture[str]) -> None:
    rows = trip_rows()
    kind.rows("dev.jsonl", rows)
    for row in rows:
        row["slots"] = [{key: value for key, value in span.items() if key != "role"} for span in row["slots"]]
    kind.rows("r.jsonl", rows)
    kind.config(TABLES.replace('dev = "r.jsonl"', 'dev = "dev.jsonl"'))
    assert command(app, ["plan", str(kind.folder / "tiny.toml"), "--data-only"]) == 0
    assert "10 x row with slots that train does not have (city (role from), city (role to))" in capsys.readouterr().out


def test_a_run_without_roles_saves_what_it_saved_before(kind) -> None:
    rows = trip_rows()
    for row in rows:
        row["slots"] = [{"start": s["start"], "end": s["end"], "label": "city (role x)"} for s in row["slots"]]
    kind.rows("r.jsonl", rows)
    kind.train(TABLES, epochs=30)
    assert load_trained(kind.run).tasks["slots"].labels == ("O", "B-city (role x)", "I-city (role x)")
    assert "roles =" not in (kind.run / "config.toml").read_text()
    assert "span_types" not in (kind.run / "best/model.json").read_text()
    pipeline = kind.serve()
    assert "span_types" not in (kind.folder / "bundle/manifest.json").read_text()
    assert "group" not in (kind.folder / "bundle/golden.jsonl").read_text()
    [prediction] = pipeline.predict([TextRequest("from bonn to rome", ("slots",))])
    assert names(prediction.answers["slots"].spans) == [
        ("city (role x)", "bonn", "", ""),
        ("city (role x)", "rome", "", ""),
    ]


def test_an_old_run_on_data_with_roles_goes_on_without_them(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs from before roles were learnt are evaluated by names, and resumed as they began."""
    kind.rows("r.jsonl", trip_rows())
    config = kind.config(TABLES, epochs=12)
    from palm_trainer.tasks import sequence_label

    with monkeypatch.context() as patch:
        patch.setattr(sequence_label, "learns_roles", lambda settings: False)
        steps = iter(range(100))
        list(train(config, stop=lambda: next(steps) >= 19))
    [*_, finished] = train(config, resume=True)
    assert load_trained(kind.run).tasks["slots"].labels == ("O", "B-city", "I-city")
    assert finished.metrics["dev"]["slots"]["f1"] > 0.5
    assert evaluate_run(kind.run, load_config(kind.run / "config.toml"), "dev")["slots"]["f1"] > 0.5


def test_golden_examples_and_parity_compare_roles() -> None:
    info = TaskInfo(kind="sequence_label", outputs=("s.logits",), decode=Decode(scheme="BIO"))
    span = Span("city", "oslo", 5, 9, 0.9, "from", "1")
    golden = golden_answer(Spans((span,), has_roles=True), info)
    assert golden.spans == (GoldenSpan(name="city", start=5, end=9, role="from", group="1"),)
    assert str(golden) == "city (role from, group 1)[5:9]"
    for other in (Span("city", "oslo", 5, 9, 0.9, "to", "1"), Span("city", "oslo", 5, 9, 0.9, "from", "2")):
        assert not golden.agrees(golden_answer(Spans((other,), has_roles=True), info))


@pytest.mark.slow
def test_the_bundle_answers_roles(learnt: Path) -> None:
    bundle = learnt / "bundle"
    code = "from palm_trainer.cli.export import main; main()"
    subprocess.run([sys.executable, "-c", code, learnt / "run", "--output", bundle, "--precision", "fp32"], check=True)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["tasks"]["slots"]["decode"]["span_types"] == {
        "city (role from)": {"name": "city", "role": "from", "group": ""},
        "city (role to)": {"name": "city", "role": "to", "group": ""},
    }
    golden = [json.loads(line) for line in (bundle / "golden.jsonl").read_text().splitlines()]
    spans = [span for line in golden for span in line["answers"].get("slots", {}).get("spans", [])]
    assert {span["role"] for span in spans} == {"from", "to"}
    assert "`city (role from)`, `city (role to)`" in (bundle / "README.md").read_text()
    checked = subprocess.run(
        [sys.executable, "-m", "palm_serve.cli", "check", str(bundle)], check=True, capture_output=True, text=True
    )
    assert "2: city (role from), city (role to)" in checked.stdout


def read(name: str, path: Path, options: FormatOptions | None = None) -> list[Any]:
    return list(FORMATS[name](path, options or FormatOptions(), Defects()))
