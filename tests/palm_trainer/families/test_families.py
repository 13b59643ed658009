"""Every encoder family with every kind of head: trained from one configuration, exported as one graph, compared, served."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import tasks_digest
from palm_serve.cli.main import main as serve_main
from palm_serve.client import Client
from palm_serve.engine.providers import select_engine
from palm_serve.pipeline import Pipeline
from palm_serve.types import Answer, Classification, Match, Spans, TextRequest
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.to_onnx import DIGEST, to_onnx
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.job_from_config import evaluation_sets
from palm_trainer.runs.run import train

ROOT = Path(__file__).parents[3]

FAMILIES = (
    "bert",
    "ernie",
    "roberta",
    "xlnet",
    "albert",
    "distilbert",
    "electra",
    "deberta-v2",
    "deberta-v3",
    "xlm-roberta",
    "modernbert",
)
IN_ALL_PRECISIONS = ("ernie", "xlnet", "scratch")
"""Those whose fused, bf16 and int8 graphs are put to the gate too, with all heads."""
CONFIG = """
[encoder]
model = "{model}"
max_length = 32
{scratch}
[data.travel]
format = "jsonl"
train = "travel.jsonl"
dev = "travel.jsonl"
[data.pairs]
format = "jsonl"
train = "pairs.jsonl"
dev = "pairs.jsonl"
[data.ranks]
format = "tsv"
train = "ranks.tsv"
dev = "ranks.tsv"
[data.squad]
format = "squad"
train = "squad.json"
dev = "squad.json"
[data.text]
format = "text"
train = "text.txt"

