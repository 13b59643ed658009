"""Each kind of task from its files to a server's answer: trained a few steps, evaluated, exported, compared, served."""

from pathlib import Path

import pytest
import torch

from palm_serve.types import Classification, Match, TextRequest
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.errors import ConfigError, DataError, ExportError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.evaluate_run import evaluate_run
from palm_trainer.runs.events import Evaluated
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.run import train


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


def test_match_pointwise_from_files_to_answer(kind) -> None:
    kind.rows("pairs.jsonl", pair_rows())
    done = kind.train(MATCH)
    assert done.metrics["dev"]["same"].keys() == {"accuracy", "f1", "precision", "recall", "ece"}
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


def test_match_pairwise_from_files_to_answer(kind) -> None:
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
def test_faults_of_match_data_are_told(kind, rows: list[dict], extra: str, match: str) -> None:
    kind.rows("pairs.jsonl", rows)
    with pytest.raises(DataError, match=match):
        kind.train(MATCH + extra)


def test_a_ranker_has_no_match_label(kind) -> None:
    kind.rows("pairs.jsonl", pair_rows())
    with pytest.raises(
        ConfigError, match=r"tasks.same.match_label is only for learning_strategy = 'pointwise', got 'pairwise'"
    ):
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


def test_multi_label_from_files_to_answer(kind) -> None:
    """Rows with one class, with two (`a#b`), and with none; only training on all of them tells them apart."""
    asks = {"fare": "what does it cost", "flight": "show flights", "food": "is there a meal"}
    rows = [(text, name) for name, text in asks.items()]
    rows += [(f"{asks[a]} and {asks[b]}", f"{a}#{b}") for a in asks for b in asks if a != b]
    rows += [("good morning", ""), ("thank you", "")]
    lines = "".join(f"{text}\t{label}\n" for text, label in rows * 2)
    (kind.folder / "mixed.tsv").write_text("text\tlabel\n" + lines, encoding="utf-8")
    done = kind.train(MULTI, epochs=25)
    metrics = done.metrics["dev"]["intent"]
    assert metrics.keys() == {"accuracy", "f1", "precision", "recall", "ece"}
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


def test_a_threshold_of_the_configuration_wins(kind) -> None:
    (kind.folder / "mixed.tsv").write_text("text\tlabel\na b\tx#y\nc\ty\n", encoding="utf-8")
    done = kind.train(MULTI + "threshold = 0.8\n", epochs=1)
    assert done.thresholds == {}
    assert load_trained(kind.run).tasks["intent"].thresholds.labels == {"x": 0.8, "y": 0.8}
    with pytest.raises(ConfigError, match=r"tasks.same.threshold is only for kind 'multi_label', got 'match'"):
        kind.config(MATCH + "threshold = 0.8\n")


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
def test_masked_lm_shapes_the_encoder_and_is_not_exported(kind, auxiliary: bool) -> None:
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


def test_masked_lm_learns(kind) -> None:
    write_text(kind.folder / "text.txt")
    losses = [step.losses["words"] for step in job_from_config(kind.config(WORDS, epochs=40)).loop.steps()]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


def test_masked_lm_can_be_the_only_task(kind) -> None:
    write_text(kind.folder / "text.txt")
    done = kind.train(WORDS)
    assert done.metrics.keys() == {"dev"}
    assert done.metrics["dev"].keys() == {"words"}
    with pytest.raises(ExportError, match="needs dev examples"):
        kind.serve()


def test_perplexity_chooses_the_best_of_a_masked_lm(kind) -> None:
    """It falls while the model learns, is that of the saved weights, and the best checkpoint is where it was least."""
    write_text(kind.folder / "text.txt")
    events = list(train(kind.config(WORDS, epochs=8)))
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    found = [event.metrics["words"]["perplexity"] for event in evaluations]
    assert found[-1] < 0.7 * found[0]
    assert [event.score for event in evaluations] == pytest.approx([1 / value for value in found])
    assert evaluate_run(kind.run, load_config(kind.run / "config.toml"), "dev")["words"]["perplexity"] == min(found)


@pytest.mark.parametrize("whole_word", [False, True])
def test_a_resumed_masked_lm_goes_on_to_the_bit(kind, tmp_path_factory, whole_word: bool) -> None:
    """Stopped in the second epoch and resumed, or run through: the same weights."""
    write_text(kind.folder / "text.txt")
    other = type(kind)(tmp_path_factory.mktemp("other"))
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


def test_masked_texts_are_not_shared(kind) -> None:
    kind.rows("pairs.jsonl", pair_rows())
    with pytest.raises(ConfigError, match="'same' reads texts and 'words' texts with masked tokens"):
        kind.train(MATCH + '[tasks.words]\nkind = "masked_lm"\ndata = ["pairs"]\n')


def test_tasks_that_read_a_data_set_in_different_ways_are_refused(kind) -> None:
    kind.rows("pairs.jsonl", [{**row, "text_b_neg": "bad"} for row in pair_rows()])
    second = '[tasks.rank]\nkind = "match"\nlearning_strategy = "pairwise"\ndata = ["pairs"]\n'
    with pytest.raises(
        ConfigError, match=r"tasks.same and tasks.rank share a data set, but .* a \[data.NAME\] of its own"
    ):
        kind.train(MATCH + second)
