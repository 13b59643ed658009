"""Values that the lists and patterns of a bundle explain."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve import Model
from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.values_file import MAX_PATTERNS, Pattern, SlotValues, ValuesFile, value_key
from palm_serve.errors import BundleError
from palm_serve.types import Classification, Label, Prediction, Span, Spans, TextRequest, Timings
from palm_serve.values import ValueResolver, compile_pattern
from palm_serve.values.known_values import KnownValues

VALUES = {
    "city": {"synonyms": {"boston": "Boston, MA", "北京": "Beijing"}, "values": ["Denver"]},
    "": {"synonyms": {"monday": "Mon", "boston": "never"}, "patterns": [{"name": "two-words", "pattern": r"\w+ \w+"}]},
}


def write_values(bundle, reseal, slots, **more):
    content = {"tasks": {"slots": slots}, **more}
    (bundle / "values.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return reseal(bundle)


@pytest.fixture
def bundle(make_tiny_bundle, tmp_path):
    return make_tiny_bundle(tmp_path / "tiny")


def test_values_are_resolved_by_the_slot_first(bundle, reseal_bundle):
    with Model.open(write_values(bundle, reseal_bundle, VALUES)) as model:
        answer = model.parse("from BOSTON to new york to denver on monday in 北京")
        predicted = model.predict("slots", "boston").result.spans.spans
    found = [(slot.value, slot.resolved.canonical, slot.resolved.kind) for slot in answer.slots]
    assert found == [
        ("BOSTON", "Boston, MA", "synonym"),
        ("new york", "new york", "two-words"),
        ("denver", "Denver", "value"),
        ("monday", "Mon", "synonym"),
        ("北京", "Beijing", "synonym"),
    ]
    assert [json.loads(slot.resolved.json) for slot in answer.slots] == [canonical for _, canonical, _ in found]
    assert [span.resolved.canonical for span in predicted] == ["Boston, MA"]


def test_unknown_value_is_not_resolved(bundle, reseal_bundle):
    with Model.open(write_values(bundle, reseal_bundle, VALUES)) as model:
        [slot] = model.parse("play adele").slots
        assert not slot.HasField("resolved")


def test_bundle_without_values_resolves_nothing(tiny_bundle):
    assert load_bundle(tiny_bundle).values is None
    with Model.open(tiny_bundle) as model:
        answer = model.parse("boston")
    assert answer.timings.resolve_us == 0
    assert not answer.slots[0].HasField("resolved")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "values.json cannot be read: top level: Invalid JSON"),
        ("{}{", "values.json cannot be read: top level: Invalid JSON"),
        ('{"tasks": {"slots": {}}, "tasks": {}}', "the key 'tasks' stands twice"),
        ('{"format_version": 2}', "format_version: Input should be 1"),
        ('{"tasks": {"other": {}}}', "it names the task 'other', which the manifest lacks"),
        ('{"tasks": {"slots": {"town": {}}}}', "it names the slot 'town', which task 'slots' does not answer"),
        ('{"tasks": {"intent": {"flight": {}}}}', "it names the slot 'flight', which task 'intent' does not answer"),
        ('{"tasks": {"slots": {"city": {"resolver": "exec"}}}}', "resolver: Input should be '', 'date'"),
        ('{"tasks": {"slots": {"city": {"values": [3]}}}}', "values.0: Input should be a valid string"),
        ('{"tasks": {"slots": {"city": {"values": [""]}}}}', "at least 1 character"),
        ('{"tasks": {"slots": {"city": {"values": ["' + "a" * 1001 + '"]}}}}', "at most 1000 characters"),
        (
            '{"tasks": {"slots": {"city": {"synonyms": {"NY": "a", "ny": "b"}}}}}',
            "values.json cannot be used: slot 'city' has two values for 'ny'",
        ),
        (
            '{"tasks": {"slots": {"city": {"patterns": [{"name": "a", "pattern": "(?=a)"}]}}}}',
            "values.json cannot be used: .*invalid perl operator",
        ),
        (
            '{"tasks": {"slots": {"city": {"patterns": [{"name": "a", "pattern": "((a{1,99}){1,99}){1,9}"}]}}}}',
            "values.json cannot be used: ",
        ),
    ],
)
def test_unusable_values_are_refused(bundle, reseal_bundle, content, message):
    (bundle / "values.json").write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        Model.open(reseal_bundle(bundle))


def test_too_many_patterns_are_refused(bundle, reseal_bundle):
    patterns = [{"name": "a", "pattern": "b"}] * (MAX_PATTERNS + 1)
    write_values(bundle, reseal_bundle, {"city": {"patterns": patterns}})
    with pytest.raises(BundleError, match="patterns must be at most 1,000, got 1,001"):
        load_bundle(bundle)


def test_too_large_file_is_refused(bundle, reseal_bundle):
    (bundle / "values.json").write_bytes(b" " * ((32 << 20) + 1))
    with pytest.raises(BundleError, match=r"values\.json must have at most 32 MiB"):
        load_bundle(reseal_bundle(bundle))


def test_changed_values_are_refused(bundle, reseal_bundle):
    write_values(bundle, reseal_bundle, VALUES)
    (bundle / "values.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"values\.json was changed or damaged"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("text", "same"),
    [("New  York", "new york"), ("ＮＹＣ", "nyc"), (" a\tb\n", "A B"), ("STRASSE", "straße"), ("北京", "北京")],
)
def test_values_are_compared_without_case_width_and_blanks(text, same):
    assert value_key(text) == value_key(same)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(a|a?)+b", "(.*)*x", "(x+x+)+y", "([a-z]+)*[0-9]"])
def test_pattern_reads_a_value_in_linear_time(pattern):
    """Python's own `re` needs years for these."""
    known = KnownValues({"city": SlotValues(patterns=(Pattern(name="evil", pattern=pattern),))})
    began = time.process_time()
    for _ in range(100):
        assert known.match("city", "a" * 199 + "!") is None
        assert known.match("city", "x" * 199 + "!") is None
    assert time.process_time() - began < 30


