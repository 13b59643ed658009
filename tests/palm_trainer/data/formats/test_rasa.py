import json
import time

import pytest

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.columns import NO_CLASS
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.rasa import FOLDED, MORE_ENTITIES, NO_DASH, NO_NLU, REPEATED_BY_ALIAS
from palm_trainer.data.formats.rasa_annotations import DETACHED, EMPTY, NESTED, UNCLOSED, UNOPENED
from palm_trainer.data.formats.rasa_markdown import OUTSIDE
from palm_trainer.data.formats.row_values import OVERLAPPING
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError

NLU = """\
version: "3.1"
nlu:
- intent: yes
  examples: |
    - yes
    - pay [$5](amount-of-money) to [the bank](payee:bank) now

    what is this
    -  from [Rome]{"entity": "city", "role": "from", "group": "1"} to [Bonn]{"entity": "city", "value": "BN"}
- intent: faq/ask
  examples:
  - text: |
      [a](x)
    metadata: {sentiment: neutral}
  - plain
- synonym: bank
  examples: |
    - the bank
- regex: zip
  examples: |
    - \\d{5}
- lookup: city
  examples: |
    - Rome
rules: []
"""


def test_rasa_reads_intents_and_entities(file, parse):
    path = file("nlu.yml", NLU)
    examples, defects = parse("rasa", path)
    assert [(e.text, e.fields["intent"]) for e in examples] == [
        ("yes", "yes"),
        ("pay $5 to the bank now", "yes"),
        ("from Rome to Bonn", "yes"),
        ("a", "faq/ask"),
        ("plain", "faq/ask"),
    ]
    assert examples[0].fields["slots"] == ()
    assert examples[1].fields["slots"] == (LabelledSpan(4, 6, "amount-of-money"), LabelledSpan(10, 18, "payee"))
    assert examples[2].fields["slots"] == (LabelledSpan(5, 9, "city", "from", "1"), LabelledSpan(13, 17, "city"))
    assert [e.source.rsplit(":", 1)[1] for e in examples] == ["5", "6", "9", "12", "15"]
    assert defects == {
        NO_DASH: 1,
        "'metadata' of an example (passed over)": 1,
    }


def test_rasa_plain_brackets_are_no_entities(file, parse):
    text = '- see [x] (y) [z][{"entity": "a"}, {"entity": "b"}]'
    path = file("nlu.yml", f"nlu:\n- intent: i\n  examples: |\n    {text}\n")
    (example,), defects = parse("rasa", path)
    assert example.text == "see [x] (y) z"
    assert example.fields["slots"] == (LabelledSpan(12, 13, "a"),)
    assert defects == {MORE_ENTITIES: 1, DETACHED: 1}


def test_rasa_directory_reads_all_files(file, parse, tmp_path):
    file("data/a.yml", "nlu:\n- intent: a\n  examples: |\n    - one\n")
    file("data/sub/b.yaml", "nlu:\n- intent: b\n  examples: |\n    - two\n")
    file("data/stories.yml", "stories: []\n")
    examples, _ = parse("rasa", tmp_path / "data")
    assert [e.fields["intent"] for e in examples] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.yml or \.yaml file"):
        parse("rasa", tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nlu:\n- intent: a\n b: c\n", r"nlu\.yml:\d+:\d+: not YAML: .*; check indentation"),
        ("nlu: \x01\n", "not YAML: .*; remove control characters"),
        ("stories: []\n", r"nlu\.yml:1: no `nlu:` list"),
        ("nlu:\n- intent: a\n", r"nlu\.yml:2: an item without `intent` and `examples`"),
        ("nlu:\n- intent: a\n  examples:\n  - metadata: 1\n", r"nlu\.yml:4: an example without `text`"),
        ("nlu:\n- intent: a\n  examples:\n    text: x\n", r"nlu\.yml:4: `examples` is neither"),
        ("nlu:\n- intent: a\n  examples: |\n    - \n", r"nlu\.yml:4: an empty example"),
        ("nlu:\n- intent: a\n  examples: |\n    - [x]{'entity': 'a'}\n", r"nlu\.yml:4: .* is not JSON"),
        ('nlu:\n- intent: a\n  examples: |\n    - [x]{"role": "a"}\n', "names no entity"),
    ],
)
def test_rasa_invalid_files_are_refused(file, parse, content, message):
    with pytest.raises(DataError, match=message):
        parse("rasa", file("nlu.yml", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "nlu:\n- intent: a\n  examples: |\n    - one\n  examples: |\n    - two\n",
            r"nlu\.yml:5: 'examples' stands twice",
        ),
        ("nlu:\n- intent: a\n  examples: |\n    - one\nnlu:\n- intent: b\n", r"nlu\.yml:5: 'nlu' stands twice"),
        ('nlu:\n- intent: a\n  examples:\n  - text: one\n    "text": two\n', r"nlu\.yml:5: 'text' stands twice"),
        ("nlu:\n- {intent: a, examples: [one],\n   intent: b}\n", r"nlu\.yml:3: 'intent' stands twice"),
        ("nlu:\n- intent: a\n  metadata: {x: 1, x: 2}\n  examples: |\n    - one\n", r"nlu\.yml:3: 'x' stands twice"),
        (
            'nlu:\n- intent: a\n  examples: |\n    - [x]{"entity": "a", "entity": "b"}\n',
            r"nlu\.yml:4: key 'entity' stands twice",
        ),
    ],
)
def test_rasa_repeated_key_is_refused(file, parse, content, message):
    with pytest.raises(DataError, match=message):
        parse("rasa", file("nlu.yml", content))


