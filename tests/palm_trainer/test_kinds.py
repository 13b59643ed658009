"""Each kind of task from its files to a server's answer: trained a few steps, evaluated, exported, compared, served."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.providers import select_session
from palm_serve.errors import InvalidRequest
from palm_serve.pipeline import Pipeline
from palm_serve.types import Answer, Classification, Match, TextRequest
from palm_trainer.build import build_training, evaluation_sets
from palm_trainer.checkpoint import load_trained
from palm_trainer.config import load_config
from palm_trainer.errors import ConfigError, DataError, ExportError
from palm_trainer.evaluation import Predictor, evaluate
from palm_trainer.example import Example
from palm_trainer.export.exporter import export_bundle
from palm_trainer.predict import predict_lines
from palm_trainer.run import Evaluated, Finished, evaluate_run, train
from palm_trainer.thresholds import with_limit

HEADER = """
[encoder]
model = "scratch"
max_length = {max_length}
layers = 2
hidden_size = 16
heads = 2
vocab_size = 120

[train]
epochs = {epochs}
batch_size = 4
learning_rate = 1e-2
precision = "fp32"
device = "cpu"
output = "{output}"
"""


class Kind:
    """A folder with data, a configuration over it, and its run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"

    def rows(self, name: str, rows: list[dict]) -> None:
        """Writes a JSONL file."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.folder / name).write_text(text, encoding="utf-8")

    def config(self, tables: str, *, max_length: int = 24, epochs: int = 1):
        """The configuration with `tables`."""
        header = HEADER.format(max_length=max_length, epochs=epochs, output=self.run.as_posix())
        (self.folder / "tiny.toml").write_text(header + tables, encoding="utf-8")
        return load_config(self.folder / "tiny.toml")

    def train(self, tables: str, **options: int) -> Finished:
        """Trains to the end; the run's own configuration must read back."""
        events = list(train(self.config(tables, **options)))
        assert isinstance(events[-1], Finished)
        return events[-1]

    def serve(self) -> Pipeline:
        """Exports the run, which compares it, and opens the bundle as a server does."""
        sets = evaluation_sets(load_config(self.run / "config.toml"), "dev")
        manifest, _ = export_bundle(load_trained(self.run), sets, self.folder / "bundle", precision="fp32")
        assert all(gate.passed for gate in manifest.variants["plain"].gates)
        bundle = load_bundle(self.folder / "bundle")
        pipeline = Pipeline(bundle, select_session(bundle, provider="CPU"))
        assert pipeline.golden_check() == len(bundle.golden) > 0
        return pipeline


@pytest.fixture
def kind(tmp_path: Path) -> Kind:
    return Kind(tmp_path)


def pair_rows() -> list[dict]:
    """Pairs that match when both speak of one thing; two rows are unlabelled."""
    things = ("boats", "trains", "birds", "cakes")
    rows = [
        {"text": f"tell me of {a}", "text_pair": f"all about {b}", "label": "yes" if a == b else "no"}
        for a in things
        for b in things
    ]
    return [*rows, {"text": "no label", "text_pair": "at all"}, {"text": "nor", "text_pair": "here", "label": None}]


MATCH = """
[data.pairs]
format = "jsonl"
train = "pairs.jsonl"
dev = "pairs.jsonl"
[tasks.same]
kind = "match"
data = ["pairs"]
"""


def test_match_pointwise_from_files_to_answer(kind: Kind) -> None:
    kind.rows("pairs.jsonl", pair_rows())
    done = kind.train(MATCH)
    assert done.metrics["dev"]["same"].keys() == {"accuracy", "f1", "precision", "recall"}
    assert load_config(kind.run / "config.toml").tasks["same"].match_label == "yes"
    pipeline = kind.serve()
    [prediction] = pipeline.predict([TextRequest("tell me of boats", ("same",), pair="all about cakes")])
    [own] = Predictor(load_trained(kind.run)).answers([Example("tell me of boats", pair="all about cakes")])
    answer = prediction.answers["same"]
    assert isinstance(answer, Match)
    assert answer.label is not None
    assert answer.label.name == own["same"].label.name
    assert answer.score == pytest.approx(own["same"].score, abs=1e-5)
    assert answer.label.confidence == pytest.approx(answer.score if answer.label.name == "yes" else 1 - answer.score)


