import pytest

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.rasa import MORE_ENTITIES, NO_DASH, SYNONYM
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
        SYNONYM: 2,
        NO_DASH: 1,
        "synonym section (passed over)": 1,
        "regex section (passed over)": 1,
        "lookup section (passed over)": 1,
    }


def test_rasa_plain_brackets_are_no_entities(file, parse):
    text = '- see [x] (y) [z][{"entity": "a"}, {"entity": "b"}]'
    path = file("nlu.yml", f"nlu:\n- intent: i\n  examples: |\n    {text}\n")
    (example,), defects = parse("rasa", path)
    assert example.text == "see [x] (y) z"
    assert example.fields["slots"] == (LabelledSpan(12, 13, "a"),)
    assert defects == {MORE_ENTITIES: 1}


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
