import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.values.known_values import KnownValues
from palm_trainer.data.conversion_losses import PAIR_LOST, ROLES_LOST, TEXT_CHANGED
from palm_trainer.data.convert import convert, convert_split
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.data.formats.write_values import PATTERN_LOST, SYNONYM_LOST, VALUE_LOST
from palm_trainer.data.formats.writers import WRITERS
from palm_trainer.errors import DataError


def read(name, path, options=None):
    return list(FORMATS[name](path, options or FormatOptions(), Defects()))


def plain(example):
    return (example.text, example.pair, example.context, dict(example.fields))


@pytest.fixture
def joint(tmp_path):
    folder = tmp_path / "joint"
    folder.mkdir()
    (folder / "seq.in").write_text("fly  to new york\nplay it\n")
    (folder / "seq.out").write_text("O O B-city I-city\nO O\n")
    (folder / "label").write_text("flight\nmusic\n")
    return folder


@pytest.mark.parametrize("name", ["a.jsonl", "a.conll", "a", "a.tsv"])
def test_convert_joint_survives_capable_formats(joint, tmp_path, name):
    result = convert(joint, tmp_path / "out" / name)
    assert result.count == 2
    assert result.losses == []
    copies = read(result.target_format, tmp_path / "out" / name, result.options)
    assert [plain(e) for e in copies] == [plain(e) for e in read("joint", joint)]
    assert [e.words for e in copies] == [e.words for e in read("joint", joint)]


def test_convert_writes_palm_tables(joint, tmp_path):
    slots = convert(joint, tmp_path / "slot.tsv", field="slots")
    assert (tmp_path / "slot.tsv").read_text() == (
        "text_a\tlabel\nfly\x02to\x02new\x02york\tO\x02O\x02B-city\x02I-city\nplay\x02it\tO\x02O\n"
    )
    assert [loss.kind for loss in slots.losses] == ["field 'intent': left out or under another name"]
    convert(joint, tmp_path / "intent.tsv", field="intent")
    assert (tmp_path / "intent.tsv").read_text() == "label\ttext_a\nflight\tfly to new york\nmusic\tplay it\n"


def test_convert_reports_losses(tmp_path):
    rows = [
        {"text": "from rome!", "intent": "fly", "slots": [{"start": 5, "end": 9, "label": "city", "role": "from"}]},
        {"text": "b\tc", "text_pair": "d", "intent": "x"},
    ]
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    result = convert(source, tmp_path / "joint")
    assert {(loss.kind, loss.count, loss.first) for loss in result.losses} == {
        (TEXT_CHANGED, 2, f"{source}:1"),
        (ROLES_LOST, 1, f"{source}:1"),
        (PAIR_LOST, 1, f"{source}:2"),
        ("field 'slots': made up, the source has none here under this name", 1, f"{source}:2"),
    }
    assert (tmp_path / "joint" / "seq.in").read_text() == "from rome !\nb c\n"
    assert convert(source, tmp_path / "b.jsonl").losses == []