def test_match_pairwise_from_files_to_answer(kind: Kind) -> None:
    rows = [f"about {a}\tall on {a}\tall on {b}\n" for a in ("boats", "cakes", "birds") for b in ("trains", "stars")]
    (kind.folder / "ranks.tsv").write_text("text_a\ttext_b\ttext_b_neg\n" + "".join(rows), encoding="utf-8")
    tables = MATCH.replace("pairs.jsonl", "ranks.tsv").replace("jsonl", "tsv") + 'learning_strategy = "pairwise"\n'
    done = kind.train(tables, epochs=12)
    assert done.metrics["dev"]["same"] == {"accuracy": 1.0}
    pipeline = kind.serve()
    asked = [TextRequest("about boats", ("same",), pair=f"all on {b}") for b in ("boats", "stars")]
    right, wrong = (prediction.answers["same"] for prediction in pipeline.predict(asked))
    assert isinstance(right, Match)
    assert right.label is None
    assert right.score > wrong.score


@pytest.mark.parametrize(
    ("rows", "extra", "match"),
    [
        (
            [{"text": "a", "text_pair": "b", "label": "x"}, {"text": "a", "text_pair": "c", "label": "y"}],
            "",
            "which of the labels x, y says",
        ),
        (
            [{"text": "a", "text_pair": "b", "label": "no"}, {"text": "a", "label": "yes"}],
            "",
            "pairs.jsonl:2: task 'same' matches pairs, but",
        ),
        ([{"text": "a", "text_pair": "b", "label": "yes"}], "", "holds 1 class in the field 'label'; matching needs 2"),
        (pair_rows(), 'match_label = "maybe"\n', "'maybe' is none of the labels: no, yes"),
        (pair_rows(), 'learning_strategy = "pairwise"\n', "0 fields of the data suit kind 'match'"),
        (
            [{"text": "a", "text_b_neg": "b"}],
            'learning_strategy = "pairwise"\n',
            "needs text, text_b and a second text",
        ),
    ],
)
def test_faults_of_match_data_are_told(kind: Kind, rows: list[dict], extra: str, match: str) -> None:
    kind.rows("pairs.jsonl", rows)
    with pytest.raises(DataError, match=match):
        kind.train(MATCH + extra)


def test_a_ranker_has_no_match_label(kind: Kind) -> None:
    kind.rows("pairs.jsonl", pair_rows())
    with pytest.raises(ConfigError, match=r"tasks.same.match_label: a ranker .* has no labels"):
        kind.config(MATCH + 'learning_strategy = "pairwise"\nmatch_label = "yes"\n')


MULTI = """
[data.mixed]
format = "tsv"
train = "mixed.tsv"
dev = "mixed.tsv"
label_separator = "#"
[tasks.intent]
kind = "multi_label"
role = "intent"
data = ["mixed"]
dropout = 0.0
"""


def test_multi_label_from_files_to_answer(kind: Kind) -> None:
    """Rows with one class, with two (`a#b`), and with none; only training on all of them tells them apart."""
    asks = {"fare": "what does it cost", "flight": "show flights", "food": "is there a meal"}
    rows = [(text, name) for name, text in asks.items()]
    rows += [(f"{asks[a]} and {asks[b]}", f"{a}#{b}") for a in asks for b in asks if a != b]
    rows += [("good morning", ""), ("thank you", "")]
    lines = "".join(f"{text}\t{label}\n" for text, label in rows * 2)
    (kind.folder / "mixed.tsv").write_text("text\tlabel\n" + lines, encoding="utf-8")
    done = kind.train(MULTI, epochs=25)
    metrics = done.metrics["dev"]["intent"]
    assert metrics.keys() == {"accuracy", "f1", "precision", "recall"}
    assert metrics["f1"] > 0.9
    limits = load_trained(kind.run).tasks["intent"].thresholds.labels
    assert limits == dict.fromkeys(sorted(asks), done.thresholds["intent"])
    pipeline = kind.serve()
    assert pipeline.bundle.manifest.tasks["intent"].thresholds.labels == limits
    both, neither = (
        p.answers["intent"]
        for p in pipeline.predict([TextRequest(t, ()) for t in ("show flights and what does it cost", "thank you")])
    )
    assert isinstance(both, Classification)
    assert isinstance(neither, Classification)
    assert {label.name for label in both.labels} == {"fare", "flight"}
    assert both.ranking[:2] == both.labels
    assert neither.labels == ()
    assert neither.label == neither.ranking[0]