@pytest.mark.parametrize("block", [">\n    - one\n    - two", ">-\n    - one\n\n    - two\n    - three"])
def test_rasa_folded_block_with_examples_is_refused(file, parse, block):
    message = r"nlu\.yml:3: `examples` must be a block that keeps its lines, .* of [23] examples. Write `examples: \|`"
    with pytest.raises(DataError, match=message):
        parse("rasa", file("nlu.yml", f"nlu:\n- intent: a\n  examples: {block}\n"))


def test_rasa_folded_block_of_one_example_is_read(file, parse):
    content = "nlu:\n- intent: a\n  examples: >\n    - one\n\n    - two\n      three\n- intent: b\n  examples: '- four\n\n    - five'\n"
    examples, defects = parse("rasa", file("nlu.yml", content))
    assert [example.text for example in examples] == ["one", "two", "four", "five"]
    assert defects == {NO_DASH: 1}


def test_rasa_quoted_block_with_examples_is_reported(file, parse):
    path = file("nlu.yml", 'nlu:\n- intent: a\n  examples: "- one\n    - two"\n')
    [example], defects = parse("rasa", path)
    assert (example.text, defects) == ("one - two", {FOLDED: 1})


def test_rasa_escaped_surrogate_pair_is_one_character(file, parse):
    content = 'nlu:\n- intent: "\\ud83d\\ude01"\n  examples:\n  - text: "hey \\ud83d\\ude01 [Oslo](city)"\n'
    [example], _ = parse("rasa", file("nlu.yml", content))
    assert (example.text, example.fields["intent"]) == ("hey \U0001f601 Oslo", "\U0001f601")
    assert example.fields["slots"] == (LabelledSpan(6, 10, "city"),)
    with pytest.raises(DataError, match=r"nlu\.yml:4: an escape is half of a surrogate pair"):
        parse("rasa", file("nlu.yml", content.replace("\\ude01 [", " [")))


