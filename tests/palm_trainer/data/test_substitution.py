"""Slot substitution: spans, words and the surrounding text, and reproducible draws."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from palm_trainer.cli.train import app
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.substitution import Substitution
from palm_trainer.errors import ConfigError, PalmError
from palm_trainer.runs.events import Finished
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.run import train
from palm_trainer.tensors import IGNORE

LABELS = ("city", "day")


def values_of(example, field="slots"):
    return [(item.label, example.text[item.start : item.end]) for item in example.fields[field]]


def pool_of(label, known):
    """Values of a label, and of every other that shares two values and a quarter of all with it."""
    own = {name: {text for other, text in known if other == name} for name, _ in known}
    alike = [v for v in own.values() if len(v & own[label]) >= 2 and len(v & own[label]) * 4 >= len(v | own[label])]
    return set.union(own[label], *alike)


def outside(example, field="slots"):
    """The text between the spans."""
    borders = [0, *itertools.chain.from_iterable((s.start, s.end) for s in example.fields[field]), len(example.text)]
    return [example.text[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True)]


@st.composite
def tagged(draw, joiner):
    """Examples of words with spans over some of them; a second field has spans over single words, perhaps inside those of the first."""
    examples = []
    for number in range(draw(st.integers(2, 6))):
        words = draw(st.lists(st.text("abcd", min_size=1, max_size=3), min_size=1, max_size=6))
        ends = list(itertools.accumulate(len(word) + len(joiner) for word in words))
        ranges = tuple(
            (end - len(joiner) - len(word), end - len(joiner)) for end, word in zip(ends, words, strict=True)
        )
        spans, at = [], 0
        while at < len(words):
            length = draw(st.integers(1, 2))
            if draw(st.booleans()):
                last = min(at + length, len(words)) - 1
                spans.append(LabelledSpan(ranges[at][0], ranges[last][1], draw(st.sampled_from(LABELS)), role="r"))
            at += length
        fields = {"slots": tuple(spans), "intent": "go"}
        if draw(st.booleans()):
            fields["names"] = tuple(LabelledSpan(*r, "w") for r in ranges if draw(st.booleans()))
        given_words = ranges if draw(st.booleans()) else None
        examples.append(Example(joiner.join(words), fields, words=given_words, source=f"f:{number}"))
    return examples


@given(data=st.data(), joiner=st.sampled_from([" ", ""]), epoch=st.integers(0, 3))
def test_substitution_changes_only_span_values(data, joiner, epoch):
    examples = data.draw(tagged(joiner))
    known = {pair for example in examples for pair in values_of(example)}
    substitution = Substitution(examples, "slots", 1.0, seed=5)
    for i, example in enumerate(examples):
        changed = substitution.draw(epoch, i)
        assert changed == Substitution(examples, "slots", 1.0, seed=5).draw(epoch, i)
        if changed is None:
            continue
        assert {text for _, text in values_of(changed)} <= {text for _, text in known}
        assert outside(changed) == outside(example)
        assert values_of(changed) != values_of(
            example
        )  # the text may read the same: "a" and "a a", the other way round
        old, new = example.fields["slots"], changed.fields["slots"]
        assert [(s.label, s.role) for s in new] == [(s.label, s.role) for s in old]
        for (label, before), (_, after) in zip(values_of(example), values_of(changed), strict=True):
            others = pool_of(label, known) - {before}
            assert after in others if others else after == before
        if "names" in example.fields:
            replaced = [(s.start, s.end) for s in old]
            for was, now in zip(example.fields["names"], changed.fields["names"], strict=True):
                if not any(a < was.end and was.start < b for a, b in replaced):
                    assert changed.text[now.start : now.end] == example.text[was.start : was.end]
        if example.words is not None:
            told = [changed.text[a:b] for a, b in changed.words]
            assert joiner.join(told) == changed.text
            assert all(any(s.start == a for a, _ in changed.words) for s in new)
            assert all(any(s.end == b for _, b in changed.words) for s in new)
        else:
            assert changed.words is None


def spans_of(text, *places, label="city"):
    return tuple(LabelledSpan(text.index(p), text.index(p) + len(p), label) for p in places)


def test_substitution_chinese_example_by_hand():
    texts = {"我要去北京玩": "北京", "飞呼和浩特": "呼和浩特"}
    examples = [
        Example(t, {"slots": spans_of(t, p)}, words=tuple((i, i + 1) for i in range(len(t)))) for t, p in texts.items()
    ]
    substitution = Substitution(examples, "slots", 1.0, seed=0)
    one, two = (substitution.draw(0, i) for i in range(2))
    assert (one.text, two.text) == ("我要去呼和浩特玩", "飞北京")
    assert one.fields["slots"] == (LabelledSpan(3, 7, "city"),)
    assert one.words == tuple((i, i + 1) for i in range(8))


def test_substitution_similar_labels_share_values():
    """Cities in two roles share two of five values; parties and ratings one of three."""
    told = {"from": ("bonn", "rome", "oslo", "lima"), "to": ("bonn", "rome", "cairo"), "party": "12", "rating": "23"}
    examples = [
        Example(f"x {value}", {"slots": (LabelledSpan(2, 2 + len(value), label),)})
        for label, values in told.items()
        for value in values
    ]
    substitution = Substitution(examples, "slots", 1.0, seed=0)
    drawn = {}
    for epoch in range(40):
        for i in range(len(examples)):
            for label, text in values_of(substitution.draw(epoch, i) or examples[i]):
                drawn.setdefault(label, set()).add(text)
    cities = {"bonn", "rome", "oslo", "lima", "cairo"}
    assert drawn == {"from": cities, "to": cities, "party": {"1", "2"}, "rating": {"2", "3"}}


def test_substitution_split_words_leave_example_unchanged():
    """A span of another field that ends inside a value; a value that ends inside a word; values that overlap."""
    cut = Example("fly to new york now", {"slots": (LabelledSpan(7, 15, "city"),), "x": (LabelledSpan(4, 10, "p"),)})
    inside = Example("bostonian", {"slots": (LabelledSpan(0, 6, "city"),)}, words=((0, 9),))
    overlapping = Example("oslo", {"slots": (LabelledSpan(0, 4, "city"), LabelledSpan(2, 4, "city"))})
    substitution = Substitution(
        [cut, inside, overlapping, Example("rome", {"slots": (LabelledSpan(0, 4, "city"),)})], "slots", 1.0, 0
    )
    assert [substitution.draw(0, i) for i in range(3)] == [None, None, None]
    assert substitution.draw(0, 3) is not None


def test_substitution_probability_and_seed_decide():
    """Binomial: 4000 examples at 0.3, five standard deviations; another epoch or seed draws others."""
    examples = [Example(f"to {c}", {"slots": (LabelledSpan(3, 4, "city"),)}) for c in "ab" * 2000]
    drawn = {}
    for seed, epoch in ((1, 0), (1, 1), (2, 0)):
        substitution = Substitution(examples, "slots", 0.3, seed)
        drawn[seed, epoch] = [substitution.draw(epoch, i) is not None for i in range(len(examples))]
    for one in drawn.values():
        assert abs(sum(one) - 1200) < 5 * (4000 * 0.3 * 0.7) ** 0.5
    assert len({tuple(one) for one in drawn.values()}) == 3


def test_substitution_batches_hold_changed_text_and_tags(tiny_config):
    """Each row decoded again: its pieces are those of a text whose city is another one, tagged where it stands."""
    training = job_from_config(tiny_config("data.travel.substitute=1.0", "tasks.slots.crf=false"))
    dataset = training.loop.sources["travel"].dataset
    chosen = np.arange(8)
    plain, one, again, two = (dataset.batch(chosen, epoch) for epoch in (0, 0, 0, 1))
    assert torch.equal(one.inputs["input_ids"], again.inputs["input_ids"])
    assert not torch.equal(one.inputs["input_ids"], two.inputs["input_ids"])
    substitution, target = dataset._substitution, dataset.targets["slots"]
    for row, i in enumerate(chosen.tolist()):
        example = substitution.draw(1, i)
        encoding = dataset._tokenizer.encode(example.text)
        length = len(encoding)
        assert two.inputs["input_ids"][row, :length].tolist() == list(encoding.input_ids)
        assert two.targets["slots"][row, :length].tolist() == target.encode(example, encoding)
        assert (two.targets["slots"][row, length:] == IGNORE).all()
    assert torch.equal(plain.targets["intent"], two.targets["intent"])


def test_substitution_new_tokens_leave_example_unchanged(tiny_config):
    training = job_from_config(tiny_config("data.travel.substitute=1.0"))
    dataset = training.loop.sources["travel"].dataset
    boston = dataset._tokenizer.encode("boston").input_ids[1]
    dataset._token_ids = dataset._token_ids - {boston}
    seen = {i for epoch in range(5) for _, _, row in dataset._substituted(range(8), epoch) for i in row.input_ids}
    assert seen
    assert boston not in seen


def test_substitution_resumed_run_is_bit_exact(tiny_config, fit, tmp_path):
    config = tiny_config(
        "data.travel.substitute=0.6",
        "train.epochs=2",
        "train.accumulate_steps=2",
        "train.checkpoints.save_every_steps=1",
    )
    fit(config)
    broken = config.model_copy(update={"train": config.train.model_copy(update={"output": tmp_path / "broken"})})
    steps = itertools.count()
    for _ in train(broken, stop=lambda: next(steps) >= 7):
        pass
    fit(broken, resume=True)
    one, two = (c.train.output / "last/model.safetensors" for c in (config, broken))
    assert one.read_bytes() == two.read_bytes()
    plain = load_config(config.train.output / "config.toml", ["data.travel.substitute=0"], tmp_path / "plain")
    fit(plain)
    assert (tmp_path / "plain/last/model.safetensors").read_bytes() != one.read_bytes()


def test_substitution_without_slots_is_refused(tiny_config):
    with pytest.raises(ConfigError, match=r"data.reviews.substitute needs a sequence_label"):
        tiny_config("data.reviews.substitute=0.3", second=True)
    with pytest.raises(ConfigError, match=r"data.travel.substitute must be less than or equal to 1"):
        tiny_config("data.travel.substitute=1.5")


LISTED = {"city": ["bonn", "san jose", "oslo"], "day": ["monday"]}


@pytest.mark.parametrize("with_words", [True, False])
def test_values_of_lists_are_drawn_too(with_words):
    words = {"words": ((0, 2), (3, 7))} if with_words else {}
    examples = [Example("to oslo", {"slots": (LabelledSpan(3, 7, "city"),)}, **words)] * 40
    substitution = Substitution(examples, "slots", 1.0, 5, LISTED)
    assert substitution.listed == {"city": ["bonn", "san jose"]}
    drawn = [substitution.draw(0, index) for index in range(40)]
    assert {example.text for example in drawn} == {"to bonn", "to san jose"}
    for example in drawn:
        [span] = example.fields["slots"]
        assert example.text[span.start : span.end] == example.text[3:]
        expected = [example.text[start:end] for start, end in example.words or ()]
        assert expected == (example.text.split() if with_words else [])


def test_similar_labels_share_values_of_lists():
    examples = []
    for number, city in enumerate(("oslo", "rome", "oslo", "rome")):
        examples.append(Example(f"to {city}", {"slots": (LabelledSpan(3, 7, "from" if number < 2 else "to"),)}))
    substitution = Substitution(examples, "slots", 1.0, 5, {"from": ["bonn"]})
    drawn = {substitution.draw(epoch, 3).text for epoch in range(40)}
    assert drawn == {"to oslo", "to bonn"}


RASA = """version: "3.1"
nlu:
- intent: fly
  examples: |
    - fly to [oslo](city)
    - please fly to [rome](city) now