def test_long_value_is_not_compared_with_patterns():
    known = KnownValues({"city": SlotValues(patterns=(Pattern(name="any", pattern=".*"),))})
    assert known.match("city", "a" * 200) is not None
    assert known.match("city", "a" * 201) is None


def test_pattern_ignores_case_and_reads_the_whole_value():
    expression = compile_pattern("[a-c]{2}|北")
    assert [expression.fullmatch(text) is not None for text in ("AB", "ab ", "xab", "北")] == [True, False, False, True]


def prediction(text, ranges):
    spans = []
    for number, (start, end) in enumerate(ranges):
        spans.append(Span(("city", "day")[number % 2], text[start:end], start, end, 0.5, "role", "group"))
    intent = Classification(Label("a", 0.5), (Label("a", 0.5),))
    return Prediction({"slots": Spans(tuple(spans), has_roles=True), "intent": intent}, False, len(text), Timings(1, 2))


@given(
    st.text(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))), st.dictionaries(st.text("aB 北"), st.text())
)
def test_resolution_changes_nothing_else(text, ranges, synonyms):
    usable = {key: value for key, value in synonyms.items() if key and value}
    by_key = {value_key(key): value for key, value in usable.items()}
    slot = SlotValues(synonyms=by_key if "" not in by_key else {}, patterns=(Pattern(name="p", pattern=".+"),))
    resolver = ValueResolver(ValuesFile(tasks={"slots": {"city": slot}}))
    before = prediction(text, ranges)
    after = resolver.resolve(TextRequest(text, ("slots", "intent")), before)
    assert after.answers["intent"] is before.answers["intent"]
    assert (after.truncated, after.seen, after.unknown_language) == (before.truncated, before.seen, False)
    assert (after.timings.tokenize_us, after.timings.queue_us) == (1, 2)
    for old, new in zip(before.answers["slots"].spans, after.answers["slots"].spans, strict=True):
        assert new.value == old.value == text[new.start : new.end]
        unchanged = (old.name, old.start, old.end, old.confidence, old.role, old.group)
        assert (new.name, new.start, new.end, new.confidence, new.role, new.group) == unchanged
        if new.resolved is not None:
            assert json.loads(new.resolved.json) == new.resolved.canonical