MRC = """
[data.squad]
format = "squad"
train = "squad.json"
dev = "squad.json"
[tasks.reading]
kind = "mrc"
data = ["squad"]
dropout = 0.0
max_query_tokens = 6
doc_stride_tokens = 5
"""

NAMES = ("anna", "bob", "carl", "dora", "emil")
PLACES = ("paris", "oslo", "rome", "lima")


def write_squad(path: Path, *, negatives: bool) -> None:
    """Passages of several windows, each with a question for every name in it; with `negatives`, one for a name that is not."""
    paragraphs = []
    for shift in range(4):
        homes = {name: PLACES[(i + shift) % 4] for i, name in enumerate(NAMES[: 4 + shift % 2])}
        context = " and then ".join(f"{name} lives in {place}" for name, place in homes.items())
        questions = []
        for name in NAMES:
            start = context.find(f"{name} lives in ") + len(f"{name} lives in ")
            answers = [{"text": homes[name], "answer_start": start}] if name in homes else []
            if answers or negatives:
                known = {"is_impossible": not answers} if negatives else {}
                questions.append(
                    {"id": f"{shift}-{name}", "question": f"where is {name} ?", "answers": answers, **known}
                )
        paragraphs.append({"context": context, "qas": questions})
    path.write_text(json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]}), encoding="utf-8")


@pytest.mark.parametrize("negatives", [False, True])
def test_mrc_from_files_to_answer(kind: Kind, negatives: bool) -> None:
    write_squad(kind.folder / "squad.json", negatives=negatives)
    done = kind.train(MRC, epochs=2, max_length=20)
    assert done.metrics["dev"]["reading"].keys() == {"exact_match", "f1"}
    decode = load_trained(kind.run).tasks["reading"].decode
    assert (decode.null_threshold is not None) == negatives
    assert done.thresholds == ({"reading": decode.null_threshold} if negatives else {})
    pipeline = kind.serve()
    assert pipeline.bundle.manifest.tasks["reading"].decode == decode
    passage = " and then ".join(f"{name} lives in {place}" for name, place in zip(NAMES, PLACES, strict=False))
    asked = [
        TextRequest("where is anna ?", ("reading",), pair=p, top_k=4) for p in (passage, "anna lives in rome", "北京")
    ]
    asked.append(TextRequest("where is anna " * 20, ("reading",), pair=passage))
    predictions = pipeline.predict(asked)
    own = Predictor(load_trained(kind.run), top_k=4).answers([Example(a.text, pair=a.pair) for a in asked])
    for request, prediction, found in zip(asked, predictions, own, strict=True):
        answer = prediction.answers["reading"]
        assert isinstance(answer, Answer)
        assert (answer.start, answer.end) == (found["reading"].start, found["reading"].end)
        assert len(answer.alternatives) < request.top_k
        for one in (answer, *answer.alternatives):
            assert one.text == request.pair[one.start : one.end]
            assert one.no_answer == (one.text == "")
    assert [p.truncated for p in predictions] == [False, False, False, True]
    assert predictions[0].timings.batch_size > 1


def test_windows_of_one_request_are_not_mixed_with_other_tasks(kind: Kind) -> None:
    write_squad(kind.folder / "squad.json", negatives=False)
    kind.rows("pairs.jsonl", pair_rows())
    kind.train(MRC + MATCH, max_length=20)
    pipeline = kind.serve()
    card = (kind.folder / "bundle/README.md").read_text(encoding="utf-8")
    assert 'palm-serve call "your question" --task reading --pair "its passage"' in card
    assert "Passages of reading comprehension are read whole" in card
    with pytest.raises(
        InvalidRequest, match="task 'reading' reads its passage in windows; ask it in a request of its own"
    ):
        pipeline.check(TextRequest("a", ("reading", "same"), pair="b"))
    together = pipeline.predict(
        [TextRequest("where?", (t,), pair="anna lives in rome " * 9) for t in ("same", "reading")]
    )
    assert [type(p.answers[t]) for p, t in zip(together, ("same", "reading"), strict=True)] == [Match, Answer]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"text": "q", "answer": [{"start": 0, "end": 1, "label": "x"}]}, "this row has none. Add it as text_pair"),
        ({"text": "q", "text_pair": "p", "answer": []}, "holds no answer in the field 'answer'"),
        ({"text": "q", "text_pair": "p", "answer": "p"}, "0 fields of the data suit kind 'mrc'"),
    ],
)
def test_faults_of_mrc_data_are_told(kind: Kind, row: dict, match: str) -> None:
    kind.rows("squad.json", [row])
    with pytest.raises(DataError, match=match):
        kind.train(MRC.replace('"squad"\n', '"jsonl"\n', 1))