def test_convert_characters_are_written_without_blanks(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("# intent: a\n北\tB-city\n京\tI-city\n\n# intent: b\n好\tO\n \tO\n好\tO\n")
    result = convert(source, tmp_path / "b.tsv")
    assert (result.source_format, result.target_format, result.options.joiner) == ("conll", "palm", "")
    assert result.losses == []
    result = convert(source, tmp_path / "joint")
    assert [(loss.kind, loss.count, loss.first) for loss in result.losses] == [(TEXT_CHANGED, 1, f"{source}:6")]
    assert (tmp_path / "joint" / "seq.in").read_text() == "北 京\n好 好\n"


def test_convert_several_classes_are_joined(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a", "intent": ["x", "y"]}\n{"text": "b", "intent": ["z"]}\n')
    for name in ("b.tsv", "b.conll", "b"):
        result = convert(source, tmp_path / name)
        assert [loss.kind for loss in result.losses if "slots" not in loss.kind] == []
        assert read(result.target_format, tmp_path / name, result.options)[0].fields["intent"] == ("x", "y")


def test_convert_answers_are_kept_in_jsonl_only(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a?", "text_pair": "b c", "answer": [{"start": 0, "end": 1}]}\n')
    assert convert(source, tmp_path / "b.jsonl").losses == []
    result = convert(source, tmp_path / "b.tsv")
    assert result.target_format == "tsv"
    assert [loss.kind for loss in result.losses] == ["field 'answer': left out or under another name"]


def test_convert_invalid_requests_are_refused(joint, tmp_path):
    with pytest.raises(DataError, match="exists; remove it"):
        convert(joint, joint)
    with pytest.raises(DataError, match=r"suffix '\.xml' tells no format \(\.jsonl, .*\.json, \.tsv, none for joint\)"):
        convert(joint, tmp_path / "a.xml")
    with pytest.raises(DataError, match="format 'datasets' cannot be written; choose one of jsonl, joint"):
        convert(joint, tmp_path / "a", target_format="datasets")
    with pytest.raises(DataError, match="unknown format 'jiont'; known: joint"):
        convert(joint, tmp_path / "a.jsonl", source_format="jiont")
    with pytest.raises(DataError, match="no field 'slot'; known: intent, slots"):
        convert(joint, tmp_path / "a.tsv", field="slot")
    source = tmp_path / "a.txt"
    source.write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"a\.txt:1: no class, but format 'joint' has one in each line"):
        convert(source, tmp_path / "joint2")
    assert not (tmp_path / "joint2").exists()
    source.write_text('{"text": "a"}\n{"text": "a", "text_pair": "b"}\n')
    with pytest.raises(DataError, match=r"a\.txt:1: no second text, which other examples have"):
        convert(source, tmp_path / "c.tsv")


TEXT = st.text(st.sampled_from("ab \t\u3000北\u0301😀\n#\"'\u2028\x85[](){}:-|,\\"), min_size=1).filter(str.strip)
NAME = st.text(st.sampled_from("ab-_. #"), min_size=1).map(str.strip).filter(bool)


SOME = st.booleans()


@st.composite
def rows(draw, texts=TEXT, pairs=SOME, names=NAME):
    text = draw(texts)
    row = {"text": text}
    if draw(pairs):
        row["text_pair"] = draw(texts)
    elif draw(st.booleans()):
        row["context"] = draw(st.lists(texts, max_size=2))
        row["requested_slots"] = draw(st.lists(names, max_size=2))
    if draw(st.booleans()):
        row["intent"] = draw(st.one_of(names, st.lists(names, unique=True, max_size=2)))
    bounds = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    if draw(st.booleans()):
        pairs = zip(bounds[::2], bounds[1::2], strict=False)
        row["slots"] = [{"start": s, "end": e, "label": draw(names)} for s, e in pairs]
    return row


@given(data=st.lists(rows(), min_size=1, max_size=4), target=st.sampled_from(sorted(WRITERS)))
def test_convert_unreported_content_reads_back_equal(tmp_path_factory, data, target):
    folder = tmp_path_factory.mktemp("convert")
    source = folder / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in data))
    try:
        result = convert(source, folder / "out", target_format=target)
    except DataError:
        assert target not in ("jsonl", "conll", "palm", "text")
        return
    copies = read(target, folder / "out", result.options)
    assert len(copies) == len(data) == result.count
    if not result.losses:
        assert [plain(e) for e in copies] == [plain(e) for e in read("jsonl", source)]
    if target == "jsonl":
        assert not result.losses