@pytest.mark.parametrize("part", ["[", "[a](", "[a][{", "[a]{", "[a](b", "[]", "[a", "]", "[a](:"])
@pytest.mark.parametrize("style", ["block", "quoted"])
def test_rasa_line_of_brackets_takes_linear_time(file, parse, part, style):
    text = part * (1_000_000 // len(part))
    block = f"  examples: |\n    - {text}\n" if style == "block" else f"  examples:\n  - text: '{text}'\n"
    path = file("nlu.yml", f"nlu:\n- intent: a\n{block}")
    start = time.process_time()
    [example], _ = parse("rasa", path)
    assert time.process_time() - start < 2
    assert example.text == text


def test_rasa_annotations_agree_with_old_pattern(file, parse):
    text = "[[a](x) [b]] [c](y) [](z) [d]() [e](:f) [g](h:) [i] (j) [k][l](m)"
    [example], _ = parse("rasa", file("nlu.yml", f"nlu:\n- intent: a\n  examples: |\n    - {text}\n"))
    spans = [(example.text[span.start : span.end], span.label) for span in example.fields["slots"]]
    assert spans == [("[a", "x"), ("c", "y"), ("g", "h"), ("l", "m")]


BRACKETS = {
    "[Paris](city now": ("[Paris](city now", (), {UNCLOSED: 1}),
    "[Paris](city to [Rome](city)": ("[Paris](city to Rome", ((16, 20, "city"),), {UNCLOSED: 1}),
    "[Paris](city (x)": ("[Paris](city (x)", (), {UNCLOSED: 1}),
    '[Paris]{"entity": "city"': ('[Paris]{"entity": "city"', (), {UNCLOSED: 1}),
    '[Paris][{"entity": "city"}': ('[Paris][{"entity": "city"}', (), {UNCLOSED: 2}),
    "[Paris] (city)": ("[Paris] (city)", (), {DETACHED: 1}),
    '[Paris] {"entity": "city"}': ('[Paris] {"entity": "city"}', (), {DETACHED: 1}),
    "[Paris]\uff08city\uff09 [x](y)": ("[Paris]\uff08city\uff09 x", ((14, 15, "y"),), {DETACHED: 1}),
    "[Paris(city)": ("[Paris(city)", (), {UNCLOSED: 1}),
    "Paris](city) [Rome](city)": ("Paris](city) Rome", ((13, 17, "city"),), {UNOPENED: 1}),
    'Paris]{"entity": "city"}': ('Paris]{"entity": "city"}', (), {UNOPENED: 1}),
    "[[a](b)](c)": ("[a](c)", ((0, 2, "b"),), {NESTED: 1, UNOPENED: 1}),
    "x [](city) [y]() [z](:w)": ("x [](city) [y]() [z](:w)", (), {EMPTY: 3}),
    'x []{"entity": "city"}': ('x []{"entity": "city"}', (), {EMPTY: 1}),
    "see [x], (y) [z] and ]": ("see [x], (y) [z] and ]", (), {}),
}


@pytest.mark.parametrize("written", BRACKETS)
@pytest.mark.parametrize("name", ["nlu.yml", "nlu.md"])
def test_rasa_brackets_that_are_no_annotation_are_told(file, written, name):
    text, ranges, told = BRACKETS[written]
    lines = {
        "nlu.yml": f"nlu:\n- intent: i\n  examples: |\n    - {written}\n    - {written}\n",
        "nlu.md": f"\n\n## intent:i\n- {written}\n- {written}\n",
    }
    path = file(name, lines[name])
    defects = Defects()
    examples = list(FORMATS["rasa"](path, FormatOptions(), defects))
    assert [example.text for example in examples] == [text, text]
    assert examples[0].fields["slots"] == tuple(LabelledSpan(*span) for span in ranges)
    assert {defect.kind: (defect.count, defect.first) for defect in defects} == {
        kind: (2 * count, f"{path}:4") for kind, count in told.items()
    }


MARKDOWN = """\
<!-- made by hand
## intent:none -->
## intent:greet
- hi [x](y)
* I am in [Oslo](city:capital) with [Ann]{"entity": "person", "role": "friend"}

## intent: faq/ask
+ what is this
loose words
## synonym:capital
- Oslo
## regex:zip
- [0-9]{5}
## lookup:city
  data/cities.txt
"""


@pytest.mark.parametrize("name", ["nlu.md", "nlu.txt"])
def test_rasa_markdown_is_detected_and_read(file, parse, name):
    path = file(name, MARKDOWN)
    assert detect_format(path).format == "rasa"
    examples, defects = parse("rasa", path)
    assert [(e.text, e.fields["intent"]) for e in examples] == [
        ("hi x", "greet"),
        ("I am in Oslo with Ann", "greet"),
        ("what is this", "faq/ask"),
    ]
    assert examples[1].fields["slots"] == (LabelledSpan(8, 12, "city"), LabelledSpan(18, 21, "person", "friend"))
    assert examples[1].source == f"{path}:5"
    assert defects == {
        OUTSIDE: 2,
    }


def test_rasa_markdown_in_directory_is_read(file, parse, tmp_path):
    file("project/nlu.md", "## intent:a\n- one\n")
    file("project/README.md", "# Notes\n- nothing\n")
    assert detect_format(tmp_path / "project").format == "rasa"
    [example], _ = parse("rasa", tmp_path / "project")
    assert example.text == "one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("## intent:a\n-\n", r"nlu\.md:2: an empty example"),
        ("## intent:a\n- one\n## story\n", r"nlu\.md:3: a heading must be one of .* got '## story'"),
        ("## intent:a\n- one\n## intent:\n", r"nlu\.md:3: a heading must be one of"),
    ],
)
def test_rasa_invalid_markdown_is_refused(file, parse, content, message):
    with pytest.raises(DataError, match=message):
        parse("rasa", file("nlu.md", content))