- intent: stay
  examples: |
    - stay here
    - do not go
- lookup: city
  examples: |
    - reykjavik
    - new orleans
    - rome
"""
LISTED_TABLES = """
[data.d]
format = "rasa"
train = "nlu.yml"
substitute = {share}
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["d"]
"""


def test_lists_of_the_data_are_values_in_training(kind):
    """Pieces that only a value of a list has are trained, so that no example with them is left out."""
    (kind.folder / "nlu.yml").write_text(RASA)
    job = job_from_config(kind.config(LISTED_TABLES.format(share=1)))
    dataset = job.loop.sources["d"].dataset
    assert dataset.substitution.listed == {"city": ["reykjavik", "new orleans"]}
    tokenizer = dataset._tokenizer
    listed = {tuple(tokenizer.encode_batch([text])[0].input_ids[1:-1]) for text in ("reykjavik", "new orleans")}
    seen = set()
    for epoch in range(20):
        for _, example, row in dataset._substituted(range(4), epoch):
            seen.add(example.text)
            assert set(row.input_ids) <= set(dataset.piece_ids().tolist())
    assert {"fly to reykjavik", "fly to new orleans", "fly to rome"} <= seen
    assert all(set(ids) <= set(dataset.piece_ids().tolist()) for ids in listed)


def test_plan_tells_the_values_of_lists(kind):
    (kind.folder / "nlu.yml").write_text(RASA)
    kind.config(LISTED_TABLES.format(share=0.5))
    result = CliRunner().invoke(app, ["plan", str(kind.folder / "tiny.toml")])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "d: substitute = 0.5 draws values of the examples, and 2 further values of lists (city 2)" in text


def test_resume_with_other_values_of_lists_is_refused(kind):
    """Other rows of the embedding are trained then, so that the state of the optimizer does not fit."""
    (kind.folder / "nlu.yml").write_text(RASA.replace("reykjavik", "oslo").replace("new orleans", "rome"))
    config = kind.config(LISTED_TABLES.format(share=0.5), epochs=3)
    *_, last = train(config, stop=lambda: True)
    assert isinstance(last, Finished)
    assert last.interrupted
    (kind.folder / "nlu.yml").write_text(RASA)
    with pytest.raises(PalmError, match="does not fit the run"):
        list(train(config, resume=True))