@given(data=st.data(), name=st.sampled_from(sorted(WRITERS)))
def test_convert_to_jsonl_and_back_loses_nothing(tmp_path_factory, data, name):
    """Whatever was read from a file of any format: as jsonl it is the same, and from there in its own format again."""
    folder = tmp_path_factory.mktemp("round")
    plain_texts = TEXT.map(lambda text: re.sub(r"[\[\](){}]", "x", text))  # Rasa has no way to write these as text
    plain_names = NAME.map(lambda text: text.replace("#", "x"))  # joins several classes
    pairs = st.just(name == "squad")
    if name in ("tsv", "csv", "json", "parquet"):
        pairs = st.just(data.draw(st.booleans()))
    examples = data.draw(st.lists(rows(plain_texts, pairs, plain_names), min_size=1, max_size=4))
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples))
    target = "b.json#train" if name == "clinc" else "b"
    try:
        first = convert(folder / "a.jsonl", folder / target, target_format=name)
    except DataError:
        return
    read_first = read(name, folder / target, first.options)
    lines = convert(folder / target, folder / "c.jsonl", source_format=name, options=first.options)
    assert lines.losses == []
    assert [plain(e) for e in read("jsonl", folder / "c.jsonl")] == [plain(e) for e in read_first]
    again = convert(folder / "c.jsonl", folder / target.replace("b", "d"), target_format=name)
    assert again.losses == []
    copies = read(name, folder / target.replace("b", "d"), again.options)
    assert [plain(e) for e in copies] == [plain(e) for e in read_first]


SPANS = [
    {"start": 6, "end": 8, "label": "city", "role": "from", "group": "1"},
    {"start": 14, "end": 17, "label": "a b"},
]
FULL = {"text": 'from "öl" to, x 😀', "intent": "fly", "slots": SPANS}
QUESTION = {"text": "who?", "text_pair": "Ann and\tBob", "answer": [{"start": 0, "end": 3}, {"start": 8, "end": 11}]}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("a.yml", FULL),
        ("a.parquet", FULL),
        ("a.parquet", QUESTION | {"topics": ["x", "y"], "words": [[0, 3]]}),
        ("a.json", QUESTION),
        ("a.json", {"text": "who?", "text_pair": "nobody", "answer": []}),
        ("a.json", {"text": 'a\nb\t"c', "label": "x"}),
        ("a.csv", {"text": ' a\nb\t"c",\r\n', "text_pair": "d,e", "label": "x"}),
        ("a.json#train", {"text": "a\nb", "intent": "x y"}),
        ("a.txt", {"text": "a b"}),
    ],
)
def test_convert_every_format_has_expected_losses(tmp_path, name, row):
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps(row) + "\n")
    result = convert(source, tmp_path / name)
    assert [loss.kind for loss in result.losses] in (
        [],
        ["field 'slots': made up, the source has none here under this name"],
    )
    [copy] = read(result.target_format, tmp_path / name, result.options)
    [given] = read("jsonl", source)
    assert (copy.text, copy.pair) == (given.text, given.pair)
    assert {name: copy.fields[name] for name in given.fields} == given.fields


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("a.yml", [{"text": "a"}], r"source\.jsonl:1: no class, which format 'rasa' has for each example"),
        ("a.json#x", [{"text": "a"}], r"source\.jsonl:1: no class, which format 'clinc' has for each example"),
        (
            "a.parquet",
            [{"text": "a", "c": "x"}, {"text": "b", "c": ["y"]}],
            r"source\.jsonl:1: 'c' is one class, in other rows a list",
        ),
        ("a.json", [{"text": "a", "text_pair": "b", "answer": []}, {"text": "c"}], r"source\.jsonl:2: no passage"),
    ],
)
def test_convert_impossible_target_is_refused(tmp_path, name, rows, message):
    source = tmp_path / "source.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=message):
        convert(source, tmp_path / name)


def test_convert_clinc_target_names_its_split(tmp_path, joint):
    with pytest.raises(DataError, match=r"a: no split; format 'clinc' holds several, write the path as a#SPLIT"):
        convert(joint, tmp_path / "a", target_format="clinc")


