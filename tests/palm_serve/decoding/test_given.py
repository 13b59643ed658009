"""Tags decoded given the class of the text: what is forbidden, when the mask is off, and bundles that do not fit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.bundle.manifest import Decode, TaskInfo, TaskThresholds, with_given
from palm_serve.decoding import DecoderTable, Item
from palm_serve.errors import BundleError
from palm_serve.types import Encoding

INTENTS = ("go", "play", "chat")
TYPES = ("artist", "city", "day")
TAGS = ("O", *(f"{prefix}-{name}" for name in TYPES for prefix in "BI"))


def classify(**thresholds):
    limits = TaskThresholds(**thresholds)
    return TaskInfo(kind="classify", outputs=("intent.logits",), labels=INTENTS, thresholds=limits)


def tagger(given="intent", *, crf=False):
    roles = ("start", "transitions", "end") if crf else ()
    arrays = {role: f"slots.{role}" for role in (*roles, *(["given"] if given else []))}
    decode = Decode(scheme="BIO", crf=crf, arrays=arrays, given=given)
    return TaskInfo(kind="sequence_label", outputs=("slots.logits",), labels=TAGS, decode=decode)


def mask(*rows):
    """[classes, tags]; each row names the types that the class can have."""
    return np.array([[tag == "O" or tag[2:] in row for tag in TAGS] for row in rows], np.float32)


ALL = mask(TYPES, TYPES, TYPES)
SOME = mask(("city", "day"), ("artist",), ())


def words(count):
    text = " ".join("abcdefghijklmnop"[:count])
    offsets = [(0, 0), *((2 * i, 2 * i + 1) for i in range(count)), (0, 0)]
    return Item(text, Encoding([0] * (count + 2), [0] * (count + 2), offsets, [-1, *[0] * count, -1]))


def answers(tasks, arrays, intents, slots, items):
    outputs = {"intent.logits": np.asarray(intents, np.float32), "slots.logits": np.asarray(slots, np.float32)}
    return DecoderTable.of(tasks, arrays, ["slots"]).by_task["slots"](outputs, items)


def potentials(generator, scale):
    size = len(TAGS)
    return {
        "slots.start": generator.normal(0, scale, size).astype(np.float32),
        "slots.transitions": generator.normal(0, scale, (size, size)).astype(np.float32),
        "slots.end": generator.normal(0, scale, size).astype(np.float32),
    }


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 9), min_size=1, max_size=70),
    st.sampled_from([1.0, 30.0, 1e4]),
    st.booleans(),
)
def test_forbidden_types_are_never_answered_whatever_the_logits(seed, sizes, scale, crf):
    generator = np.random.default_rng(seed)
    allowed = mask(*([name for name in TYPES if generator.random() < 0.5] for _ in INTENTS))
    arrays = {"slots.given": allowed, **(potentials(generator, 5.0) if crf else {})}
    intents = generator.normal(0, 1, (len(sizes), len(INTENTS)))
    slots = generator.normal(0, 1, (len(sizes), 11, len(TAGS))) * scale
    tasks = {"slots": tagger(crf=crf), "intent": classify()}
    decoded = answers(tasks, arrays, intents, slots, list(map(words, sizes)))
    for answer, intent in zip(decoded, intents.argmax(axis=1), strict=True):
        for span in answer.spans:
            assert allowed[intent, TAGS.index(f"B-{span.name}")]
            assert 0.0 <= span.confidence <= 1.0
        assert all(before.end <= after.start for before, after in itertools.pairwise(answer.spans))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 9), min_size=1, max_size=6), st.booleans())
def test_a_mask_that_allows_all_changes_nothing(seed, sizes, crf):
    generator = np.random.default_rng(seed)
    intents = generator.normal(0, 1, (len(sizes), len(INTENTS)))
    slots = generator.normal(0, 3, (len(sizes), 11, len(TAGS)))
    arrays = {"slots.given": ALL, **(potentials(generator, 1.0) if crf else {})}
    items = list(map(words, sizes))
    masked = answers({"intent": classify(), "slots": tagger(crf=crf)}, arrays, intents, slots, items)
    plain = answers({"intent": classify(), "slots": tagger("", crf=crf)}, arrays, intents, slots, items)
    assert masked == plain


def leading(tags, second, lead=9.0):
    """Logits [1, S, T] of [CLS] tags [SEP], with a second best tag for each."""
    logits = np.zeros((1, len(tags) + 2, len(TAGS)), np.float32)
    for position, (first, other) in enumerate(zip(tags, second, strict=True), start=1):
        logits[0, position, TAGS.index(first)] = lead
        logits[0, position, TAGS.index(other)] = lead / 2
    return logits


AMBIGUOUS = leading(["B-artist", "I-artist"], ["B-city", "I-city"])


def types(tasks, intents, arrays=None, top_k=0):
    item = Item("a b", words(2).encoding, top_k=top_k)
    [answer] = answers(tasks, arrays or {"slots.given": SOME}, [intents], AMBIGUOUS, [item])
    return [span.name for span in answer.spans]


def test_the_next_best_type_that_is_possible_is_answered():
    tasks = {"intent": classify(), "slots": tagger()}
    assert types(tasks, [4, 0, 0]) == ["city"]
    assert types(tasks, [0, 4, 0]) == ["artist"]
    assert types(tasks, [0, 0, 4]) == []


@pytest.mark.parametrize("top_k", [0, 1, 2])
@pytest.mark.parametrize(
    ("limit", "accepted", "rejected"),
    [
        ({"intent_confidence": 0.9}, [9, 0, 0], [1, 0, 0]),
        ({"ambiguity_margin": 0.3}, [9, 0, 0], [1.0, 0.9, 0]),
        ({"out_of_scope": 0.5}, [9, 0, 0], [0.1, 0, 0]),
    ],
)
def test_a_class_that_a_threshold_rejects_forbids_nothing(limit, accepted, rejected, top_k):
    """The same however many labels the request wants."""
    tasks = {"intent": classify(**limit), "slots": tagger()}
    assert types(tasks, accepted, top_k=top_k) == ["city"]
    assert types(tasks, rejected, top_k=top_k) == ["artist"]
    assert types({"intent": classify(), "slots": tagger()}, rejected, top_k=top_k) == ["city"]


def test_averages_of_weights_need_not_be_exact():
    arrays = {"slots.given": SOME * np.float32(0.999) + np.float32(0.0005)}
    assert types({"intent": classify(), "slots": tagger()}, [4, 0, 0], arrays) == ["city"]


def test_more_rows_than_are_decoded_at_once_have_each_their_class():
    count = 200
    intents = np.eye(3, dtype=np.float32)[np.arange(count) % 3] * 5
    tasks = {"intent": classify(), "slots": tagger()}
    slots = np.repeat(AMBIGUOUS, count, axis=0)
    decoded = answers(tasks, {"slots.given": SOME}, intents, slots, [words(2)] * count)
    expected = [["city"], ["artist"], []]
    assert [[span.name for span in answer.spans] for answer in decoded] == [expected[i % 3] for i in range(count)]


def test_the_outputs_that_a_task_reads_are_those_of_both():
    tasks = {"slots": tagger(), "intent": classify(), "other": tagger("")}
    table = DecoderTable.of(tasks, {"slots.given": SOME}, ["slots", "other"])
    assert table.outputs == {"slots": ("slots.logits", "intent.logits"), "other": ("slots.logits",)}
    assert with_given(["slots", "other"], tasks) == ["slots", "other", "intent"]
    assert with_given(["intent", "slots"], tasks) == ["intent", "slots"]


@pytest.mark.parametrize(
    ("tasks", "arrays", "message"),
    [
        ({"slots": tagger()}, {}, "given 'intent', none"),
        ({"slots": tagger("slots")}, {}, "given 'slots', one of kind 'sequence_label'"),
        (
            {"slots": classify().model_copy(update={"decode": Decode(given="intent")}), "intent": classify()},
            {},
            "got one of kind 'classify' given 'intent', one of kind 'classify'",
        ),
        (
            {"slots": tagger(), "intent": TaskInfo(kind="match", outputs=("intent.logits",))},
            {},
            "given 'intent', one of kind 'match'",
        ),
        ({"slots": tagger(), "intent": classify()}, {}, r"of the classes of 'intent' and its tags, \(3, 7\), got none"),
        ({"slots": tagger(), "intent": classify()}, {"slots.given": SOME[:2]}, r"got the shape \(2, 7\)"),
        ({"slots": tagger(), "intent": classify()}, {"slots.given": SOME[0]}, r"got the shape \(7,\)"),
    ],
)
def test_parts_that_do_not_fit_are_named(tasks, arrays, message):
    with pytest.raises(BundleError, match=message):
        DecoderTable.of(tasks, arrays, ["slots"])


def test_a_manifest_without_it_is_as_before():
    assert "given" not in tagger("").decode.model_dump_json()
    assert '"given":"intent"' in tagger().decode.model_dump_json()
    assert Decode.model_validate_json(tagger().decode.model_dump_json()) == tagger().decode
