"""`examples/ticket_router.py` and `examples/parquet_batch.py` on the tiny bundle, and the Rasa bot's files."""

import io
import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from palm_serve import Model
from palm_serve.batch import Answerer
from palm_serve.v1 import palm_pb2 as pb

EXAMPLES = Path(__file__).parents[2] / "examples"
NEW = ("custom_parts.py", "parquet_batch.py", "ticket_router.py", "three_files.toml", "rasa_bot/endpoints.yml")
MOST_LINES = 80
TICKETS = ["please show me flights from boston", "hello", "weather play", "   "]


@pytest.mark.parametrize("name", NEW)
def test_an_example_is_short(name):
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < MOST_LINES


def test_tickets_that_the_model_is_sure_of_stay(tiny_bundle, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ticket_router.py", str(tiny_bundle)])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(TICKETS) + "\n"))
    runpy.run_path(str(EXAMPLES / "ticket_router.py"), run_name="__main__")
    printed = capsys.readouterr()
    flight, greeting, unsure, blank = map(json.loads, printed.out.splitlines())
    assert (flight["target"], flight["reason"], flight["facts"]) == ("flight", "", {"sentiment": "positive"})
    assert greeting["target"] == "greeting"
    assert (unsure["target"], unsure["reason"]) == ("large_model", "low_confidence")
    assert unsure["confidence"] < 0.7
    assert blank["target"] == "large_model"
    assert "blank" in blank["reason"] or "empty" in blank["reason"]
    assert "2 of 4 tickets go on to the large model" in printed.err


def test_limits_of_the_router_decide(tiny_bundle):
    router = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "ticket_router.py")))
    with Model.open(tiny_bundle) as model:
        lenient = [*router.route(model, TICKETS[2:3], pb.Thresholds(intent_confidence=0.0, ambiguity_margin=0.0))]
        by_margin = [*router.route(model, TICKETS[2:3], pb.Thresholds(intent_confidence=0.1, ambiguity_margin=0.5))]
    assert lenient[0].target in ("weather", "music")
    assert (by_margin[0].target, by_margin[0].reason) == ("large_model", "ambiguous")


def test_parquet_rows_are_answered_as_the_answerer_does(tiny_bundle, tmp_path, monkeypatch, capsys):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = pa.table({"id": range(6000), "text": ["hello", "play a song", None] * 2000})
    pq.write_table(rows, tmp_path / "in.parquet", row_group_size=1000)
    arguments = [str(tiny_bundle), str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet")]
    monkeypatch.setattr(sys, "argv", ["parquet_batch.py", *arguments])
    runpy.run_path(str(EXAMPLES / "parquet_batch.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("6,000 rows in")
    written = pq.read_table(tmp_path / "out.parquet")
    answerer = Answerer(tiny_bundle)
    expected = answerer(rows)
    answerer.close()
    assert written.schema.names == expected.schema.names
    for name in ("id", "text", "intent", "error", "version"):
        assert written.column(name).to_pylist() == expected.column(name).to_pylist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


def test_domain_of_the_rasa_bot_is_what_the_sample_teaches():
    domain = yaml.safe_load((EXAMPLES / "rasa_bot/domain.yml").read_text(encoding="utf-8"))
    lines = (EXAMPLES / "data/assistant/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert domain["intents"] == [*sorted({row["intent"] for row in rows}), "nlu_fallback"]
    assert domain["entities"] == sorted({slot["label"] for row in rows for slot in row["slots"]})
    rules = yaml.safe_load((EXAMPLES / "rasa_bot/rules.yml").read_text(encoding="utf-8"))["rules"]
    steps = [step for rule in rules for step in rule["steps"]]
    assert {step["intent"] for step in steps if "intent" in step} <= set(domain["intents"])
    assert {step["action"] for step in steps if "action" in step} == set(domain["responses"])


def test_readme_of_the_examples_names_each_of_them():
    listed = set(re.findall(r"`([\w.]+)/?`", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    present = {path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "data", "__pycache__")}
    assert present - listed == set()