def test_convert_rasa_annotation_in_text_is_reported(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"text": "see [a](b)", "intent": "x", "slots": []}) + "\n")
    assert [loss.kind for loss in convert(source, tmp_path / "a.yml").losses] == [
        TEXT_CHANGED,
        "field 'slots': changed",
    ]
    source.write_text(json.dumps({"text": "see [a]{b}", "intent": "x"}) + "\n")
    with pytest.raises(DataError, match="format 'rasa' cannot hold these examples: the written file cannot be read"):
        convert(source, tmp_path / "b.yml")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x", "x.json#train", "x.parquet", "x.yml"])
def test_convert_leaves_nothing_when_the_disk_is_full(tmp_path, joint, name):
    """The limit on file size fails a write as a full disk does, in a process of its own."""
    (joint / "seq.in").write_text("fly to rome\n" * 2000)
    (joint / "seq.out").write_text("O O B-city\n" * 2000)
    (joint / "label").write_text("".join(f"flight{number}\n" for number in range(2000)))
    folder = tmp_path / "small"
    folder.mkdir()
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from palm_trainer.cli.train import command, app; sys.exit(command(app, sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", code, "convert", str(joint), str(folder / name)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, list(folder.iterdir())) == (2, [])
    assert done.stderr.startswith(f"error: {folder / name.partition('#')[0]}: ")
    assert "File too large" in done.stderr


ROLES = [
    {"start": 5, "end": 7, "label": "city", "role": "from", "group": "1"},
    {"start": 11, "end": 13, "label": "city", "role": "to"},
]


@pytest.mark.parametrize(
    ("name", "target_format", "lost"),
    [
        ("b.yml", "rasa", 0),
        ("b.parquet", None, 0),
        ("b.jsonl", None, 0),
        ("b.conll", None, 4),
        ("b", "joint", 4),
        ("b.tsv", "palm", 4),
    ],
)
def test_convert_keeps_roles_or_counts_those_lost(tmp_path, name, target_format, lost):
    """From Rasa YAML and from old Rasa Markdown to every format that holds spans."""
    first, second = (
        json.dumps({"entity": span["label"], **{k: span[k] for k in ("role", "group") if k in span}}) for span in ROLES
    )
    text = f"from [c1]{first} to [c2]{second}"
    (tmp_path / "nlu.yml").write_text(
        f'version: "3.1"\nnlu:\n- intent: go\n  examples: |\n    - {text}\n    - now {text}\n'
    )
    (tmp_path / "nlu.md").write_text(f"## intent:go\n- {text}\n- now {text}\n")
    for source in ("nlu.yml", "nlu.md"):
        target = tmp_path / source.replace(".", "_") / name
        result = convert(tmp_path / source, target, target_format=target_format)
        losses = {
            loss.kind: loss.count for loss in result.losses if "intent" not in loss.kind and "slots" not in loss.kind
        }
        assert losses == ({ROLES_LOST: lost} if lost else {})
        copies = read(result.target_format, target, result.options)
        if not lost:
            assert [(s.label, s.role, s.group) for s in copies[0].fields["slots"]] == [
                ("city", "from", "1"),
                ("city", "to", ""),
            ]


VALUES_SOURCE = """{"values": {"city": {"New York": ["nyc", "big apple"], "Oslo": []}, "": {"Monday": ["mon"]}}}
{"patterns": {"zip": ["[0-9]{5}"], "code": ["[A-Z]{2}"]}}
{"text": "to nyc 10001", "intent": "fly", "slots": [{"start": 3, "end": 6, "label": "city"}, {"start": 7, "end": 12, "label": "zip"}]}
{"text": "stay", "intent": "stay", "slots": []}
"""


def values_of(path, format_name):
    defects = Defects()
    examples = list(FORMATS[format_name](path, FormatOptions(), defects))
    return examples, defects.values


@pytest.mark.parametrize(("target", "format_name"), [("b.jsonl", "jsonl"), ("b.yml", "rasa")])
def test_convert_writes_values_where_the_format_holds_them(target, format_name, tmp_path):
    (tmp_path / "a.jsonl").write_text(VALUES_SOURCE)
    report = convert(tmp_path / "a.jsonl", tmp_path / target)
    assert report.losses == []
    _, before = values_of(tmp_path / "a.jsonl", "jsonl")
    examples, after = values_of(tmp_path / target, format_name)
    assert [example.text for example in examples] == ["to nyc 10001", "stay"]
    old, new = KnownValues(before.by_slot(["city", "zip"])), KnownValues(after.by_slot(["city", "zip"]))
    for slot, text in (("city", "NYC"), ("city", "big apple"), ("city", "oslo"), ("zip", "mon"), ("city", "new york")):
        assert new.find(slot, text) == old.find(slot, text) is not None
    for slot, text in (("zip", "10001"), ("city", "AB"), ("zip", "AB")):
        assert new.match(slot, text) == old.match(slot, text) is not None
    assert new.match("city", "10001") is None
    if format_name == "jsonl":
        assert after.by_slot(["city", "zip"]) == before.by_slot(["city", "zip"])
        assert after.wordings("city") == before.wordings("city")


def test_convert_keeps_the_wordings_of_types(tmp_path):
    values = [{"name": {"value": "New York", "synonyms": ["nyc"]}}, {"name": {"value": "Boston"}}]
    intent = {"name": "fly", "slots": [{"name": "to", "type": "place"}], "samples": ["fly to {to}"]}
    model = {"intents": [intent], "types": [{"name": "place", "values": values}]}
    (tmp_path / "a.json").write_text(json.dumps({"interactionModel": {"languageModel": model}}))
    assert convert(tmp_path / "a.json", tmp_path / "b.jsonl").losses == []
    _, before = values_of(tmp_path / "a.json", "alexa")
    _, after = values_of(tmp_path / "b.jsonl", "jsonl")
    assert after.by_slot(["to"]) == before.by_slot(["to"])
    assert sorted(after.wordings("to")) == sorted(before.wordings("to")) == ["Boston", "New York", "nyc"]


def test_convert_tells_values_that_the_format_does_not_hold(tmp_path):
    (tmp_path / "a.jsonl").write_text(VALUES_SOURCE)
    losses = {defect.kind: defect.count for defect in convert(tmp_path / "a.jsonl", tmp_path / "b.json").losses}
    assert losses == {SYNONYM_LOST: 3, VALUE_LOST: 3, PATTERN_LOST: 2}


def test_rasa_holds_one_meaning_of_a_wording(tmp_path):
    values = {"values": {"size": {"L": ["large"]}, "mood": {"generous": ["large"]}}}
    spans = [{"start": 0, "end": 1, "label": "size"}, {"start": 2, "end": 3, "label": "mood"}]
    rows = [values, {"text": "a b", "intent": "x", "slots": spans}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    losses = convert(tmp_path / "a.jsonl", tmp_path / "b.yml").losses
    assert {loss.kind: loss.count for loss in losses} == {SYNONYM_LOST: 1, VALUE_LOST: 1}


def test_split_puts_values_into_train(tmp_path):
    rows = [*VALUES_SOURCE.splitlines()[:3], *(json.dumps({"text": f"row {n}", "slots": []}) for n in range(20))]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    convert_split(tmp_path / "a.jsonl", tmp_path / "out", {"dev": 0.5, "train": 0.5})
    held = {split: bool(values_of(tmp_path / f"out/{split}.jsonl", "jsonl")[1]) for split in ("train", "dev")}
    assert held == {"train": True, "dev": False}


def test_doccano_rows_without_spans_stay_rows_of_slots(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "hello", "slots": []}\n')
    made = convert(tmp_path / "a.jsonl", tmp_path / "b.jsonl", target_format="doccano")
    assert made.losses == []
    assert read("doccano", tmp_path / "b.jsonl", made.options)[0].fields == {"slots": ()}