@pytest.mark.parametrize(
    ("max_length", "match"),
    [(8, "leaves a passage no room; reading comprehension needs 12"), (12, "7 is more than half")],
)
def test_windows_need_room(kind: Kind, max_length: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        kind.config(MRC.replace("max_query_tokens = 6", "max_query_tokens = 7"), max_length=max_length)


def test_limits_are_those_that_evaluation_and_server_use(kind: Kind) -> None:
    """Chosen on dev they are no worse there than the defaults; what the configuration names stays; a second end changes nothing."""
    write_squad(kind.folder / "squad.json", negatives=True)
    done = kind.train(MRC, epochs=2, max_length=20)
    config = load_config(kind.run / "config.toml")
    assert config.tasks["reading"].null_threshold is None
    assert evaluate_run(kind.run, config, "dev") == done.metrics["dev"]
    trained = load_trained(kind.run)
    sets, kinds = evaluation_sets(config, "dev"), {"reading": "mrc"}
    for limit in (0.0, -1.0, 1.0, done.thresholds["reading"]):
        other = replace(trained, tasks={"reading": with_limit(trained.tasks["reading"], limit)})
        score = evaluate(Predictor(other), kinds, sets)["reading"]["f1"]
        assert score <= done.metrics["dev"]["reading"]["f1"] + 1e-9
    [line] = predict_lines(kind.run, [("where is anna ?", "anna lives in oslo")])
    assert json.loads(line)["reading"].keys() >= {"text", "start", "end", "no_answer"}
    with pytest.raises(
        DataError, match=r"'where': every task of this model \('reading'\) reads a second text. Give the pass"
    ):
        list(predict_lines(kind.run, [("where", None)]))
    before = (kind.run / "best/model.json").read_bytes()
    again = list(train(config, resume=True))[-1]
    assert isinstance(again, Finished)
    assert again.thresholds == done.thresholds
    assert (kind.run / "best/model.json").read_bytes() == before


def test_a_limit_of_the_configuration_wins(kind: Kind) -> None:
    write_squad(kind.folder / "squad.json", negatives=True)
    done = kind.train(MRC + "null_threshold = 2.5\n", epochs=1, max_length=20)
    assert done.thresholds == {}
    assert load_trained(kind.run).tasks["reading"].decode.null_threshold == 2.5


def test_a_threshold_of_the_configuration_wins(kind: Kind) -> None:
    (kind.folder / "mixed.tsv").write_text("text\tlabel\na b\tx#y\nc\ty\n", encoding="utf-8")
    done = kind.train(MULTI + "threshold = 0.8\n", epochs=1)
    assert done.thresholds == {}
    assert load_trained(kind.run).tasks["intent"].thresholds.labels == {"x": 0.8, "y": 0.8}
    with pytest.raises(ConfigError, match=r"tasks.same.threshold: only for kind 'multi_label', not 'match'"):
        kind.config(MATCH + "threshold = 0.8\n")


def test_longest_answer_is_learnt(kind: Kind) -> None:
    """Answers of 45 pieces: the manifest allows them; the configuration may say otherwise."""
    passage = "he said " + "very " * 44 + "well"
    rows = [{"text": "what ?", "text_pair": passage, "answer": [{"start": 8, "end": len(passage), "label": ""}]}]
    kind.rows("squad.json", rows)
    tables = MRC.replace('"squad"\n', '"jsonl"\n', 1).replace("max_query_tokens = 6\ndoc_stride_tokens = 5\n", "")
    for extra, wanted in (("", 45), ("max_answer_tokens = 7\n", 7)):
        training = build_training(kind.config(tables + extra, max_length=80))
        assert training.trained.tasks["reading"].decode.max_answer_tokens == wanted


WORDS = """
[data.text]
format = "text"
train = "text.txt"
dev = "text.txt"
[tasks.words]
kind = "masked_lm"
data = ["text"]
"""


def write_text(path: Path) -> None:
    sentences = [
        f"the {a} sees the {b} in the {c}" for a in ("cat", "dog") for b in ("bird", "fish") for c in ("sea", "sky")
    ]
    path.write_text("".join(sentence + "\n" for sentence in sentences * 2), encoding="utf-8")


@pytest.mark.parametrize("auxiliary", [True, False])
def test_masked_lm_shapes_the_encoder_and_is_not_exported(kind: Kind, auxiliary: bool) -> None:
    kind.rows("pairs.jsonl", pair_rows())
    write_text(kind.folder / "text.txt")
    done = kind.train(MATCH + WORDS + f"auxiliary = {str(auxiliary).lower()}\n", epochs=2)
    assert done.metrics["dev"].keys() == {"same", "words"}
    assert done.metrics["dev"]["words"]["perplexity"] > 1
    trained = load_trained(kind.run)
    assert trained.auxiliary == {"words"}
    [answers] = Predictor(trained).answers([Example("a", pair="b")])
    assert answers.keys() == {"same"}
    assert kind.serve().bundle.manifest.tasks.keys() == {"same"}
    assert "perplexity" not in (kind.folder / "bundle/README.md").read_text(encoding="utf-8")


def test_masked_lm_learns(kind: Kind) -> None:
    write_text(kind.folder / "text.txt")
    losses = [step.losses["words"] for step in build_training(kind.config(WORDS, epochs=40)).loop.steps()]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


def test_masked_lm_can_be_the_only_task(kind: Kind) -> None:
    write_text(kind.folder / "text.txt")
    done = kind.train(WORDS)
    assert done.metrics.keys() == {"dev"}
    assert done.metrics["dev"].keys() == {"words"}
    with pytest.raises(ExportError, match="needs dev examples"):
        kind.serve()


def test_perplexity_chooses_the_best_of_a_masked_lm(kind: Kind) -> None:
    """It falls while the model learns, is that of the saved weights, and the best checkpoint is where it was least."""
    write_text(kind.folder / "text.txt")
    events = list(train(kind.config(WORDS, epochs=8)))
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    found = [event.metrics["words"]["perplexity"] for event in evaluations]
    assert found[-1] < 0.7 * found[0]
    assert [event.score for event in evaluations] == pytest.approx([1 / value for value in found])
    assert evaluate_run(kind.run, load_config(kind.run / "config.toml"), "dev")["words"]["perplexity"] == min(found)


@pytest.mark.parametrize("whole_word", [False, True])
def test_a_resumed_masked_lm_goes_on_to_the_bit(kind: Kind, tmp_path_factory, whole_word: bool) -> None:
    """Stopped in the second epoch and resumed, or run through: the same weights."""
    write_text(kind.folder / "text.txt")
    other = Kind(tmp_path_factory.mktemp("other"))
    write_text(other.folder / "text.txt")
    tables = WORDS + f"whole_word = {str(whole_word).lower()}\n"
    list(train(kind.config(tables, epochs=3)))
    config = other.config(tables, epochs=3)
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps >= 6

    list(train(config, stop=stop))
    list(train(config, resume=True))
    one, two = (load_trained(run, "last").model.state_dict() for run in (kind.run, other.run))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_masked_texts_are_not_shared(kind: Kind) -> None:
    kind.rows("pairs.jsonl", pair_rows())
    with pytest.raises(ConfigError, match="'same' reads texts and 'words' texts with pieces masked"):
        kind.train(MATCH + '[tasks.words]\nkind = "masked_lm"\ndata = ["pairs"]\n')


def test_tasks_that_read_a_data_set_in_different_ways_are_refused(kind: Kind) -> None:
    kind.rows("pairs.jsonl", [{**row, "text_b_neg": "bad"} for row in pair_rows()])
    second = '[tasks.rank]\nkind = "match"\nlearning_strategy = "pairwise"\ndata = ["pairs"]\n'
    with pytest.raises(
        ConfigError, match=r"tasks.same and tasks.rank share a data set, but .* a \[data.NAME\] of its own"
    ):
        kind.train(MATCH + second)