[tasks.intent]
kind = "classify"
role = "intent"
field = "intent"
data = ["travel"]
[tasks.topics]
kind = "multi_label"
field = "topics"
data = ["travel"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
field = "slots"
data = ["travel"]
[tasks.places]
kind = "sequence_label"
field = "slots"
crf = false
data = ["travel"]
[tasks.same]
kind = "match"
data = ["pairs"]
[tasks.rank]
kind = "match"
learning_strategy = "pairwise"
data = ["ranks"]
[tasks.reading]
kind = "mrc"
data = ["squad"]
max_query_tokens = 10
doc_stride_tokens = 8
[tasks.words]
kind = "masked_lm"
data = ["text"]

[train]
epochs = 2
batch_size = 4
learning_rate = 1e-3
head_learning_rate = 5e-2
precision = "fp32"
device = "cpu"
output = "{output}"
"""
SCRATCH = "layers = 2\nconvolutions = 1\nhidden_size = 16\nheads = 2\nvocab_size = 160\n"
TASKS = {"intent", "topics", "slots", "places", "same", "rank", "reading"}
CITIES = ("boston", "St. Louis", "São Paulo", "北京")
PASSAGE = " and then ".join(
    f"{name} lives in {city}" for name, city in zip(("anna", "bob", "carl", "dora"), CITIES, strict=True)
)


def write_data(folder: Path) -> None:
    """Data for every kind of head."""
    travel = []
    for city in CITIES:
        for opening, intent in (("fly to ", "flight"), ("list hotels in ", "hotel")):
            text = f"{opening}{city} on monday, please 🙂"
            start, day = len(opening), text.index("monday")
            spans = [(start, start + len(city), "city"), (day, day + len("monday"), "day")]
            slots = [dict(zip(("start", "end", "label"), span, strict=True)) for span in spans]
            topics = ["asia", intent] if city == "北京" else [intent]
            travel.append({"text": text, "intent": intent, "topics": topics, "slots": slots})
    pairs = [
        {"text": f"all about {a}", "text_pair": f"the hotels of {b}", "label": "yes" if a == b else "no"}
        for a in CITIES
        for b in CITIES
    ]
    for name, rows in (("travel.jsonl", travel), ("pairs.jsonl", pairs)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
    ranks = "".join(f"about {a}\tall on {a}\tall on {b}\n" for a in CITIES for b in CITIES if a != b)
    (folder / "ranks.tsv").write_text("text_a\ttext_b\ttext_b_neg\n" + ranks, encoding="utf-8")
    questions = [
        {
            "id": name,
            "question": f"where is {name} ?",
            "is_impossible": city is None,
            "answers": [] if city is None else [{"text": city, "answer_start": PASSAGE.index(city)}],
        }
        for name, city in (("anna", CITIES[0]), ("bob", CITIES[1]), ("dora", CITIES[3]), ("emil", None))
    ]
    squad = {"version": "2", "data": [{"title": "t", "paragraphs": [{"context": PASSAGE, "qas": questions}]}]}
    (folder / "squad.json").write_text(json.dumps(squad), encoding="utf-8")
    (folder / "text.txt").write_text("".join(f"fly to {city} on monday\n" for city in CITIES), encoding="utf-8")


def check_answers(pipeline: Pipeline, run: Path) -> None:
    """The server's pipeline answers each head as the trained model does."""
    requests = [TextRequest("  fly to\tSt. Louis, ﬁne 🙂 ", ("intent", "topics", "slots", "places"), top_k=3)]
    requests += [TextRequest("all about 北京", (task,), pair="the hotels of boston") for task in ("same", "rank")]
    requests += [TextRequest("where is bob ?", ("reading",), pair=PASSAGE, top_k=3)]
    predictor = Predictor(load_trained(run))
    kinds = {"intent": Classification, "topics": Classification, "slots": Spans, "places": Spans}
    kinds |= {"same": Match, "rank": Match, "reading": Answer}
    for request, prediction in zip(requests, pipeline.predict(requests), strict=True):
        [own] = predictor.answers([Example(request.text, pair=request.pair)], request.tasks)
        assert set(prediction.answers) == set(request.tasks)
        for task, answer in prediction.answers.items():
            assert isinstance(answer, kinds[task])
            if isinstance(answer, Spans):
                assert [(s.name, s.start, s.end) for s in answer.spans] == [
                    (s.name, s.start, s.end) for s in own[task].spans
                ]
                for span in answer.spans:
                    assert span.value == request.text[span.start : span.end] == span.value.strip() != ""
            elif isinstance(answer, Match):
                assert answer.score == pytest.approx(own[task].score, abs=1e-5)
            elif isinstance(answer, Answer):
                assert (answer.start, answer.end) == (own[task].start, own[task].end)
                assert answer.text == PASSAGE[answer.start : answer.end] == answer.text.strip()
            else:
                assert answer.label.name == own[task].label.name
                assert answer.label.confidence == pytest.approx(own[task].label.confidence, abs=1e-5)


@pytest.fixture(scope="session")
def exported(directory_of, tmp_path_factory):
    """`exported("xlnet")`: a folder with the run `run` and its bundle, which has the family's name; made once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp("family")
        write_data(folder)
        model, scratch = ("scratch", SCRATCH) if family == "scratch" else (directory_of(family).as_posix(), "")
        text = CONFIG.format(model=model, scratch=scratch, output=(folder / "run").as_posix())
        (folder / "all.toml").write_text(text, encoding="utf-8")
        for _ in train(load_config(folder / "all.toml")):
            pass
        sets = evaluation_sets(load_config(folder / "run/config.toml"), "dev")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("palm_trainer.export.gate.SHAPES", 24)
            precision = "auto" if family in IN_ALL_PRECISIONS else "fp32"
            export_bundle(load_trained(folder / "run"), sets, folder / family, precision=precision)
        return folder

    def _exported(family: str) -> Path:
        if family not in made:
            made[family] = make(family)
        return made[family]

    return _exported


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, "scratch"])
def test_every_head_of_every_family(family, exported):
    """The gate inside the export compares logits and answers; here the bundle is served, and its graph made again."""
    folder = exported(family)
    bundle = load_bundle(folder / family)
    assert set(bundle.manifest.tasks) == TASKS
    exact = [gate for gate in bundle.manifest.variants["plain"].gates if gate.precision == "fp32"]
    assert exact
    assert all(gate.passed for gate in exact)
    pipeline = Pipeline(bundle, select_engine(bundle, provider="CPU"))
    assert pipeline.golden_check() == len(bundle.golden) > 0
    check_answers(pipeline, folder / "run")
    trained = load_trained(folder / "run")
    graph = ExportGraph(trained.model, tuple(bundle.manifest.tasks))
    digest = tasks_digest(dict(bundle.manifest.tasks), (folder / family / "tokenizer.json").read_bytes())
    again = to_onnx(graph, trained.max_length, {DIGEST: digest})
    assert again == (folder / family / "model.onnx").read_bytes()


@pytest.mark.parametrize("family", IN_ALL_PRECISIONS)
def test_check_passes_on_what_the_gate_passed(family, exported, capsys):
    """Classes, topics, slots with and without CRF, matches, ranks and answers in passages, as `palm-export` writes them."""
    bundle = exported(family) / family
    manifest = load_bundle(bundle).manifest
    assert set(manifest.tasks) == TASKS
    for name, variant in manifest.variants.items():
        assert any(gate.passed for gate in variant.gates), name
    arguments = ["palm-serve", "check", str(bundle)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            serve_main()
    assert (ended.value.code or 0) == 0, capsys.readouterr().err
    assert "golden examples answered as at export" in capsys.readouterr().out


def test_a_server_answers_every_head(exported):
    """Two families in one real process: byte-level pieces, and pieces whose special tokens stand last."""
    families = ("roberta", "xlnet")
    bundles = [str(exported(family) / family) for family in families]
    command = [sys.executable, "-m", "palm_serve.cli", "run", *bundles, "--port", "0", "--provider", "CPU"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        lines = iter(process.stdout.readline, "")
        target = next(found[1] for line in lines if (found := re.search(r"listening on (\S+)", line)))
        assert any("ready" in line for line in lines)
        with Client(target) as client:
            for family in families:
                text = "fly to St. Louis on monday, please"
                parsed = client.parse(text, model=family, timeout_s=60)
                assert parsed.intent.name in ("flight", "hotel")
                assert all(slot.value == text[slot.start : slot.end] for slot in parsed.slots)
                kinds = {}
                for task in TASKS:
                    pair = {"same": "about boston", "rank": "about boston", "reading": PASSAGE}.get(task, "")
                    result = client.predict(task, "where is bob ?", pair, model=family, timeout_s=60).result
                    kinds[task] = result.WhichOneof("result")
                    if task == "reading":
                        assert result.answer.text == PASSAGE[result.answer.start : result.answer.end]
                assert kinds == {
                    **dict.fromkeys(("intent", "topics"), "classification"),
                    **dict.fromkeys(("slots", "places"), "spans"),
                    **dict.fromkeys(("same", "rank"), "match"),
                    "reading": "answer",
                }
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