def test_rasa_multiplying_aliases_are_refused(file, parse):
    item = "{intent: a, examples: &e [" + "x, " * 1000 + "x]}"
    content = f"nlu: [&i {item}" + ", *i" * 1000 + "]\n"
    with pytest.raises(DataError, match=r"nlu\.yml:\d+: aliases repeat more than 10 times the content of the file"):
        parse("rasa", file("nlu.yml", content))


def rasa_json(*examples, **sections):
    return json.dumps({"rasa_nlu_data": {"common_examples": examples, **sections}})


ENTITY = {"start": 3, "end": 7, "value": "oslo", "entity": "city"}


def test_rasa_json_is_detected_and_read(file, parse):
    rows = [
        {"text": "to oslo", "intent": "fly", "entities": [ENTITY | {"role": "to", "group": 1, "extractor": "crf"}]},
        {"text": "to oslo", "intent": "fly", "entities": [ENTITY | {"value": "Oslo", "role": None}]},
        {"text": "hi", "intent": "", "metadata": {"a": 1}},
    ]
    more = [{"text": "bye", "intent": "bye"}]
    path = file("nlu.json", rasa_json(*rows, intent_examples=more, other=[{}, {}], lookup_tables=[]))
    assert detect_format(path).format == "rasa"
    examples, defects = parse("rasa", path)
    assert [(e.text, dict(e.fields)) for e in examples] == [
        ("to oslo", {"intent": "fly", "slots": (LabelledSpan(3, 7, "city", "to", "1"),)}),
        ("to oslo", {"intent": "fly", "slots": (LabelledSpan(3, 7, "city"),)}),
        ("hi", {"slots": ()}),
        ("bye", {"intent": "bye", "slots": ()}),
    ]
    assert examples[1].source == f"{path}: common_examples 2"
    assert defects == {
        "'other' (passed over)": 2,
        "'extractor' (passed over)": 1,
        "'metadata' (passed over)": 1,
        NO_CLASS: 1,
    }


def test_rasa_json_in_directory_is_read(file, parse, tmp_path):
    file("project/data.json", rasa_json({"text": "one", "intent": "a"}))
    file("project/package.json", '{"name": "x"}')
    assert detect_format(tmp_path / "project").format == "rasa"
    [example], _ = parse("rasa", tmp_path / "project")
    assert example.text == "one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"nlu\.json: no object `rasa_nlu_data`"),
        ('{"rasa_nlu_data": {"common_examples": 3}}', "common_examples must be a list, got int"),
        (rasa_json({"intent": "a"}), r"nlu\.json: common_examples 1: `text` must be a string .* got None"),
        (rasa_json({"text": "a", "intent": 3}), "`intent` must be a string, got 3"),
        (rasa_json({"text": "a", "entities": [3]}), "`entities` must be a list of objects"),
        (rasa_json({"text": "to", "entities": [ENTITY]}), "entity 1: span 3-7 is not a range in a text of 2"),
        (rasa_json({"text": "to oslo", "entities": [ENTITY | {"entity": ""}]}), "an entity must have a name"),
        (rasa_json({"text": "to oslo", "entities": [ENTITY | {"role": []}]}), "`role` of an entity must be a string"),
    ],
)
def test_rasa_invalid_json_is_refused(file, parse, content, message):
    with pytest.raises(DataError, match=message):
        parse("rasa", file("nlu.json", content))


def test_rasa_json_overlapping_entities_are_counted_and_the_longest_is_kept(file, parse):
    entities = [ENTITY, ENTITY | {"start": 0, "entity": "trip"}]
    (example,), defects = parse("rasa", file("nlu.json", rasa_json({"text": "to oslo", "entities": entities})))
    assert example.fields["slots"] == (LabelledSpan(0, 7, "trip"),)
    assert defects == {NO_CLASS: 1, OVERLAPPING: 1}


def test_rasa_null_role_is_none(file, parse):
    text = '- to [oslo]{"entity": "city", "role": null, "group": 2}'
    (example,), _ = parse("rasa", file("nlu.yml", f"nlu:\n- intent: i\n  examples: |\n    {text}\n"))
    assert example.fields["slots"] == (LabelledSpan(3, 7, "city", "", "2"),)


def test_rasa_directory_tells_dialogues_and_other_files(file, parse, tmp_path):
    file("p/nlu.yml", "nlu:\n- intent: a\n  examples: |\n    - one\n")
    file("p/domain.yml", "intents: [a]\nresponses:\n  utter_b: [{text: c}]\n  utter_d: [{text: e}]\n")
    file("p/stories.yml", "stories:\n- story: s\n  steps:\n  - user: hello\n")
    _, defects = parse("rasa", tmp_path / "p")
    assert defects == {
        "entry of 'responses' (passed over)": 2,
        "entry of 'stories' (passed over)": 1,
        NO_NLU: 2,
    }


def test_rasa_null_and_numbers_of_roles_are_read_as_text(file, parse):
    entity = '{"entity": "city", "role": null, "group": 1}'
    path = file("nlu.yml", f"nlu:\n- intent: a\n  examples: |\n    - [oslo]{entity}\n")
    [example], _ = parse("rasa", path)
    assert example.fields["slots"] == (LabelledSpan(0, 4, "city", "", "1"),)


ALIASES = {
    "item": "nlu:\n- &a\n  intent: i\n  examples: |\n    - one\n- *a\n",
    "block": "nlu:\n- intent: i\n  examples: &a |\n    - one\n- intent: j\n  examples: *a\n",
    "list": "nlu:\n- intent: i\n  examples: &a\n  - one\n- intent: j\n  examples: *a\n",
    "text": "nlu:\n- intent: i\n  examples:\n  - &a one\n  - *a\n",
    "example": "nlu:\n- intent: i\n  examples:\n  - &a\n    text: one\n  - *a\n",
    "words": "nlu:\n- intent: i\n  examples:\n  - text: &a one\n  - text: *a\n",
}


@pytest.mark.parametrize("name", ALIASES)
def test_rasa_aliases_are_read_and_told(file, parse, name):
    examples, defects = parse("rasa", file("nlu.yml", ALIASES[name]))
    assert [example.text for example in examples] == ["one", "one"]
    assert defects[REPEATED_BY_ALIAS] >= 1


def test_rasa_aliases_of_keys_are_told(file, parse):
    merged = "nlu:\n- &a\n  intent: i\n  examples: |\n    - one\n- <<: *a\n  intent: j\n  examples: |\n    - two\n"
    examples, defects = parse("rasa", file("nlu.yml", merged))
    assert [example.text for example in examples] == ["one", "two"]
    assert defects == {"'<<' of an intent (passed over)": 1}
    twice = "nlu:\n- &k intent: i\n  *k : j\n  examples: |\n    - one\n"
    with pytest.raises(DataError, match=r"twice\.yml:2: 'intent' stands twice"):
        parse("rasa", file("twice.yml", twice))


LAUGHS = {
    "items": "nlu:\n- &a\n  intent: i\n  examples: |\n" + "    - x\n" * 4_000 + "- *a\n" * 4_000,
    "one text": 'nlu:\n- intent: i\n  examples:\n  - &a "' + "x" * 40_000 + '"\n' + "  - *a\n" * 4_000,
    "blocks without examples": "nlu:\n- intent: i\n  examples: &a |\n    "
    + "x\n    " * 4_000
    + "\n"
    + "- intent: i\n  examples: *a\n" * 4_000,
    "keys": "nlu:\n- &a\n  intent: i\n"
    + "".join(f"  key{n}: x\n" for n in range(4_000))
    + "  examples: |\n    - x\n"
    + "- *a\n" * 4_000,
    "texts without words": "nlu:\n- &i {intent: a, examples: [&e x" + ", *e" * 200_000 + "]}\n" + "- *i\n" * 50_000,
    "lists": "a: &a [x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20))
    + "nlu:\n- intent: i\n  examples: *u\n",
}


@pytest.mark.parametrize("name", LAUGHS)
def test_rasa_aliases_are_bounded(file, parse, name):
    path = file("nlu.yml", LAUGHS[name])
    start = time.process_time()
    with pytest.raises(DataError, match=r"nlu\.yml:\d+: (aliases repeat more than|an example without `text`)"):
        parse("rasa", path)
    assert time.process_time() - start < 10
